//! An address at a TURN server that passes packets on (RFC 8656), for one socket.
//!
//! ```text
//! Allocate ─► 401 ─► Allocate, signed ─► address     kept by a Refresh every 25 seconds, and before a new link counts on it
//! first packet to somebody ─► ChannelBind ─► that packet and all later ones as channel data, 4 bytes longer
//! ```
//!
//! A channel comes with the permission for what the other end sends (section 12), so permissions are not asked for by themselves. It is bound again, with
//! its number, while packets go over it; permissions last five minutes, channels ten, and neither may have its number changed for five more.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use rtc::crypto::RTCCryptoProvider;
use rtc::shared::error::Error;
use rtc::stun::message::{
    CLASS_ERROR_RESPONSE, CLASS_INDICATION, CLASS_REQUEST, Getter, METHOD_ALLOCATE, METHOD_CHANNEL_BIND, METHOD_DATA, METHOD_REFRESH,
    Message, MessageType, Method, Setter, TransactionId,
};
use rtc::stun::xoraddr::XorMappedAddress;
use rtc::turn::proto::PROTO_UDP;
use rtc::turn::proto::channum::ChannelNumber;
use rtc::turn::proto::data::Data;
use rtc::turn::proto::lifetime::Lifetime;
use rtc::turn::proto::peeraddr::PeerAddress;
use rtc::turn::proto::relayaddr::RelayedAddress;
use rtc::turn::proto::reqtrans::RequestedTransport;

use super::Credentials;
use super::exchange::Exchange;
use super::login::{Login, Refusal};

/// Addresses are refreshed far more often than they lapse (ten minutes), because a NAT on the way forgets sooner, and so that a server that has lost an
/// address is noticed before the next link needs it.
const REFRESH_EVERY: Duration = Duration::from_secs(25);
/// A link that is opened later than this after the server last said that it has the address waits until it has said so again: links that are opened together
/// ask once, and a server that was started anew does not cost each of them an attempt.
const CONFIRMED_FOR: Duration = Duration::from_secs(2);
/// RFC 8656, sections 9 and 12.
const PERMISSION_LASTS: Duration = Duration::from_secs(300);
const CHANNEL_RESTS: Duration = Duration::from_secs(900);
/// When a channel in use is bound again, looked at every [`TEND_EVERY`]: a minute before the permission ends.
const BIND_AGAIN_AFTER: Duration = Duration::from_secs(230);
const TEND_EVERY: Duration = Duration::from_secs(10);
/// An other end that the server does not send to, such as an address of its own network, is asked for again after this.
const DENIED_FOR: Duration = Duration::from_secs(60);
/// Section 12: 4096 numbers, which no packet of STUN or DTLS begins with.
const CHANNELS: std::ops::RangeInclusive<u16> = 0x4000..=0x4FFF;
const CHANNEL_HEADER_BYTES: usize = 4;
/// Packets that wait for their channels: a round of checks and a handshake's first flight for some links.
const WAITING_MAX: usize = 64;

const UNAUTHENTICATED: u16 = 401;
const ALLOCATION_MISMATCH: u16 = 437;
const WRONG_CREDENTIALS: u16 = 441;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Purpose {
    Allocate,
    Refresh,
    Bind(SocketAddr),
}

struct Request {
    purpose: Purpose,
    /// Challenges that it has been sent anew for.
    challenges: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Asking,
    Held {
        relayed: SocketAddr,
        mapped: Option<SocketAddr>,
        confirmed_at: Instant,
        /// A new link waits until it is confirmed again.
        is_asked: bool,
    },
    /// Refused or not answered. A later link asks again.
    Without,
}

struct Channel {
    number: u16,
    /// The latest time that the server granted it.
    bound_at: Option<Instant>,
    is_asked: bool,
    used_at: Instant,
    denied_until: Option<Instant>,
}

impl Channel {
    fn is_open(&self, now: Instant) -> bool {
        self.bound_at.is_some_and(|bound_at| now < bound_at + PERMISSION_LASTS)
    }
}

pub(super) struct Relay {
    server: SocketAddr,
    login: Login,
    state: State,
    exchange: Exchange<Request>,
    channels: BTreeMap<SocketAddr, Channel>,
    /// Who a channel leads to.
    numbers: BTreeMap<u16, SocketAddr>,
    /// Packets whose channels are asked for.
    waiting: VecDeque<(SocketAddr, BytesMut)>,
    /// Packets for the server.
    out: Vec<Vec<u8>>,
    refresh_at: Instant,
    tend_at: Instant,
    /// Why there is no address, until somebody has asked.
    complaint: Option<String>,
}

