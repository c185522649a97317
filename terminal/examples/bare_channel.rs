//! What the data-channel library moves by itself between two processes over loopback: one connection, one ordered and reliable channel, one direction, a
//! UDP socket and a thread at each end. The yardstick of `cargo xtask bench goodput`.
//!
//! `cargo run --release -p terminal --example bare_channel -- [MiB]`
//!
//! The library `rtc` does no I/O of its own, so some loop must drive it. This one hands over what has come, sends what is to be sent, and waits for nothing
//! but packets and timers: no pacing, no receipts, no disk, no other links. It has what our own links have: their window and packet length, messages as long
//! as the longest piece of a chunk, as much unacknowledged at a time, and the same batches of packets to and from the kernel. So it measures what our programs add.
//!
//! Prints one JSON object: the bytes behind the first message and the seconds from that message to the last, both at the receiving end; and the processor
//! seconds of both ends from their channel's opening until then.

use std::collections::VecDeque;
use std::error::Error;
use std::io::{BufRead, BufReader, IoSliceMut, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use protocol::frame::PAYLOAD_MAX;
use quinn_udp::{RecvMeta, Transmit, UdpSockRef, UdpSocketState};
use rtc::data_channel::RTCDataChannelId;
use rtc::dtls::cipher_suite::CipherSuiteId;
use rtc::ice::candidate::CandidateConfig;
use rtc::ice::candidate::candidate_host::CandidateHostConfig;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::setting_engine::SettingEngineBuilder;
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::transport::{RTCIceCandidate, RTCIceCandidateInit};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use serde_json::{Value, json};
use socket2::SockRef;
use terminal::link::LinkConfig;
use tokio::io::Interest;
use tokio::net::UdpSocket;

/// Messages per read, and the bytes of each: the kernel puts packets of one sender together up to the longest IP packet.
const READ_MESSAGES: usize = 16;
const READ_BYTES: usize = 64 << 10;
/// Packets handed to the kernel together, less than the longest IP packet.
const RUN_PACKETS_MAX: usize = 44;
const RUN_BYTES_MAX: usize = 60 << 10;
/// No timer of the protocols is finer.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);
/// Nothing comes for so long: the other end is gone.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// The unit of the times in `/proc/self/stat`; fixed at 100 per second on Linux.
const TICKS_PER_SECOND: f64 = 100.0;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// User and system time of this process, in seconds.
fn cpu_seconds() -> Outcome<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    // Fields 14 and 15, counted behind the command's closing bracket, which is field 2.
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks: u32 = fields.get(11..13).ok_or("short /proc/self/stat")?.iter().map(|field| field.parse().unwrap_or(0)).sum();
    Ok(f64::from(ticks) / TICKS_PER_SECOND)
}

/// One end: the library's connection and its socket.
struct End {
    core: RTCPeerConnection,
    socket: UdpSocket,
    state: UdpSocketState,
    local: SocketAddr,
    channel: Option<RTCDataChannelId>,
    is_open: bool,
    buffers: Vec<Vec<u8>>,
    run: Vec<u8>,
    outbox: VecDeque<TaggedBytesMut>,
    heard: Instant,
}

