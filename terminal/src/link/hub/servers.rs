//! What STUN and TURN servers know of this machine: how its sockets look from outside, and addresses of theirs that pass packets on (RFC 8489,
//! RFC 8656). One client per socket and server serves all links of the hub.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtc::crypto::RTCCryptoProvider;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::sansio::Protocol;
use rtc::shared::error::Error;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use rtc::stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, CLASS_SUCCESS_RESPONSE, Message, TransactionId, is_stun_message,
};
use rtc::turn::client::{Client, ClientConfig, Event};
use rtc::turn::proto::chandata::ChannelData;

use super::candidates;

/// A NAT forgets a mapping after 30 seconds without packets at the earliest (RFC 4787 asks for two minutes, and not all keep to it), so an older answer of a
/// STUN server is asked for again. A server that did not answer has as long to recover.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(25);
/// Packets that wait, per destination, until the TURN server lets them through: a round of checks and a handshake's first flight.
const WAITING_MAX: usize = 64;

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

enum Asked {
    /// How the socket looks from outside.
    Mapping,
    /// For an address that passes packets on.
    Relay { allocated: Option<SocketAddr> },
}

struct Known {
    client: Client,
    local: SocketAddr,
    server: SocketAddr,
    asked: Asked,
    asked_at: Instant,
    /// The answer has come, or none will.
    settled: bool,
    mapped: Option<SocketAddr>,
    /// Packets to destinations that the server does not let through yet.
    waiting: VecDeque<TaggedBytesMut>,
    permitting: Vec<(TransactionId, SocketAddr)>,
}

pub(super) struct Servers {
    known: Vec<Known>,
    crypto: Arc<dyn RTCCryptoProvider>,
}

impl Servers {
    pub(super) fn new(crypto: Arc<dyn RTCCryptoProvider>) -> Self {
        Self { known: Vec::new(), crypto }
    }

    /// Asks each server for each socket of its family, unless the answer is known and fresh.
    pub(super) fn ask(&mut self, servers: &[Server], locals: &[SocketAddr], now: Instant) {
        for server in servers {
            for local in
                locals.iter().filter(|local| local.is_ipv4() == server.address.is_ipv4() && !local.ip().is_loopback_for(server.address))
            {
                let relay = server.credentials.is_some();
                let known = self.known.iter_mut().find(|known| {
                    known.local == *local && known.server == server.address && matches!(known.asked, Asked::Relay { .. }) == relay
                });
                let asked = match known {
                    Some(known) => known.ask_again(now),
                    None => Known::new(server, *local, &self.crypto, now).map(|known| self.known.push(known)),
                };
                if let Err(error) = asked {
                    tracing::warn!(server = %server.address, %error, "a STUN or TURN server cannot be asked");
                }
            }
        }
    }

    /// Whether every server has answered, has refused, or was asked more than `patience` ago: one that is silent holds up one link, not each.
    pub(super) fn settled(&self, now: Instant, patience: Duration) -> bool {
        self.known.iter().all(|known| known.settled || now >= known.asked_at + patience)
    }

    /// What the servers have told so far.
    pub(super) fn candidates(&self) -> Vec<RTCIceCandidateInit> {
        let mapped = self.known.iter().filter_map(|known| known.mapped.map(|mapped| candidates::server_reflexive(mapped, known.local)));
        let relayed = self.known.iter().filter_map(|known| known.relayed().map(|relayed| candidates::relayed(relayed, known.local)));
        // An address that the library cannot take is left out.
        mapped.chain(relayed).flatten().collect()
    }

    /// Takes a packet that is a server's; gives back one that is not.
    pub(super) fn packet(&mut self, packet: TaggedBytesMut) -> Option<TaggedBytesMut> {
        if self.known.is_empty() {
            return Some(packet);
        }
        match self.owner(&packet) {
            Some(known) => {
                if let Err(error) = known.client.handle_read(packet) {
                    tracing::trace!(%error, "a packet of a STUN or TURN server");
                }
                None
            }
            None => Some(packet),
        }
    }

