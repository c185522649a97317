//! An HTTP/1.1 listener that answers each request by a closure of the test.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A request as it came over the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// Method and target, such as `GET /v1/wallet`.
    pub(crate) line: String,
    /// Names in lower case.
    pub(crate) headers: HashMap<String, String>,
    pub(crate) body: Vec<u8>,
}

#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Full {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// The connection ends without an answer.
    Hangup,
    /// The first `sent` bytes of a body that is announced longer.
    Cut {
        announced: usize,
        body: Vec<u8>,
    },
}

impl Answer {
    pub(crate) fn json(status: u16, body: &impl serde::Serialize) -> Self {
        Self::Full { status, headers: vec![("content-type", "application/json".into())], body: serde_json::to_vec(body).unwrap() }
    }

    pub(crate) fn bytes(body: impl Into<Vec<u8>>) -> Self {
        Self::Full { status: 200, headers: Vec::new(), body: body.into() }
    }

    pub(crate) fn problem(code: protocol::ErrorCode) -> Self {
        Self::json(code.status(), &protocol::Problem::new(code, protocol::RequestId::from_bytes([7; 16])))
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Self::Full { headers, .. } = &mut self {
            headers.push((name, value.to_owned()));
        }
        self
    }
}

/// The listener; requests are kept in the order in which they came.
#[derive(Debug)]
pub(crate) struct Listener {
    pub(crate) address: String,
    requests: Arc<Mutex<Vec<Request>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Listener {
    pub(crate) async fn start(answer: impl Fn(usize, &Request) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), Arc::new(answer));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, Arc::clone(&seen), Arc::clone(&answer)));
            }
        });
        Self { address, requests, task }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn serve(mut stream: TcpStream, seen: Arc<Mutex<Vec<Request>>>, answer: Arc<impl Fn(usize, &Request) -> Answer>) {
    let Some(request) = read_request(&mut stream).await else { return };
    let index = {
        let mut seen = seen.lock().unwrap();
        seen.push(request.clone());
        seen.len() - 1
    };
    let (status, headers, announced, body) = match answer(index, &request) {
        Answer::Hangup => return,
        Answer::Cut { announced, body } => (200, Vec::new(), announced, body),
        Answer::Full { status, headers, body } => (status, headers, body.len(), body),
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\ncontent-length: {announced}\r\nconnection: close\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

async fn read_request(stream: &mut TcpStream) -> Option<Request> {
    let mut bytes = Vec::new();
    let head_end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..head_end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next()?.trim_end_matches(" HTTP/1.1").to_owned();
    let headers: HashMap<String, String> =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
    let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = bytes[head_end + 4..].to_vec();
    while body.len() < length {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            // Cut off: what came is still worth looking at.
            break;
        }
    }
    Some(Request { line, headers, body })
}
