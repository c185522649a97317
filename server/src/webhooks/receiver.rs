//! A receiver as an owner could run it, for tests: it keeps what it was sent and answers what it is told to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hmac::{Hmac, Mac};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long anything is waited for.
const PATIENCE: Duration = Duration::from_secs(30);

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    Status(u16),
    Redirect(String),
    /// Takes the connection and the request, and says nothing.
    Nothing,
    /// 200 and a body that never ends.
    Endless,
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Received {
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    /// How many of the signatures are by this secret (`whsec_…`), by another implementation than the one that signs.
    pub(crate) fn signed_by(&self, secret: &str) -> usize {
        use base64::Engine;
        let base64 = base64::prelude::BASE64_STANDARD;
        let key = base64.decode(secret.strip_prefix("whsec_").unwrap()).unwrap();
        let of = |signature: &&str| {
            let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
            mac.update(format!("{}.{}.", self.headers["webhook-id"], self.headers["webhook-timestamp"]).as_bytes());
            mac.update(&self.body);
            mac.verify_slice(&base64.decode(signature.strip_prefix("v1,").unwrap()).unwrap()).is_ok()
        };
        self.headers["webhook-signature"].split(' ').filter(of).count()
    }
}

#[derive(Debug)]
struct Shared {
    answer: Answer,
    received: Vec<Received>,
    connections: usize,
    open: usize,
    most_open: usize,
}

/// Stops when dropped.
#[derive(Debug)]
pub(crate) struct Receiver {
    pub(crate) url: String,
    pub(crate) port: u16,
    shared: Arc<Mutex<Shared>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Receiver {
    pub(crate) async fn start(answer: Answer) -> Self {
        Self::start_at("127.0.0.1:0", answer).await
    }

    pub(crate) async fn start_at(address: &str, answer: Answer) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Mutex::new(Shared { answer, received: Vec::new(), connections: 0, open: 0, most_open: 0 }));
        let own = shared.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, own.clone()));
            }
        });
        Self { url: format!("http://{address}/hooks"), port: address.port(), shared, task }
    }

    pub(crate) fn answers(&self, answer: Answer) {
        self.shared.lock().unwrap().answer = answer;
    }

    pub(crate) fn received(&self) -> Vec<Received> {
        self.shared.lock().unwrap().received.clone()
    }

    pub(crate) fn connections(&self) -> usize {
        self.shared.lock().unwrap().connections
    }

    /// Most connections at the same time.
    pub(crate) fn most_open(&self) -> usize {
        self.shared.lock().unwrap().most_open
    }

    /// Waits for so many requests.
    pub(crate) async fn until(&self, count: usize) -> Vec<Received> {
        let begun = Instant::now();
        loop {
            let received = self.received();
            if received.len() >= count {
                return received;
            }
            assert!(begun.elapsed() < PATIENCE, "{} instead of {count} requests came", received.len());
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn serve(stream: TcpStream, shared: Arc<Mutex<Shared>>) {
    {
        let mut shared = shared.lock().unwrap();
        shared.connections += 1;
        shared.open += 1;
        shared.most_open = shared.most_open.max(shared.open);
    }
    // However the connection ends.
    let _ = answer(stream, &shared).await;
    shared.lock().unwrap().open -= 1;
}

async fn answer(mut stream: TcpStream, shared: &Mutex<Shared>) -> std::io::Result<()> {
    let received = read(&mut stream).await?;
    let answer = {
        let mut shared = shared.lock().unwrap();
        shared.received.push(received);
        shared.answer.clone()
    };
    match answer {
        Answer::Status(status) => {
            let text = format!("HTTP/1.1 {status} x\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
            stream.write_all(text.as_bytes()).await?;
        }
        Answer::Redirect(to) => {
            let text = format!("HTTP/1.1 307 x\r\nlocation: {to}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(text.as_bytes()).await?;
        }
        Answer::Nothing => {
            // Until the other side gives up.
            while stream.read_u8().await.is_ok() {}
        }
        Answer::Endless => {
            stream.write_all(b"HTTP/1.1 200 x\r\ncontent-length: 1000000000\r\n\r\n").await?;
            while stream.write_all(&[b'x'; 1 << 16]).await.is_ok() {}
        }
    }
    Ok(())
}

async fn read(stream: &mut TcpStream) -> std::io::Result<Received> {
    let mut bytes = Vec::new();
    let head = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    };
    let text = String::from_utf8_lossy(&bytes[..head]).into_owned();
    let headers: BTreeMap<String, String> = text
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes.split_off(head + 4);
    while body.len() < length {
        if stream.read_buf(&mut body).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Received { headers, body })
}