    /// A response is whose request it answers; an indication and channel data come from a server that passes packets on to this socket. Requests are
    /// other ends' connectivity checks.
    fn owner(&mut self, packet: &TaggedBytesMut) -> Option<&mut Known> {
        let from_relay = |known: &Known| {
            matches!(known.asked, Asked::Relay { .. })
                && known.local == packet.transport.local_addr
                && known.server == packet.transport.peer_addr
        };
        if ChannelData::is_channel_data(&packet.message) {
            return self.known.iter_mut().find(|known| from_relay(known));
        }
        if !is_stun_message(&packet.message) {
            return None;
        }
        let mut message = Message::new();
        message.raw = packet.message.to_vec();
        message.decode().ok()?;
        let class = message.typ.class;
        if class == CLASS_SUCCESS_RESPONSE || class == CLASS_ERROR_RESPONSE {
            self.known.iter_mut().find(|known| known.client.has_transaction(&message.transaction_id))
        } else if class == CLASS_INDICATION {
            self.known.iter_mut().find(|known| from_relay(known))
        } else {
            debug_assert_eq!(class, CLASS_REQUEST);
            None
        }
    }

    /// Takes a packet that leaves by a relayed address; gives back one that does not.
    pub(super) fn outbound(&mut self, packet: TaggedBytesMut) -> Option<TaggedBytesMut> {
        match self.known.iter_mut().find(|known| known.relayed() == Some(packet.transport.local_addr)) {
            Some(known) => {
                known.pass_on(packet);
                None
            }
            None => Some(packet),
        }
    }

    /// Does what is due. Packets for the servers go to `packets`, what they passed on to `relayed`, as if it had come to the relayed address.
    pub(super) fn round(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>, relayed: &mut Vec<TaggedBytesMut>) {
        for known in &mut self.known {
            if known.client.poll_timeout().is_some_and(|deadline| deadline <= now)
                && let Err(error) = known.client.handle_timeout(now)
            {
                tracing::debug!(server = %known.server, %error, "a STUN or TURN server's timer");
            }
            while let Some(event) = known.client.poll_event() {
                known.event(event, now, relayed);
            }
            while let Some(packet) = known.client.poll_write() {
                packets.push_back(packet);
            }
        }
    }

    pub(super) fn deadline(&mut self) -> Option<Instant> {
        self.known.iter_mut().filter_map(|known| known.client.poll_timeout()).min()
    }

    /// Gives relayed addresses back. Called when there is no link.
    pub(super) fn close(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>) {
        for mut known in self.known.drain(..) {
            if let Some(relayed) = known.relayed()
                && let Ok(mut relay) = known.client.relay(relayed)
                && let Err(error) = relay.close(now)
            {
                tracing::debug!(server = %known.server, %error, "giving back an address");
            }
            while let Some(packet) = known.client.poll_write() {
                packets.push_back(packet);
            }
        }
    }
}

impl Known {
    fn new(server: &Server, local: SocketAddr, crypto: &Arc<dyn RTCCryptoProvider>, now: Instant) -> Result<Self, Error> {
        let credentials = server.credentials.clone().unwrap_or(Credentials { username: String::new(), password: String::new() });
        let config = ClientConfig {
            stun_serv_addr: server.address.to_string(),
            turn_serv_addr: server.address.to_string(),
            local_addr: local,
            transport_protocol: TransportProtocol::UDP,
            username: credentials.username,
            password: credentials.password,
            realm: String::new(),
            software: String::new(),
            rto_in_ms: 0,
            allocation_refresh_interval_cap: None,
        };
        let mut client = Client::new(config, Arc::clone(crypto))?;
        let asked = if server.credentials.is_some() {
            client.allocate(now)?;
            Asked::Relay { allocated: None }
        } else {
            client.send_binding_request(now)?;
            Asked::Mapping
        };
        Ok(Self {
            client,
            local,
            server: server.address,
            asked,
            asked_at: now,
            settled: false,
            mapped: None,
            waiting: VecDeque::new(),
            permitting: Vec::new(),
        })
    }