impl Relay {
    pub(super) fn new(server: SocketAddr, credentials: Credentials, crypto: &Arc<dyn RTCCryptoProvider>, now: Instant) -> Self {
        Self {
            server,
            login: Login::new(credentials, Arc::clone(crypto)),
            state: State::Without,
            exchange: Exchange::default(),
            channels: BTreeMap::new(),
            numbers: BTreeMap::new(),
            waiting: VecDeque::new(),
            out: Vec::new(),
            refresh_at: now,
            tend_at: now,
            complaint: None,
        }
    }

    /// Asks for an address, or whether the one that there is still exists. Returns whether it did: what was confirmed a moment ago is not asked for.
    pub(super) fn ask(&mut self, now: Instant) -> bool {
        match &mut self.state {
            State::Asking | State::Held { is_asked: true, .. } => false,
            State::Held { confirmed_at, .. } if now < *confirmed_at + CONFIRMED_FOR => false,
            State::Held { is_asked, .. } => {
                *is_asked = true;
                self.refresh_at = now + REFRESH_EVERY;
                self.begin(Purpose::Refresh, 0, now);
                true
            }
            State::Without => {
                self.allocate(now);
                true
            }
        }
    }

    fn allocate(&mut self, now: Instant) {
        self.forget();
        self.state = State::Asking;
        self.login.forget();
        self.begin(Purpose::Allocate, 0, now);
    }

    /// Whether there is an address, or none will come.
    pub(super) fn is_settled(&self) -> bool {
        match self.state {
            State::Asking | State::Held { is_asked: true, .. } => false,
            State::Held { is_asked: false, .. } | State::Without => true,
        }
    }

    /// Whether a link has to do without it for now.
    pub(super) fn is_without(&self) -> bool {
        self.state == State::Without
    }

    pub(super) fn relayed(&self) -> Option<SocketAddr> {
        match self.state {
            State::Held { relayed, .. } => Some(relayed),
            State::Asking | State::Without => None,
        }
    }

    /// How the server sees the socket.
    pub(super) fn mapped(&self) -> Option<SocketAddr> {
        match self.state {
            State::Held { mapped, .. } => mapped,
            State::Asking | State::Without => None,
        }
    }

    pub(super) fn is_waiting_for(&self, id: TransactionId) -> bool {
        self.exchange.is_waiting_for(id)
    }

    /// Takes a response of the server.
    pub(super) fn response(&mut self, mut message: Message, now: Instant) {
        let refusal = (message.typ.class == CLASS_ERROR_RESPONSE).then(|| Refusal::of(&message));
        if refusal.is_none() && !self.login.vouches_for(&mut message) {
            tracing::debug!(server = %self.server, "a TURN server's response that somebody else signed");
            return;
        }
        let Some(request) = self.exchange.end(message.transaction_id) else { return };
        match refusal {
            Some(refusal) if self.login.takes(&refusal, &message, request.challenges) => {
                self.begin(request.purpose, request.challenges + 1, now);
            }
            Some(refusal) => self.refused(request.purpose, &refusal, now),
            None => {
                if let Err(error) = self.granted(request.purpose, &message, now) {
                    self.without(format!("its response cannot be used: {error}"));
                }
            }
        }
    }

    /// Takes an indication: a packet of somebody who has no channel. Returns it with whose it is.
    pub(super) fn indication(&self, message: &Message) -> Option<(SocketAddr, BytesMut)> {
        if message.typ != MessageType::new(METHOD_DATA, CLASS_INDICATION) {
            return None;
        }
        let (mut peer, mut data) = (PeerAddress::default(), Data::default());
        peer.get_from(message).ok()?;
        data.get_from(message).ok()?;
        Some((SocketAddr::new(peer.ip, peer.port), BytesMut::from(&data.0[..])))
    }

    /// Takes channel data. Returns what was sent and whose it is.
    pub(super) fn channel_data(&self, mut packet: BytesMut) -> Option<(SocketAddr, BytesMut)> {
        let (number, rest) = packet.split_first_chunk()?;
        let (length, _) = rest.split_first_chunk()?;
        let peer = *self.numbers.get(&u16::from_be_bytes(*number))?;
        let length = usize::from(u16::from_be_bytes(*length));
        let mut data = packet.split_off(CHANNEL_HEADER_BYTES);
        if length > data.len() {
            return None;
        }
        // Servers may pad.
        data.truncate(length);
        Some((peer, data))
    }

