//! Measures links over loopback between two processes: set-up time, throughput, processor time per GiB, memory.
//!
//! `cargo run -p terminal --example link_bench -- [MiB per link] [links] [idle seconds]`
//!
//! Environment: `LINK_BENCH_WINDOW`, `LINK_BENCH_PACKET` and `LINK_BENCH_MESSAGE` set the window, the packet length and the message length in bytes,
//! `LINK_BENCH_MBIT` limits all links together, `LINK_BENCH_ALL_INTERFACES` binds every interface instead of loopback, and `LINK_BENCH_REMOTE` is a
//! command that runs the other end elsewhere (`ip netns exec b`).

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::num::ParseIntError;
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::BitsPerSecond;
use terminal::link::{BindPolicy, Endpoint, Link, LinkConfig};
use terminal::rate::RateLimiter;

const MESSAGE_BYTES: usize = 64 << 10;
const SETUP: Duration = Duration::from_secs(60);
/// The unit of the times in `/proc/self/stat`; fixed at 100 per second on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

type Outcome = Result<(), Box<dyn Error>>;

fn endpoint() -> Result<Endpoint, Box<dyn Error>> {
    let bind = if std::env::var_os("LINK_BENCH_ALL_INTERFACES").is_some() {
        BindPolicy::Interfaces
    } else {
        BindPolicy::Only(vec!["127.0.0.1".parse()?])
    };
    let mut config = LinkConfig { bind, include_loopback: true, ..LinkConfig::default() };
    if let Some(bytes) = setting("LINK_BENCH_WINDOW")? {
        config.window_bytes = bytes;
        config.send_buffer_bytes = bytes as usize;
    }
    config.packet_bytes = setting("LINK_BENCH_PACKET")?.unwrap_or(config.packet_bytes);
    Ok(Endpoint::new(config)?)
}

/// The number in an environment variable.
fn setting<T: FromStr<Err = ParseIntError>>(name: &str) -> Result<Option<T>, ParseIntError> {
    std::env::var(name).ok().map(|text| text.parse()).transpose()
}

/// User and system time of this process, in seconds.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 14 and 15, counted behind the command's closing bracket, which is field 2.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u32 = fields.get(11..13).ok_or("short /proc/self/stat")?.iter().map(|field| field.parse().unwrap_or(0)).sum();
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
}

/// A line of `/proc/self/status` in MB.
fn memory_mb(key: &str) -> Result<f64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix(key)).ok_or("no such line in /proc/self/status")?;
    let kib: u32 = line.trim_start_matches(':').trim().trim_end_matches(" kB").parse()?;
    Ok(f64::from(kib) * 1024.0 / 1e6)
}

