//! What STUN and TURN servers know of this machine: how its sockets look from outside, and addresses of theirs that pass packets on (RFC 8489,
//! RFC 8656). One client per socket and server serves all links of the hub.

mod exchange;
mod login;
mod relay;

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc::crypto::RTCCryptoProvider;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use rtc::stun::message::{
    BINDING_REQUEST, CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Getter, Message, TransactionId,
    is_stun_message,
};
use rtc::stun::xoraddr::XorMappedAddress;
use rtc::turn::proto::chandata::ChannelData;

use self::exchange::Exchange;
use self::login::Refusal;
use self::relay::Relay;
use super::super::warnings::Warnings;
use super::candidates;

/// A NAT forgets a mapping after 30 seconds without packets at the earliest (RFC 4787 asks for two minutes, and not all keep to it), so an older answer of a
/// STUN server is asked for again. A server that did not answer has as long to recover.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(25);

/// A server, with its name resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in super::super) struct Server {
    pub(in super::super) address: SocketAddr,
    /// Of a TURN server; a STUN server asks for none.
    pub(in super::super) credentials: Option<Credentials>,
}

#[derive(Clone, PartialEq, Eq)]
pub(in super::super) struct Credentials {
    pub(in super::super) username: String,
    pub(in super::super) password: String,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Credentials").field("username", &self.username).finish_non_exhaustive()
    }
}

enum Client {
    /// Asks how the socket looks from outside.
    Mapping(Mapping),
    /// Has an address that passes packets on.
    Relay(Box<Relay>),
}

/// A STUN server's answer.
#[derive(Default)]
struct Mapping {
    exchange: Exchange<()>,
    out: Vec<Vec<u8>>,
    mapped: Option<SocketAddr>,
}

struct Known {
    client: Client,
    local: SocketAddr,
    server: SocketAddr,
    asked_at: Instant,
}

pub(super) struct Servers {
    known: Vec<Known>,
    crypto: Arc<dyn RTCCryptoProvider>,
    warnings: Warnings,
}

impl Servers {
    pub(super) fn new(crypto: Arc<dyn RTCCryptoProvider>, warnings: Warnings) -> Self {
        Self { known: Vec::new(), crypto, warnings }
    }

    /// Asks each server for each socket of its family, unless the answer is known and fresh.
    pub(super) fn ask(&mut self, servers: &[Server], locals: &[SocketAddr], now: Instant) {
        for server in servers {
            for local in
                locals.iter().filter(|local| local.is_ipv4() == server.address.is_ipv4() && !local.ip().is_loopback_for(server.address))
            {
                let relays = server.credentials.is_some();
                let known = self.known.iter_mut().find(|known| {
                    known.local == *local && known.server == server.address && matches!(known.client, Client::Relay(_)) == relays
                });
                match known {
                    Some(known) => known.ask_again(now),
                    None => self.known.push(Known::new(server, *local, &self.crypto, now)),
                }
            }
        }
    }

    /// Whether every server has answered, has refused, or was asked more than `patience` ago: one that is silent holds up one link, not each.
    pub(super) fn settled(&self, now: Instant, patience: Duration) -> bool {
        self.known.iter().all(|known| known.is_settled() || now >= known.asked_at + patience)
    }

    /// What the servers have told so far; nothing but addresses that pass packets on if `relayed_only`.
    pub(super) fn candidates(&self, relayed_only: bool) -> Vec<RTCIceCandidateInit> {
        let known = || self.known.iter().filter(|_| !relayed_only);
        let mapped: BTreeSet<_> = known().filter_map(|known| Some((known.mapped()?, known.local))).collect();
        let mapped = mapped.into_iter().filter(|(mapped, local)| mapped != local);
        let mapped = mapped.map(|(mapped, local)| candidates::server_reflexive(mapped, local));
        let relayed = self.known.iter().filter_map(|known| known.relayed().map(candidates::relayed));
        // An address that the library cannot take is left out.
        mapped.chain(relayed).flatten().collect()
    }

