//! A private Redis without persistence: what it holds, terminals can tell again.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

use crate::children::{Child, Ending, Launch, Output};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::services::instance::Instance;
use crate::services::{ports, secret};

const READY_DEADLINE: Duration = Duration::from_secs(30);
/// For one answer of a server on this machine.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// A running private Redis.
#[derive(Debug)]
pub(crate) struct Redis {
    port: u16,
    password: String,
    _server: Child,
}

impl Redis {
    /// Starts it on a free loopback port and waits until it answers.
    pub(crate) fn start(program: &Path, instance: &Instance, interrupt: &Interrupt) -> Result<Self, Failure> {
        let password = secret::generate()?;
        let (port, server) = ports::with_free(|port| Ok((port, serve(program, instance, port, &password, interrupt)?)))?;
        Ok(Self { port, password, _server: server })
    }

    /// Its address. The user is named because some clients take an absent one for an empty name.
    pub(crate) fn url(&self) -> String {
        format!("redis://default:{}@127.0.0.1:{}/", self.password, self.port)
    }
}

fn serve(program: &Path, instance: &Instance, port: u16, password: &str, interrupt: &Interrupt) -> Result<Child, Failure> {
    let log = Output::Log(instance.logs().join("redis.log"));
    let ending = Ending::terminate(Duration::from_secs(5));
    // The configuration goes through standard input: the password is neither in a file nor in the list of processes.
    let mut launch = Launch::new("Redis", program, instance.account(), ending, log).input(configuration(port, password));
    launch.command.arg("-").current_dir(instance.data()).env("HOME", instance.data());
    let mut server = launch.start(interrupt)?;
    server.ready_within(READY_DEADLINE, || answers(port, password).then_some(()))?;
    Ok(server)
}

fn configuration(port: u16, password: &str) -> String {
    format!(
        "bind 127.0.0.1\nport {port}\nrequirepass {password}\nsave \"\"\nappendonly no\ndaemonize no\ndatabases 16\nmaxmemory 512mb\n\
         maxmemory-policy noeviction\n"
    )
}

/// Whether the server on this port is ours (it takes the password) and works.
fn answers(port: u16, password: &str) -> bool {
    let exchange = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), ANSWER_TIMEOUT)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
        stream.write_all(format!("AUTH {password}\r\nPING\r\nQUIT\r\n").as_bytes())?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    exchange().is_ok_and(|answer| answer.starts_with("+OK\r\n+PONG\r\n"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that gives one answer, whatever it is asked.
    fn answering(answer: &'static str) -> u16 {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut request = [0; 256];
            let _ = stream.read(&mut request).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        });
        port
    }

    #[test]
    fn only_a_redis_that_takes_our_password_is_ready() {
        assert!(answers(answering("+OK\r\n+PONG\r\n+OK\r\n"), "secret"));
        assert!(!answers(answering("-WRONGPASS invalid username-password pair\r\n+PONG\r\n"), "secret"));
        assert!(!answers(answering("-LOADING Redis is loading the dataset in memory\r\n"), "secret"));
        assert!(!answers(ports::free().unwrap(), "secret"), "nothing listens there");
    }
}