    fn ask_again(&mut self, now: Instant) -> Result<(), Error> {
        // The client keeps an address of a TURN server alive by itself.
        if self.relayed().is_some() || !self.settled || now < self.asked_at + ASK_AGAIN_AFTER {
            return Ok(());
        }
        (self.settled, self.asked_at) = (false, now);
        match self.asked {
            Asked::Mapping => self.client.send_binding_request(now).map(drop),
            Asked::Relay { .. } => self.client.allocate(now).map(drop),
        }
    }

    fn relayed(&self) -> Option<SocketAddr> {
        match self.asked {
            Asked::Mapping => None,
            Asked::Relay { allocated } => allocated,
        }
    }

    fn event(&mut self, event: Event, now: Instant, relayed: &mut Vec<TaggedBytesMut>) {
        match event {
            Event::BindingResponse(_, mapped) => (self.mapped, self.settled) = (Some(mapped), true),
            Event::AllocateResponse(_, address) => (self.asked, self.settled) = (Asked::Relay { allocated: Some(address) }, true),
            Event::BindingError(_, error) | Event::AllocateError(_, error) => {
                tracing::warn!(server = %self.server, %error, "a STUN or TURN server refuses");
                self.settled = true;
            }
            Event::CreatePermissionResponse(id, peer) => {
                self.permitting.retain(|(pending, _)| *pending != id);
                self.release(peer);
            }
            Event::CreatePermissionError(id, error) => {
                tracing::debug!(server = %self.server, %error, "a TURN server lets nothing through");
                self.refused(id);
            }
            Event::TransactionTimeout(id) => {
                self.settled = true;
                self.refused(id);
            }
            Event::DataIndicationOrChannelData(_, peer, message) => {
                let Some(local_addr) = self.relayed() else { return };
                let transport = TransportContext { local_addr, peer_addr: peer, transport_protocol: TransportProtocol::UDP, ecn: None };
                relayed.push(TaggedBytesMut { now, transport, message });
            }
            // The library's own enum, which grows.
            _ => {}
        }
    }

    fn refused(&mut self, id: TransactionId) {
        let peers: Vec<SocketAddr> = self.permitting.iter().filter(|(pending, _)| *pending == id).map(|(_, peer)| *peer).collect();
        self.permitting.retain(|(pending, _)| *pending != id);
        self.waiting.retain(|packet| !peers.contains(&packet.transport.peer_addr));
    }

    /// Sends a packet by the server, once it lets packets to that destination through.
    fn pass_on(&mut self, packet: TaggedBytesMut) {
        let Some(relayed) = self.relayed() else { return };
        let peer = packet.transport.peer_addr;
        let sent = self.client.relay(relayed).and_then(|mut relay| relay.send_to(packet.now, &packet.message, peer));
        match sent {
            Ok(()) => {}
            Err(Error::ErrNoPermission) => {
                if !self.permitting.iter().any(|(_, pending)| *pending == peer) {
                    match self.client.relay(relayed).and_then(|mut relay| relay.create_permission(packet.now, peer)) {
                        Ok(Some(id)) => self.permitting.push((id, peer)),
                        Ok(None) => {}
                        Err(error) => tracing::debug!(server = %self.server, %error, "asking a TURN server to let packets through"),
                    }
                }
                if self.waiting.len() >= WAITING_MAX {
                    self.waiting.pop_front();
                }
                self.waiting.push_back(packet);
            }
            Err(error) => tracing::trace!(server = %self.server, %error, "sending by a TURN server"),
        }
    }

    fn release(&mut self, peer: SocketAddr) {
        let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|packet| packet.transport.peer_addr == peer);
        self.waiting = waiting;
        let ready: VecDeque<TaggedBytesMut> = ready;
        ready.into_iter().for_each(|packet| self.pass_on(packet));
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
