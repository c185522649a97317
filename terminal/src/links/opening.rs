//! From a planned pair to a link whose both ends are known for certain.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::frame::Frame;
use protocol::hello::Hello;
use protocol::ws::Signal;
use protocol::{TerminalId, TerminalKey};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::Instant;

use super::early::EarlyOffer;
use super::{LinksTiming, PlannedPeer};
use crate::link::{Endpoint, Link, LinkError, Pending, SHORT_PACKET_BYTES, TUNNEL_PACKET_BYTES};
use crate::socket::Outbox;

/// Links that are being opened at once from either side. Each takes sockets, a handshake and half a second of waiting; sixteen terminals of one machine
/// must not all do everything at the same moment.
const OPENING_MAX: usize = 8;

/// Why a link did not come up.
#[derive(Debug, thiserror::Error)]
pub(super) enum OpenError {
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error("the other end did not answer")]
    NoAnswer,
    #[error("the other end said no hello")]
    NoHello,
    /// The other end is not the planned terminal, or somebody stands in the middle.
    #[error("the other end's hello is not valid")]
    WrongHello,
    #[error("the attempt took too long to begin")]
    Stale,
    /// A fault in the program or in the library.
    #[error("the attempt has panicked")]
    Panicked,
}

/// What is known of the way to a peer. Hellos are long, so a link over a way that does not take long packets ends before it carries anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Path {
    Untried,
    /// A link opened and no hello came through: it may be that only packets of a tunnel do.
    Tunnel,
    /// Nor did one in such packets.
    Narrow,
}

impl Path {
    /// What is known once no hello came through.
    pub(super) fn narrower(self) -> Self {
        match self {
            Self::Untried => Self::Tunnel,
            Self::Tunnel | Self::Narrow => Self::Narrow,
        }
    }
}

/// What an attempt to open a link needs.
#[derive(Debug, Clone)]
pub(super) struct Opener {
    pub(super) me: TerminalId,
    pub(super) key: TerminalKey,
    pub(super) endpoint: Endpoint,
    pub(super) outbox: Outbox,
    pub(super) timing: LinksTiming,
    /// Offers wait for answers, answers wait for nobody: with one semaphore for both, terminals that offer in a circle would wait for each other.
    offers: Arc<Semaphore>,
    answers: Arc<Semaphore>,
}

impl Opener {
    pub(super) fn new(me: TerminalId, key: TerminalKey, endpoint: Endpoint, outbox: Outbox, timing: LinksTiming) -> Self {
        let semaphore = || Arc::new(Semaphore::new(OPENING_MAX));
        Self { me, key, endpoint, outbox, timing, offers: semaphore(), answers: semaphore() }
    }

    /// Opens a link from this end. The answer comes through `answer`.
    pub(super) async fn offer(
        self,
        peer: PlannedPeer,
        path: Path,
        session: u64,
        answer: oneshot::Receiver<String>,
    ) -> Result<Link, OpenError> {
        let _permit = self.offers.acquire().await;
        let (pending, sdp) = self.endpoint(path).offer().await?;
        self.outbox.signal(peer.terminal_id, Signal::Offer { session, sdp });
        let answer =
            tokio::time::timeout(self.timing.answer, answer).await.map_err(|_| OpenError::NoAnswer)?.map_err(|_| OpenError::NoAnswer)?;
        let link = pending.complete(Some(&answer), Instant::now() + self.timing.open).await?;
        self.greet(link, peer).await
    }

    /// Takes the other end's offer, which may have waited for its plan.
    pub(super) async fn answer(self, peer: PlannedPeer, path: Path, offer: EarlyOffer) -> Result<Link, OpenError> {
        let _permit = self.answers.acquire().await;
        let EarlyOffer { session, sdp: offer, at } = offer;
        if at.elapsed() > self.timing.answer {
            return Err(OpenError::Stale);
        }
        let (pending, sdp): (Pending, String) = self.endpoint(path).accept(&offer).await?;
        self.outbox.signal(peer.terminal_id, Signal::Answer { session, sdp });
        let link = pending.complete(None, Instant::now() + self.timing.open).await?;
        self.greet(link, peer).await
    }

    fn endpoint(&self, path: Path) -> Endpoint {
        match path {
            Path::Untried => self.endpoint.clone(),
            Path::Tunnel => self.endpoint.with_packets_up_to(TUNNEL_PACKET_BYTES),
            Path::Narrow => self.endpoint.with_packets_up_to(SHORT_PACKET_BYTES),
        }
    }

    /// Says hello and checks the other end's: its signature covers both certificates of this very channel.
    async fn greet(&self, mut link: Link, peer: PlannedPeer) -> Result<Link, OpenError> {
        let binding = link.fingerprints();
        let hello = Frame::Hello(Hello::signed(self.me, peer.terminal_id, &binding, &self.key));
        link.send(Bytes::from(hello.encode())).await?;
        let message = receive_within(&mut link, self.timing.hello).await?;
        match Frame::decode(message) {
            Ok(Frame::Hello(hello)) if hello.is_valid(peer.terminal_id, self.me, &binding, &peer.public_key) => Ok(link),
            Ok(_) | Err(_) => {
                link.close().await;
                Err(OpenError::WrongHello)
            }
        }
    }
}

async fn receive_within(link: &mut Link, patience: Duration) -> Result<Bytes, OpenError> {
    let received = tokio::time::timeout(patience, link.recv()).await;
    received.map_err(|_| OpenError::NoHello)?.map_err(|_| OpenError::NoHello)
}