    /// Takes a packet that is a server's; gives back one that is not. What a server passed on goes to `relayed`, as if it had come to the relayed address.
    pub(super) fn packet(&mut self, packet: TaggedBytesMut, relayed: &mut Vec<TaggedBytesMut>) -> Option<TaggedBytesMut> {
        if self.known.is_empty() {
            return Some(packet);
        }
        let (now, TransportContext { local_addr, peer_addr, .. }) = (packet.now, packet.transport);
        let is_from = |known: &Known| known.local == local_addr && known.server == peer_addr;
        if ChannelData::is_channel_data(&packet.message) {
            let Some(known) = self.known.iter().find(|known| is_from(known) && known.relayed().is_some()) else { return Some(packet) };
            relayed.extend(known.passed_on(now, |relay| relay.channel_data(packet.message)));
            return None;
        }
        if !is_stun_message(&packet.message) {
            return Some(packet);
        }
        let mut message = Message::new();
        message.raw = packet.message.to_vec();
        if message.decode().is_err() {
            return Some(packet);
        }
        let class = message.typ.class;
        if class == CLASS_SUCCESS_RESPONSE || class == CLASS_ERROR_RESPONSE {
            // A response is whose request it answers: other servers, and other ends, may have the same address.
            match self.known.iter_mut().find(|known| is_from(known) && known.is_waiting_for(message.transaction_id)) {
                Some(known) => known.response(message, now),
                None => return Some(packet),
            }
        } else if class == CLASS_INDICATION {
            let Some(known) = self.known.iter().find(|known| is_from(known) && known.relayed().is_some()) else { return Some(packet) };
            relayed.extend(known.passed_on(now, |relay| relay.indication(&message)));
        } else {
            // Requests are other ends' connectivity checks.
            debug_assert_eq!(class, CLASS_REQUEST);
            return Some(packet);
        }
        None
    }

    /// Takes a packet that leaves by a relayed address; gives back one that does not.
    pub(super) fn outbound(&mut self, packet: TaggedBytesMut) -> Option<TaggedBytesMut> {
        let local = Some(packet.transport.local_addr);
        let relay = self.known.iter_mut().filter(|known| known.relayed() == local).find_map(Known::relay_mut);
        match relay {
            Some(relay) => {
                relay.send(packet.transport.peer_addr, packet.message, packet.now);
                None
            }
            None => Some(packet),
        }
    }

    /// Does what is due.
    pub(super) fn round(&mut self, now: Instant) {
        for known in &mut self.known {
            match &mut known.client {
                Client::Mapping(mapping) => mapping.round(known.server, now),
                Client::Relay(relay) => {
                    relay.round(now);
                    if let Some(complaint) = relay.complaint() {
                        self.warnings.say(format!("the TURN server {} gives this machine no address: {complaint}", known.server));
                    }
                }
            }
        }
    }

    /// Moves packets for the servers to `packets`. To be called after everything that may have made some.
    pub(super) fn flush(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>) {
        for known in &mut self.known {
            let transport = TransportContext {
                local_addr: known.local,
                peer_addr: known.server,
                transport_protocol: TransportProtocol::UDP,
                ecn: None,
            };
            let tagged = |bytes: Vec<u8>| TaggedBytesMut { now, transport, message: BytesMut::from(&bytes[..]) };
            match &mut known.client {
                Client::Mapping(mapping) => packets.extend(mapping.out.drain(..).map(tagged)),
                Client::Relay(relay) => packets.extend(relay.packets().map(tagged)),
            }
        }
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let of = |known: &Known| match &known.client {
            Client::Mapping(mapping) => mapping.exchange.deadline(),
            Client::Relay(relay) => relay.deadline(),
        };
        self.known.iter().filter_map(of).min()
    }

    /// Gives relayed addresses back. Called when there is no link.
    pub(super) fn close(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>) {
        self.known.iter_mut().filter_map(Known::relay_mut).for_each(Relay::close);
        self.flush(now, packets);
        self.known.clear();
    }
}

impl Known {
    fn new(server: &Server, local: SocketAddr, crypto: &Arc<dyn RTCCryptoProvider>, now: Instant) -> Self {
        let client = match &server.credentials {
            Some(credentials) => {
                let mut relay = Relay::new(server.address, credentials.clone(), crypto, now);
                relay.ask(now);
                Client::Relay(Box::new(relay))
            }
            None => {
                let mut mapping = Mapping::default();
                mapping.ask(server.address, now);
                Client::Mapping(mapping)
            }
        };
        Self { client, local, server: server.address, asked_at: now }
    }