    /// Sends a packet to `peer` by the server, once there is a channel.
    pub(super) fn send(&mut self, peer: SocketAddr, packet: BytesMut, now: Instant) {
        let Some(channel) = self.channel(peer, now) else {
            tracing::trace!(server = %self.server, "no channel is left");
            return;
        };
        channel.used_at = now;
        if channel.is_open(now) {
            let framed = framed(channel.number, &packet);
            self.out.extend(framed);
            return;
        }
        if channel.denied_until.is_some_and(|until| now < until) {
            return;
        }
        if !std::mem::replace(&mut channel.is_asked, true) {
            self.begin(Purpose::Bind(peer), 0, now);
        }
        if self.waiting.len() >= WAITING_MAX {
            self.waiting.pop_front();
        }
        self.waiting.push_back((peer, packet));
    }

    fn channel(&mut self, peer: SocketAddr, now: Instant) -> Option<&mut Channel> {
        if !self.channels.contains_key(&peer) {
            let number = CHANNELS.into_iter().find(|number| !self.numbers.contains_key(number))?;
            self.numbers.insert(number, peer);
            self.channels.insert(peer, Channel { number, bound_at: None, is_asked: false, used_at: now, denied_until: None });
        }
        self.channels.get_mut(&peer)
    }

    /// Does what is due.
    pub(super) fn round(&mut self, now: Instant) {
        for request in self.exchange.round(now, &mut self.out) {
            match request.purpose {
                Purpose::Allocate | Purpose::Refresh => self.without("it does not answer".to_owned()),
                Purpose::Bind(peer) => self.unbound(peer, None),
            }
        }
        if self.relayed().is_none() {
            return;
        }
        if now >= self.refresh_at {
            self.refresh_at = now + REFRESH_EVERY;
            self.begin(Purpose::Refresh, 0, now);
        }
        if now >= self.tend_at {
            self.tend_at = now + TEND_EVERY;
            self.tend(now);
        }
    }

    /// Why there is no address, once for each time.
    pub(super) fn complaint(&mut self) -> Option<String> {
        self.complaint.take()
    }

