//! Paths that do not carry long packets and say nothing of it.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::net::UdpSocket;

use super::*;

/// UDP payload that every IPv6 path has room for.
const LEAST: usize = 1_280 - 28;
/// And a common tunnel; 8 more, because over loopback links use AES-GCM.
const TUNNEL: usize = 1_420 - 28 + 8;
const ANY: usize = usize::MAX;

/// Stands between two terminals: each finds the address of a proxy in the other's description.
struct Between {
    /// What stands for each, and what it really listens on.
    ends: [(UdpSocket, Mutex<Option<SocketAddr>>); 2],
    /// The longest packets to it that are not dropped.
    takes: [usize; 2],
    dropped: AtomicUsize,
    longest: AtomicUsize,
}

impl Between {
    async fn new(takes: [usize; 2]) -> Arc<Self> {
        let socket = async || UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let ends = [(socket().await, Mutex::default()), (socket().await, Mutex::default())];
        Arc::new(Self { ends, takes, dropped: AtomicUsize::new(0), longest: AtomicUsize::new(0) })
    }

    /// Puts the proxy's port into a description of terminal `end`, which has one candidate.
    fn change(&self, end: usize, sdp: &str) -> String {
        let (proxy, real) = &self.ends[end];
        let port = proxy.local_addr().unwrap().port().to_string();
        let line = |line: &str| {
            let Some(candidate) = line.strip_prefix("a=candidate:") else { return line.to_owned() };
            let mut words: Vec<&str> = candidate.split(' ').collect();
            *real.lock().unwrap() = Some(format!("{}:{}", words[4], words[5]).parse().unwrap());
            words[5] = &port;
            format!("a=candidate:{}", words.join(" "))
        };
        sdp.lines().map(|text| line(text) + "\r\n").collect()
    }

    /// Carries what is sent to terminal `end`, from the other one's proxy.
    async fn carry(self: Arc<Self>, end: usize) {
        let mut packet = vec![0; 65_536];
        loop {
            let (length, _) = self.ends[end].0.recv_from(&mut packet).await.unwrap();
            if length > self.takes[end] {
                self.dropped.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            self.longest.fetch_max(length, Ordering::Relaxed);
            let to = *self.ends[end].1.lock().unwrap();
            if let Some(to) = to {
                self.ends[1 - end].0.send_to(&packet[..length], to).await.unwrap();
            }
        }
    }
}

/// Answers the longest packet that was carried.
async fn a_chunk_comes_over(takes: [usize; 2]) -> usize {
    let between = Between::new(takes).await;
    let carriers = [tokio::spawn(Arc::clone(&between).carry(0)), tokio::spawn(Arc::clone(&between).carry(1))];
    let timing = LinksTiming { hello: Duration::from_millis(500), ..timing() };
    let [mut a, mut b] = [1, 2].map(|byte| terminal_with(byte, RateLimiter::unlimited(), timing.clone()));
    let changing = Arc::clone(&between);
    let _switchboard = Switchboard::with(&[(1, &a), (2, &b)], move |from, signal| {
        let change = |sdp: String| changing.change(usize::from(from == id(2)), &sdp);
        match signal {
            Signal::Offer { session, sdp } => Signal::Offer { session, sdp: change(sdp) },
            Signal::Answer { session, sdp } => Signal::Answer { session, sdp: change(sdp) },
            Signal::Decline { session } => Signal::Decline { session },
        }
    });
    a.plan(1, &[2]).await;
    b.plan(1, &[1]).await;
    // What is sent into a link that is lost again is sent into the next one.
    let came = async {
        loop {
            let link = a.up(2).await;
            if let Some(slot) = link.reserve() {
                slot.send(job(&chunk(7, 50_000)));
            }
            if let Ok(inbound) = tokio::time::timeout(Duration::from_secs(1), b.swarm.frames.recv()).await {
                return inbound.unwrap().frame;
            }
        }
    };
    let frame = tokio::time::timeout(PATIENCE, came).await.expect("nothing came over");
    assert_eq!(frame, chunk(7, 50_000));
    assert!(between.dropped.load(Ordering::Relaxed) > 0, "the path took long packets");
    carriers.iter().for_each(tokio::task::JoinHandle::abort);
    between.longest.load(Ordering::Relaxed)
}

#[tokio::test]
async fn a_path_that_takes_no_long_packets_is_used_with_short_ones() {
    assert!(a_chunk_comes_over([LEAST, LEAST]).await <= LEAST);
}

#[tokio::test]
async fn one_that_takes_none_in_one_direction_is_used_with_short_ones_whoever_offers() {
    a_chunk_comes_over([ANY, LEAST]).await;
    a_chunk_comes_over([LEAST, ANY]).await;
}

#[tokio::test]
async fn a_tunnel_is_used_with_packets_that_fill_it() {
    let longest = a_chunk_comes_over([TUNNEL, TUNNEL]).await;
    assert!((TUNNEL - 4..=TUNNEL).contains(&longest), "{longest} bytes at most");
}
