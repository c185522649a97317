//! Empties one namespace of Redis: what a lost Redis looks like to one service, without disturbing the tests beside it.

use std::io::{Read, Write};
use std::net::TcpStream;

/// Deletes every key that begins with `namespace`. Speaks RESP over a plain socket: two commands need no library.
pub fn lose(url: &str, namespace: &str) -> u64 {
    let rest = url.strip_prefix("redis://").expect("a redis:// address");
    let (credentials, address) = rest.rsplit_once('@').map_or((None, rest), |(credentials, address)| (Some(credentials), address));
    let address = address.split('/').next().expect("an address");
    let mut stream = TcpStream::connect(address).expect("Redis answers");
    if let Some((_, password)) = credentials.and_then(|credentials| credentials.split_once(':')) {
        call(&mut stream, &["AUTH", password]);
    }
    let script = "local keys = redis.call('KEYS', ARGV[1]) for _, key in ipairs(keys) do redis.call('DEL', key) end return #keys";
    let answer = call(&mut stream, &["EVAL", script, "0", &format!("{namespace}*")]);
    answer.strip_prefix(':').and_then(|count| count.trim().parse().ok()).unwrap_or_else(|| panic!("Redis answered {answer}"))
}

fn call(stream: &mut TcpStream, words: &[&str]) -> String {
    let mut request = format!("*{}\r\n", words.len());
    for word in words {
        request.push_str(&format!("${}\r\n{word}\r\n", word.len()));
    }
    stream.write_all(request.as_bytes()).expect("Redis takes a command");
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n") {
        stream.read_exact(&mut byte).expect("Redis answers");
        answer.push(byte[0]);
    }
    String::from_utf8_lossy(&answer).into_owned()
}