    fn ask_again(&mut self, now: Instant) {
        let is_late = now >= self.asked_at + ASK_AGAIN_AFTER;
        let asks = match &mut self.client {
            Client::Mapping(mapping) => {
                let asks = is_late && mapping.is_settled();
                if asks {
                    mapping.ask(self.server, now);
                }
                asks
            }
            Client::Relay(relay) => (is_late || !relay.is_without()) && relay.ask(now),
        };
        if asks {
            self.asked_at = now;
        }
    }

    fn is_settled(&self) -> bool {
        match &self.client {
            Client::Mapping(mapping) => mapping.is_settled(),
            Client::Relay(relay) => relay.is_settled(),
        }
    }

    fn is_waiting_for(&self, id: TransactionId) -> bool {
        match &self.client {
            Client::Mapping(mapping) => mapping.exchange.is_waiting_for(id),
            Client::Relay(relay) => relay.is_waiting_for(id),
        }
    }

    fn response(&mut self, message: Message, now: Instant) {
        match &mut self.client {
            Client::Mapping(mapping) => mapping.response(&message, self.server),
            Client::Relay(relay) => relay.response(message, now),
        }
    }

    /// How the socket looks from outside.
    fn mapped(&self) -> Option<SocketAddr> {
        match &self.client {
            Client::Mapping(mapping) => mapping.mapped,
            Client::Relay(relay) => relay.mapped(),
        }
    }

    fn relayed(&self) -> Option<SocketAddr> {
        self.relay().and_then(Relay::relayed)
    }

    fn relay(&self) -> Option<&Relay> {
        match &self.client {
            Client::Mapping(_) => None,
            Client::Relay(relay) => Some(relay),
        }
    }

    fn relay_mut(&mut self) -> Option<&mut Relay> {
        match &mut self.client {
            Client::Mapping(_) => None,
            Client::Relay(relay) => Some(relay),
        }
    }

    /// What `read` finds, as a packet that came to the relayed address.
    fn passed_on(&self, now: Instant, read: impl FnOnce(&Relay) -> Option<(SocketAddr, BytesMut)>) -> Option<TaggedBytesMut> {
        let relay = self.relay()?;
        let local_addr = relay.relayed()?;
        let (peer_addr, message) = read(relay)?;
        let transport = TransportContext { local_addr, peer_addr, transport_protocol: TransportProtocol::UDP, ecn: None };
        Some(TaggedBytesMut { now, transport, message })
    }
}

impl Mapping {
    fn is_settled(&self) -> bool {
        self.exchange.deadline().is_none()
    }

    fn ask(&mut self, server: SocketAddr, now: Instant) {
        let mut message = Message::new();
        match message.build(&[Box::new(TransactionId::new()), Box::new(BINDING_REQUEST)]) {
            Ok(()) => self.out.push(self.exchange.begin(&message, (), now)),
            Err(error) => tracing::warn!(%server, %error, "a STUN server cannot be asked"),
        }
    }

    fn response(&mut self, message: &Message, server: SocketAddr) {
        if self.exchange.end(message.transaction_id).is_none() {
            return;
        }
        let mut mapped = XorMappedAddress::default();
        if message.typ.class == CLASS_ERROR_RESPONSE {
            tracing::warn!(%server, refusal = %Refusal::of(message), "a STUN server refuses");
        } else if mapped.get_from(message).is_ok() {
            self.mapped = Some(SocketAddr::new(mapped.ip, mapped.port));
        } else {
            tracing::warn!(%server, "a STUN server's answer has no address in it");
        }
    }

    fn round(&mut self, server: SocketAddr, now: Instant) {
        for () in self.exchange.round(now, &mut self.out) {
            tracing::warn!(%server, "a STUN server does not answer");
        }
    }
}

/// A socket bound to loopback reaches only servers on loopback.
trait Loopback {
    fn is_loopback_for(&self, server: SocketAddr) -> bool;
}

impl Loopback for std::net::IpAddr {
    fn is_loopback_for(&self, server: SocketAddr) -> bool {
        self.is_loopback() && !server.ip().is_loopback()
    }
}