impl End {
    fn new() -> Outcome<Self> {
        let config = LinkConfig::default();
        let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        let window = usize::try_from(config.window_bytes)?;
        SockRef::from(&socket).set_recv_buffer_size(2 * window)?;
        SockRef::from(&socket).set_send_buffer_size(2 * window)?;
        socket.set_nonblocking(true)?;
        let local = socket.local_addr()?;
        let socket = UdpSocket::from_std(socket)?;
        let state = UdpSocketState::new(UdpSockRef::from(&socket))?;
        let engine = SettingEngineBuilder::new()
            .with_crypto_provider(rtc::crypto::default_provider()?)
            .with_sctp_max_receive_buffer_size(config.window_bytes)
            .with_sctp_mtu(config.packet_bytes)
            .with_include_loopback_candidate(true)
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            // With the RSA suites of the default list the handshake of two ECDSA certificates hangs. Links use these two.
            .with_dtls_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
            ])
            .build();
        let core = RTCPeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_setting_engine(engine)
            .build(Instant::now())?;
        let buffers = vec![vec![0; READ_BYTES]; READ_MESSAGES];
        let (run, outbox, heard) = (Vec::with_capacity(RUN_BYTES_MAX), VecDeque::new(), Instant::now());
        Ok(Self { core, socket, state, local, channel: None, is_open: false, buffers, run, outbox, heard })
    }

    /// Offers a channel, or answers `offer`: the whole description, with the one candidate that there is.
    fn describe(&mut self, offer: Option<String>) -> Outcome<String> {
        let own = match offer {
            None => {
                self.channel = Some(self.core.create_data_channel("bare", None)?.id());
                self.core.create_offer(None)?
            }
            Some(offer) => {
                self.core.set_remote_description(Instant::now(), RTCSessionDescription::offer(offer)?)?;
                self.core.create_answer(None)?
            }
        };
        self.core.set_local_description(Instant::now(), own)?;
        let base_config = CandidateConfig {
            network: "udp".to_owned(),
            address: self.local.ip().to_string(),
            port: self.local.port(),
            component: 1,
            ..CandidateConfig::default()
        };
        let candidate = CandidateHostConfig { base_config, ..CandidateHostConfig::default() }.new_candidate_host()?;
        self.core.add_local_candidate(RTCIceCandidate::from(&candidate).to_json()?)?;
        self.core.add_local_candidate(RTCIceCandidateInit::default())?;
        Ok(self.core.local_description().ok_or("no description")?.sdp)
    }

    /// One turn: what has come goes in, timers run, what is to be sent goes out. Returns whether anything came.
    fn turn(&mut self) -> Outcome<bool> {
        let came = self.read()?;
        let now = Instant::now();
        if self.core.poll_timeout().is_some_and(|due| due <= now) {
            self.core.handle_timeout(now)?;
        }
        while let Some(event) = self.core.poll_event() {
            if let RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) = event {
                (self.channel, self.is_open) = (Some(id), true);
            }
        }
        self.flush()?;
        Ok(came)
    }

    fn read(&mut self) -> Outcome<bool> {
        let mut came = false;
        loop {
            let mut metas = [RecvMeta::default(); READ_MESSAGES];
            let mut slices: Vec<IoSliceMut<'_>> = self.buffers.iter_mut().map(|buffer| IoSliceMut::new(buffer)).collect();
            let read = || self.state.recv(UdpSockRef::from(&self.socket), &mut slices, &mut metas);
            let messages = match self.socket.try_io(Interest::READABLE, read) {
                Ok(messages) => messages,
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(came),
                Err(error) => return Err(error.into()),
            };
            let now = Instant::now();
            for (meta, buffer) in metas.iter().zip(&self.buffers).take(messages) {
                let transport = TransportContext {
                    local_addr: self.local,
                    peer_addr: meta.addr,
                    transport_protocol: TransportProtocol::UDP,
                    ecn: None,
                };
                for packet in buffer[..meta.len].chunks(meta.stride.max(1)) {
                    // A packet that the library does not take is one that was lost.
                    let _ = self.core.handle_read(TaggedBytesMut { now, transport, message: BytesMut::from(packet) });
                }
            }
            (came, self.heard) = (true, now);
        }
    }

    /// Sends what the library wants to send, as far as the socket takes it.
    fn flush(&mut self) -> Outcome {
        loop {
            while let Some(packet) = self.core.poll_write() {
                self.outbox.push_back(packet);
            }
            let Some(first) = self.outbox.front() else { return Ok(()) };
            let (segment, destination) = (first.message.len(), first.transport.peer_addr);
            let packets_max = self.state.max_gso_segments().min(RUN_PACKETS_MAX);
            let mut count = 0;
            self.run.clear();
            for packet in self.outbox.iter().take(packets_max) {
                let length = packet.message.len();
                if packet.transport.peer_addr != destination || length > segment || self.run.len() + length > RUN_BYTES_MAX {
                    break;
                }
                self.run.extend_from_slice(&packet.message);
                count += 1;
                if length < segment {
                    break;
                }
            }
            let segment_size = (count > 1).then_some(segment);
            let transmit = Transmit { destination, ecn: None, contents: &self.run, segment_size, src_ip: None };
            match self.socket.try_io(Interest::WRITABLE, || self.state.try_send(UdpSockRef::from(&self.socket), &transmit)) {
                Ok(()) => drop(self.outbox.drain(..count)),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits for a packet, for room in the socket if it was full, or for the library's next timer.
    async fn wait(&mut self) -> Outcome {
        let now = Instant::now();
        if now > self.heard + SILENCE_MAX {
            return Err("the other end is silent".into());
        }
        let due = self.core.poll_timeout().map_or(now + SILENCE_MAX, |due| due.max(now + TIMER_RESOLUTION)).min(now + SILENCE_MAX);
        let interest = if self.outbox.is_empty() { Interest::READABLE } else { Interest::READABLE | Interest::WRITABLE };
        tokio::select! {
            ready = self.socket.ready(interest) => drop(ready?),
            () = tokio::time::sleep_until(due.into()) => {}
        }
        Ok(())
    }

    async fn opened(&mut self) -> Outcome {
        loop {
            self.turn()?;
            if self.is_open {
                return Ok(());
            }
            self.wait().await?;
        }
    }

    fn next_message(&mut self) -> Option<usize> {
        let read = self.core.poll_data_read().or_else(|| self.core.poll_read());
        if let RTCMessage::DataChannelMessage(_, message) = read?.message { Some(message.data.len()) } else { None }
    }
}

/// Sends `total` bytes and waits until the other end has acknowledged them.
async fn send(end: &mut End, total: usize) -> Outcome {
    let unacknowledged_max = LinkConfig::default().send_buffer_bytes;
    let message = Bytes::from(vec![7; PAYLOAD_MAX]);
    let channel = end.channel.ok_or("no channel")?;
    let mut sent = 0;
    loop {
        let came = end.turn()?;
        let mut data = end.core.data_channel(channel).ok_or("the channel is gone")?;
        if sent == total && data.outstanding_bytes() == 0 {
            return Ok(());
        }
        let before = sent;
        while sent < total && data.outstanding_bytes() < unacknowledged_max {
            data.send(Instant::now(), BytesMut::from(&message[..]))?;
            sent += message.len();
        }
        end.flush()?;
        if !came && sent == before {
            end.wait().await?;
        }
    }
}

/// Receives `total` bytes. Answers how many came behind the first message, and in what time.
async fn receive(end: &mut End, total: usize) -> Outcome<(usize, Duration)> {
    let (mut received, mut first) = (0, None);
    loop {
        let came = end.turn()?;
        while let Some(bytes) = end.next_message() {
            received += bytes;
            first.get_or_insert_with(|| (bytes, Instant::now()));
        }
        // What was read makes room in the window, which the library tells the other end.
        end.flush()?;
        if received >= total {
            let (bytes, at) = first.ok_or("nothing came")?;
            return Ok((received - bytes, at.elapsed()));
        }
        if !came {
            end.wait().await?;
        }
    }
}

/// The receiving process, driven over its standard input and output: a JSON value a line.
struct Remote {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Remote {
    fn start(mib: usize) -> Outcome<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut child = command.args(["receive", &mib.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let lines = BufReader::new(child.stdout.take().ok_or("no output")?).lines();
        Ok(Self { child, lines })
    }

    fn tell(&mut self, value: &Value) -> Outcome {
        let input = self.child.stdin.as_mut().ok_or("no input")?;
        writeln!(input, "{value}")?;
        Ok(input.flush()?)
    }

    fn hear(&mut self) -> Outcome<Value> {
        Ok(serde_json::from_str(&self.lines.next().ok_or("the other end is gone")??)?)
    }
}

async fn sending_end(mib: usize) -> Outcome {
    let mut remote = Remote::start(mib)?;
    let mut end = End::new()?;
    let offer = end.describe(None)?;
    remote.tell(&json!(offer))?;
    let answer = remote.hear()?.as_str().ok_or("no answer")?.to_owned();
    end.core.set_remote_description(Instant::now(), RTCSessionDescription::answer(answer)?)?;
    end.opened().await?;
    let before = cpu_seconds()?;
    send(&mut end, mib << 20).await?;
    let sender_cpu_s = cpu_seconds()? - before;
    let mut figures = remote.hear()?;
    figures["sender_cpu_s"] = json!(sender_cpu_s);
    figures["window_bytes"] = json!(LinkConfig::default().window_bytes);
    remote.child.kill()?;
    remote.child.wait()?;
    println!("{figures}");
    Ok(())
}

async fn receiving_end(mib: usize) -> Outcome {
    let mut lines = std::io::stdin().lines();
    let mut end = End::new()?;
    let offer: String = serde_json::from_str(&lines.next().ok_or("no offer")??)?;
    println!("{}", json!(end.describe(Some(offer))?));
    end.opened().await?;
    let before = cpu_seconds()?;
    let (bytes, elapsed) = receive(&mut end, mib << 20).await?;
    println!("{}", json!({ "bytes": bytes, "seconds": elapsed.as_secs_f64(), "receiver_cpu_s": cpu_seconds()? - before }));
    // The last acknowledgements are still to go; the other end ends this process when it has them.
    loop {
        end.wait().await?;
        end.turn()?;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let mut arguments = std::env::args().skip(1).peekable();
    let is_receiving = arguments.next_if(|first| first == "receive").is_some();
    let mib = arguments.next().map_or(Ok(256), |text| text.parse::<usize>())?;
    if mib == 0 {
        return Err("at least 1 MiB".into());
    }
    if is_receiving { receiving_end(mib).await } else { sending_end(mib).await }
}