/// The other end, driven over its standard input and output: one description per line, line breaks escaped.
struct Remote {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Remote {
    fn start() -> Result<Self, Box<dyn Error>> {
        let program = std::env::current_exe()?.display().to_string();
        let elsewhere = std::env::var("LINK_BENCH_REMOTE").unwrap_or_default();
        let mut words = elsewhere.split_whitespace().chain([program.as_str(), "receive"]);
        let mut command = Command::new(words.next().ok_or("no command")?);
        let mut child = command.args(words).args(std::env::args().skip(1)).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn tell(&mut self, line: &str) -> Outcome {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{line}")?;
        Ok(input.flush()?)
    }

    fn hear(&mut self) -> Result<String, Box<dyn Error>> {
        Ok(self.lines.next().ok_or("the other end is gone")??)
    }
}

async fn send_all(link: Link, total: usize, message: Bytes, limiter: RateLimiter) -> Result<Link, String> {
    for _ in 0..total / message.len() {
        limiter.acquire(message.len()).await;
        link.send(BytesMut::from(&message[..])).await.map_err(|error| error.to_string())?;
    }
    Ok(link)
}

async fn receive_all(mut link: Link, total: usize) -> Result<Link, String> {
    let mut received = 0;
    while received < total {
        received += link.recv().await.map_err(|error| error.to_string())?.len();
    }
    Ok(link)
}

async fn sending_end(total: usize, links: usize, idle: u64) -> Outcome {
    let mut remote = Remote::start()?;
    let endpoint = endpoint()?;
    let empty_mb = memory_mb("VmRSS")?;
    let start = Instant::now();
    let cpu_before = cpu_seconds()?;
    let mut pending = Vec::new();
    for _ in 0..links {
        let (half_open, offer) = endpoint.offer().await?;
        remote.tell(&serde_json::to_string(&offer)?)?;
        pending.push(half_open);
    }
    let mut opening = Vec::new();
    for half_open in pending {
        let answer: String = serde_json::from_str(&remote.hear()?)?;
        opening.push(tokio::spawn(async move { half_open.complete(Some(&answer), tokio::time::Instant::now() + SETUP).await }));
    }
    let mut open = Vec::new();
    for link in opening {
        open.push(link.await??);
    }
    println!(
        "set-up: {links} links in {:.0} ms, {:.3} s of processor time here",
        start.elapsed().as_secs_f64() * 1e3,
        cpu_seconds()? - cpu_before
    );
    println!("window {} KiB; {:.0} KB per idle link", endpoint.window_bytes() >> 10, (memory_mb("VmRSS")? - empty_mb) * 1e3 / links as f64);
    if idle > 0 {
        let before = cpu_seconds()?;
        tokio::time::sleep(Duration::from_secs(idle)).await;
        println!("idle: {:.2} % of a processor for {links} links", (cpu_seconds()? - before) / idle as f64 * 1e2);
    }
    let (start, before) = (Instant::now(), cpu_seconds()?);
    let message = Bytes::from(vec![7; setting("LINK_BENCH_MESSAGE")?.unwrap_or(MESSAGE_BYTES)]);
    let limiter = RateLimiter::new(BitsPerSecond::from_mbit(setting("LINK_BENCH_MBIT")?.unwrap_or(0)));
    let sending: Vec<_> = open.into_iter().map(|link| tokio::spawn(send_all(link, total, message.clone(), limiter.clone()))).collect();
    let mut open = Vec::new();
    for link in sending {
        open.push(link.await??);
    }
    let receiver = remote.hear()?;
    let (seconds, bytes) = (start.elapsed().as_secs_f64(), (total * links) as f64);
    let per_gib = (cpu_seconds()? - before) / (bytes / f64::from(1 << 30));
    println!(
        "sender:   {:.0} MB/s, {per_gib:.1} s of processor time per GiB, peak memory {:.0} MB",
        bytes / seconds / 1e6,
        memory_mb("VmHWM")?
    );
    println!("{receiver}");
    for link in open {
        link.close().await;
    }
    remote.child.wait()?;
    Ok(())
}

async fn receiving_end(total: usize, links: usize) -> Outcome {
    let mut opening = Vec::new();
    let mut lines = std::io::stdin().lines();
    for _ in 0..links {
        // Two endpoints have one link between them.
        let endpoint = endpoint()?;
        let offer: String = serde_json::from_str(&lines.next().ok_or("no offer")??)?;
        let (half_open, answer) = endpoint.accept(&offer).await?;
        println!("{}", serde_json::to_string(&answer)?);
        opening.push(tokio::spawn(async move { half_open.complete(None, tokio::time::Instant::now() + SETUP).await }));
    }
    let mut open = Vec::new();
    for link in opening {
        open.push(link.await??);
    }
    let before = cpu_seconds()?;
    let receiving: Vec<_> = open.into_iter().map(|link| tokio::spawn(receive_all(link, total))).collect();
    let mut open = Vec::new();
    for link in receiving {
        open.push(link.await??);
    }
    let per_gib = (cpu_seconds()? - before) / ((total * links) as f64 / f64::from(1 << 30));
    println!("receiver: {per_gib:.1} s of processor time per GiB, peak memory {:.0} MB", memory_mb("VmHWM")?);
    for mut link in open {
        // Until the sending end has read the figures and closed.
        let _ = link.recv().await;
    }
    Ok(())
}

fn number(arguments: &[String], at: usize, default: usize) -> usize {
    arguments.get(at).and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[tokio::main]
async fn main() -> Outcome {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let receiving = arguments.first().is_some_and(|first| first == "receive");
    if receiving {
        arguments.remove(0);
    }
    let message_bytes = setting("LINK_BENCH_MESSAGE")?.unwrap_or(MESSAGE_BYTES);
    let total = (number(&arguments, 0, 256) << 20) / message_bytes * message_bytes;
    let (links, idle) = (number(&arguments, 1, 1), number(&arguments, 2, 0));
    if receiving { receiving_end(total, links).await } else { sending_end(total, links, idle as u64).await }
}