    /// Packets for the server, oldest first.
    pub(super) fn packets(&mut self) -> impl Iterator<Item = Vec<u8>> + '_ {
        self.out.drain(..)
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let held = self.relayed().map(|_| self.refresh_at.min(self.tend_at));
        self.exchange.deadline().into_iter().chain(held).min()
    }

    /// Gives the address back; said once, and if that is lost the address lapses.
    pub(super) fn close(&mut self) {
        if self.relayed().is_none() {
            return;
        }
        let attributes: Vec<Box<dyn Setter>> =
            vec![kind(METHOD_REFRESH), Box::new(TransactionId::new()), Box::new(Lifetime(Duration::ZERO))];
        let closing = self.login.request(attributes);
        self.forget();
        match closing {
            Ok(message) => self.out.push(message.raw),
            Err(error) => tracing::debug!(server = %self.server, %error, "giving back an address"),
        }
    }

    /// Binds again what is in use, and forgets channels whose numbers are free again.
    fn tend(&mut self, now: Instant) {
        self.channels.retain(|_, channel| {
            let last = channel.bound_at.map_or(channel.used_at, |bound_at| bound_at.max(channel.used_at));
            let keeps = channel.is_asked || now < last + CHANNEL_RESTS;
            if !keeps {
                self.numbers.remove(&channel.number);
            }
            keeps
        });
        let is_due = |channel: &Channel| {
            !channel.is_asked && channel.bound_at.is_some_and(|at| now >= at + BIND_AGAIN_AFTER && channel.used_at >= at + TEND_EVERY)
        };
        let due: Vec<SocketAddr> = self.channels.iter().filter(|(_, channel)| is_due(channel)).map(|(peer, _)| *peer).collect();
        for peer in due {
            if let Some(channel) = self.channels.get_mut(&peer) {
                channel.is_asked = true;
            }
            self.begin(Purpose::Bind(peer), 0, now);
        }
    }

    fn begin(&mut self, purpose: Purpose, challenges: u32, now: Instant) {
        match self.request(purpose) {
            Ok(message) => self.out.push(self.exchange.begin(&message, Request { purpose, challenges }, now)),
            Err(error) => self.without(format!("it cannot be asked: {error}")),
        }
    }

    fn request(&self, purpose: Purpose) -> Result<Message, Error> {
        let mut attributes: Vec<Box<dyn Setter>> = Vec::new();
        match purpose {
            Purpose::Allocate => {
                attributes.extend([kind(METHOD_ALLOCATE), Box::new(RequestedTransport { protocol: PROTO_UDP }) as Box<dyn Setter>]);
            }
            Purpose::Refresh => attributes.push(kind(METHOD_REFRESH)),
            Purpose::Bind(peer) => {
                let number = self.channels.get(&peer).map_or(0, |channel| channel.number);
                attributes.extend([kind(METHOD_CHANNEL_BIND), Box::new(ChannelNumber(number)) as Box<dyn Setter>]);
                attributes.push(Box::new(PeerAddress { ip: peer.ip(), port: peer.port() }));
            }
        }
        attributes.insert(0, Box::new(TransactionId::new()));
        self.login.request(attributes)
    }

    fn granted(&mut self, purpose: Purpose, message: &Message, now: Instant) -> Result<(), Error> {
        match purpose {
            Purpose::Allocate => {
                let (mut relayed, mut mapped) = (RelayedAddress::default(), XorMappedAddress::default());
                relayed.get_from(message)?;
                let mapped = mapped.get_from(message).ok().map(|()| SocketAddr::new(mapped.ip, mapped.port));
                let relayed = SocketAddr::new(relayed.ip, relayed.port);
                (self.refresh_at, self.tend_at) = (now + refresh_in(message)?, now + TEND_EVERY);
                self.state = State::Held { relayed, mapped, confirmed_at: now, is_asked: false };
            }
            Purpose::Refresh => {
                self.refresh_at = now + refresh_in(message)?;
                if let State::Held { confirmed_at, is_asked, .. } = &mut self.state {
                    (*confirmed_at, *is_asked) = (now, false);
                }
            }
            Purpose::Bind(peer) => {
                let Some(channel) = self.channels.get_mut(&peer) else { return Ok(()) };
                (channel.bound_at, channel.is_asked, channel.denied_until) = (Some(now), false, None);
                let number = channel.number;
                let (ready, waiting) = std::mem::take(&mut self.waiting).into_iter().partition(|(to, _)| *to == peer);
                self.waiting = waiting;
                let ready: VecDeque<(SocketAddr, BytesMut)> = ready;
                self.out.extend(ready.iter().filter_map(|(_, packet)| framed(number, packet)));
            }
        }
        Ok(())
    }

    fn refused(&mut self, purpose: Purpose, refusal: &Refusal, now: Instant) {
        match purpose {
            Purpose::Allocate if refusal.is_of_credentials() => {
                self.without(format!("it does not take the credentials that the service gave for it ({refusal})"));
            }
            Purpose::Allocate => self.without(refusal.to_string()),
            // The server was started anew, or the address has lapsed. Asking from the beginning tells what is wrong, if something is.
            Purpose::Refresh => self.lost(refusal, now),
            Purpose::Bind(_) if [UNAUTHENTICATED, ALLOCATION_MISMATCH, WRONG_CREDENTIALS].contains(&refusal.code) => {
                self.lost(refusal, now);
            }
            Purpose::Bind(peer) => {
                tracing::debug!(server = %self.server, %peer, %refusal, "a TURN server does not send there");
                self.unbound(peer, Some(now + DENIED_FOR));
            }
        }
    }

    /// The server does not know the address any more; links over it will notice, and be opened anew.
    fn lost(&mut self, refusal: &Refusal, now: Instant) {
        tracing::debug!(server = %self.server, %refusal, "a TURN server has lost an address");
        self.allocate(now);
    }

    /// Nobody is reached by `peer`'s channel, until `denied_until` or the next packet.
    fn unbound(&mut self, peer: SocketAddr, denied_until: Option<Instant>) {
        self.waiting.retain(|(to, _)| *to != peer);
        if let Some(channel) = self.channels.get_mut(&peer) {
            (channel.is_asked, channel.denied_until) = (false, denied_until);
        }
    }

    /// There is no address, or none any more.
    fn without(&mut self, reason: String) {
        self.forget();
        self.complaint = Some(reason);
    }

    fn forget(&mut self) {
        self.state = State::Without;
        self.exchange.clear();
        self.channels.clear();
        self.numbers.clear();
        self.waiting.clear();
    }
}

fn kind(method: Method) -> Box<dyn Setter> {
    Box::new(MessageType::new(method, CLASS_REQUEST))
}

/// An address that would lapse at once is none (RFC 8656, section 7.3).
fn refresh_in(message: &Message) -> Result<Duration, Error> {
    let mut lifetime = Lifetime::default();
    lifetime.get_from(message)?;
    if lifetime.0.is_zero() {
        return Err(Error::Other("the address is for no time".to_owned()));
    }
    Ok(REFRESH_EVERY.min(lifetime.0 / 3))
}

/// Channel data (section 12.4). Over UDP it needs no padding. Nothing for what no UDP packet can hold.
fn framed(number: u16, packet: &[u8]) -> Option<Vec<u8>> {
    let length = u16::try_from(packet.len()).ok()?;
    let mut framed = Vec::with_capacity(CHANNEL_HEADER_BYTES + packet.len());
    framed.put_u16(number);
    framed.put_u16(length);
    framed.extend_from_slice(packet);
    Some(framed)
}

#[cfg(test)]
mod tests;
