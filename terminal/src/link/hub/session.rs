//! One connection of the library, driven by the hub: packets and messages in, packets and messages out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::crypto::RTCCryptoProvider;
use rtc::data_channel::{RTCDataChannelId, RTCDataChannelInit};
use rtc::dtls::cipher_suite::CipherSuiteId;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::setting_engine::{SctpMaxMessageSize, SettingEngine, SettingEngineBuilder};
use rtc::peer_connection::event::{RTCDataChannelEvent, RTCPeerConnectionEvent};
use rtc::peer_connection::message::RTCMessage;
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::RTCIceCandidateInit;
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::sansio::Protocol;
use rtc::shared::TaggedBytesMut;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, oneshot};

use super::super::channel::Channel;
use super::super::config::{
    CHECK_INTERVAL, CHECKS_PER_PAIR, DISCONNECTED_AFTER, FAILED_AFTER_DISCONNECTED, KEEPALIVE_INTERVAL, LIBRARY_MESSAGE_BYTES,
    MAX_MESSAGE_BYTES,
};
use super::super::error::{CloseReason, LinkError};

/// The name of the one channel of a link.
const CHANNEL_LABEL: &str = "spillway";
/// Rounds of events within one call: a round that goes on longer than this has something wrong with it, and the rest can wait a millisecond.
const EVENT_ROUNDS_MAX: usize = 16;
/// Packets of one link that are let in at the latest, and how long they are held at most. A sender whose congestion window is used up pauses, which lets
/// them in sooner.
const HELD_MAX: usize = 16;
const HELD_FOR: Duration = Duration::from_millis(25);
/// A timer that is due again at once is looked at again after this. No timer of the protocols is finer.
const TIMER_RESOLUTION: Duration = Duration::from_millis(1);

/// What all sessions of a hub are made with.
pub(in super::super) struct Settings {
    pub(in super::super) crypto: Arc<dyn RTCCryptoProvider>,
    pub(in super::super) window_bytes: u32,
    /// Bytes on the line are what a terminal runs out of: short records, and no thread of their own for links.
    pub(in super::super) slow: bool,
}

impl Settings {
    /// What the library is to keep to.
    pub(super) fn engine(&self, loopback: bool, packet_bytes: u32) -> SettingEngine {
        SettingEngineBuilder::new()
            .with_crypto_provider(Arc::clone(&self.crypto))
            .with_sctp_max_receive_buffer_size(self.window_bytes)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(LIBRARY_MESSAGE_BYTES))
            .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER_DISCONNECTED), Some(KEEPALIVE_INTERVAL))
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS_PER_PAIR))
            .with_include_loopback_candidate(loopback)
            // The default binds a multicast socket per link and fails where there is no multicast route.
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            .with_dtls_cipher_suites(self.cipher_suites())
            .with_sctp_mtu(packet_bytes)
            .build()
    }

    /// Certificates here are ECDSA. An end that picks one of the RSA suites of the default list leaves the handshake hanging. One end's first choice
    /// counts: ChaCha20's records are 8 bytes shorter (RFC 7905), half a percent of a line, and AES takes less than
    /// half of the processor time (7 % of the bare library's receiving end in a profile; ChaCha20 took 16 % of ours).
    fn cipher_suites(&self) -> Vec<CipherSuiteId> {
        let (chacha, aes) =
            (CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256, CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256);
        if self.slow { vec![chacha, aes] } else { vec![aes, chacha] }
    }
}

pub(super) struct Session {
    core: RTCPeerConnection,
    pub(super) channel: Arc<Channel>,
    /// The one channel: made here by the offering end, seen first when it opens by the other.
    data: Option<RTCDataChannelId>,
    offering: bool,
    /// Told once, when the channel is open.
    opened: Option<oneshot::Sender<()>>,
    inbox: mpsc::Sender<Bytes>,
    /// A message that the inbox had no room for; the ones after it stay in the library, so that the other end is held back.
    waiting: Option<Bytes>,
    closed: bool,
    /// Packets of an open link that have come and that the library has not seen.
    held: Vec<TaggedBytesMut>,
    held_since: Instant,
    /// When the library wants to be called at the latest.
    pub(super) deadline: Instant,
}

impl Session {
    /// A session that offers or, with the other end's text, answers; with its own description, which has no candidates yet.
    ///
    /// # Errors
    /// [`LinkError::Description`] if the other end's text cannot be used.
    pub(super) fn new(
        engine: SettingEngine,
        offer: Option<&str>,
        channel: Arc<Channel>,
        inbox: mpsc::Sender<Bytes>,
        opened: oneshot::Sender<()>,
        now: Instant,
    ) -> Result<Self, LinkError> {
        let mut core = RTCPeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_setting_engine(engine)
            .build(now)
            .map_err(transport)?;
        let mut data = None;
        let own = match offer {
            None => {
                // Ordered and reliable is the default; it stands here because the protocol builds on it.
                let options = RTCDataChannelInit { ordered: true, ..RTCDataChannelInit::default() };
                data = Some(core.create_data_channel(CHANNEL_LABEL, Some(options)).map_err(transport)?.id());
                core.create_offer(None).map_err(transport)?
            }
            Some(offer) => {
                let offer = RTCSessionDescription::offer(offer.to_owned()).map_err(unusable)?;
                core.set_remote_description(now, offer).map_err(unusable)?;
                core.create_answer(None).map_err(unusable)?
            }
        };
        core.set_local_description(now, own).map_err(transport)?;
        let offering = offer.is_none();
        Ok(Self {
            core,
            channel,
            data,
            offering,
            opened: Some(opened),
            inbox,
            waiting: None,
            closed: false,
            held: Vec::new(),
            held_since: now,
            deadline: now,
        })
    }

    /// Adds the local candidates and returns the whole description.
    pub(super) fn describe(&mut self, candidates: Vec<RTCIceCandidateInit>) -> Result<String, LinkError> {
        for candidate in candidates {
            self.core.add_local_candidate(candidate).map_err(transport)?;
        }
        // An empty one says that there are no more.
        self.core.add_local_candidate(RTCIceCandidateInit::default()).map_err(transport)?;
        Ok(self.core.local_description().ok_or_else(|| LinkError::Transport("no local description".into()))?.sdp)
    }

    /// Takes the other end's answer.
    ///
    /// # Errors
    /// [`LinkError::Description`] if it cannot be used.
    pub(super) fn answered(&mut self, answer: &str, now: Instant) -> Result<(), LinkError> {
        let answer = RTCSessionDescription::answer(answer.to_owned()).map_err(unusable)?;
        self.core.set_remote_description(now, answer).map_err(unusable)
    }

    /// Takes a packet that has come. Where packets come slowly, those of an open link are held while more come, because the library acknowledges together
    /// what it sees together: a burst of a dozen packets gets one acknowledgement instead of six. They are let in when a pass brings no more, or after
    /// [`HELD_MAX`] or [`HELD_FOR`].
    pub(super) fn packet(&mut self, packet: TaggedBytesMut) {
        if self.held.is_empty() {
            self.held_since = packet.now;
        }
        self.deadline = self.deadline.min(packet.now + TIMER_RESOLUTION);
        self.channel.hear(packet.now);
        self.held.push(packet);
    }

    /// Whether a pass that brought packets should leave them for the next one.
    pub(super) fn holds(&self, now: Instant) -> bool {
        let open = self.opened.is_none() && self.channel.reason().is_none();
        open && !self.held.is_empty() && self.held.len() < HELD_MAX && now < self.held_since + HELD_FOR
    }

    fn let_in(&mut self) {
        for packet in std::mem::take(&mut self.held) {
            if let Err(error) = self.core.handle_read(packet) {
                tracing::trace!(%error, "a packet of a link");
            }
        }
    }

    /// Does what is due: timers, messages to send, events, messages that came, packets to send. Returns whether the session is over and may be dropped.
    pub(super) fn round(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>) -> bool {
        if self.channel.reason().is_some() {
            return self.last_round(now, packets);
        }
        if self.deadline <= now
            && let Err(error) = self.core.handle_timeout(now)
        {
            tracing::debug!(%error, "a link's timer");
            self.channel.end(CloseReason::Lost);
            return self.last_round(now, packets);
        }
        self.let_in();
        self.send_messages(now);
        for _ in 0..EVENT_ROUNDS_MAX {
            let Some(event) = self.core.poll_event() else { break };
            self.event(event);
        }
        self.hand_over();
        while let Some(packet) = self.core.poll_write() {
            packets.push_back(packet);
        }
        if let Some(data) = self.data.filter(|_| self.opened.is_none()) {
            match self.core.data_channel(data) {
                Some(channel) => self.channel.set_in_library(channel.outstanding_bytes()),
                // The library knows the channel no more when the other end has closed it.
                None => {
                    self.channel.end(CloseReason::Remote);
                }
            }
        }
        self.deadline = self.core.poll_timeout().map_or(now + KEEPALIVE_INTERVAL, |deadline| deadline.max(now + TIMER_RESOLUTION));
        if self.channel.reason().is_some() { self.last_round(now, packets) } else { false }
    }

    /// Tells the other end, unless it was the other end that closed, and hands over what had come before.
    fn last_round(&mut self, now: Instant, packets: &mut VecDeque<TaggedBytesMut>) -> bool {
        if !self.closed {
            self.closed = true;
            if let Err(error) = self.core.close() {
                tracing::debug!(%error, "closing a link");
            }
            while let Some(packet) = self.core.poll_write() {
                packets.push_back(packet);
            }
        }
        self.hand_over();
        // The receiver calls when it has taken something.
        self.deadline = now + KEEPALIVE_INTERVAL;
        self.waiting.is_none() || self.inbox.is_closed()
    }

    fn send_messages(&mut self, now: Instant) {
        let Some(data) = self.data.filter(|_| self.opened.is_none()) else { return };
        let messages = self.channel.take_outgoing();
        if messages.is_empty() {
            return;
        }
        let Some(mut channel) = self.core.data_channel(data) else {
            self.channel.end(CloseReason::Remote);
            return;
        };
        for message in messages {
            if let Err(error) = channel.send(now, message) {
                tracing::debug!(%error, "sending over a link");
                self.channel.end(CloseReason::Remote);
                return;
            }
        }
    }

    #[allow(
        clippy::wildcard_enum_match_arm,
        reason = "the library's own enum, which grows: states on the way, candidates, media that a link does not have"
    )]
    fn event(&mut self, event: RTCPeerConnectionEvent) {
        match event {
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(RTCPeerConnectionState::Failed) => {
                self.channel.end(CloseReason::Lost);
            }
            RTCPeerConnectionEvent::OnConnectionStateChangeEvent(RTCPeerConnectionState::Closed) => {
                self.channel.end(CloseReason::Remote);
            }
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnOpen(id)) => self.channel_opened(id),
            RTCPeerConnectionEvent::OnDataChannel(RTCDataChannelEvent::OnClosing(id) | RTCDataChannelEvent::OnClose(id))
                if self.data == Some(id) =>
            {
                self.channel.end(CloseReason::Remote);
            }
            _ => {}
        }
    }

    /// The end that answers takes the first channel that is as ours are; more than one there is not.
    fn channel_opened(&mut self, id: RTCDataChannelId) {
        let ours = match self.data {
            Some(known) => known == id,
            None => {
                !self.offering && self.core.data_channel(id).is_some_and(|channel| channel.label() == CHANNEL_LABEL && channel.ordered())
            }
        };
        if !ours {
            self.channel.end(CloseReason::Violation);
            return;
        }
        self.data = Some(id);
        if let Some(opened) = self.opened.take() {
            // Nobody waits any more: the pending link was dropped, and its end is under way.
            let _ = opened.send(());
        }
    }

    /// Hands messages to the receiver as far as it has room.
    fn hand_over(&mut self) {
        loop {
            let message = match self.waiting.take() {
                Some(message) => message,
                None => match self.next_message() {
                    Some(message) => message,
                    None => return,
                },
            };
            match self.inbox.try_send(message) {
                Ok(()) => {}
                Err(TrySendError::Closed(_)) => return,
                Err(TrySendError::Full(message)) => {
                    self.waiting = Some(message);
                    self.channel.hold_back();
                    // It may have taken one just before it was asked to call.
                    if self.inbox.capacity() == 0 {
                        return;
                    }
                }
            }
        }
    }

    /// The next message, unless it is one that may not be.
    fn next_message(&mut self) -> Option<Bytes> {
        let mut read = self.core.poll_data_read();
        if read.is_none() {
            // What back-pressure had parked in the library comes with the next look.
            read = self.core.poll_read();
        }
        let RTCMessage::DataChannelMessage(_, message) = read?.message else { return None };
        let refused = if message.is_string {
            CloseReason::Violation
        } else if message.data.len() > MAX_MESSAGE_BYTES {
            CloseReason::Oversize { bytes: message.data.len() }
        } else {
            return self.channel_is_fit_for(message.data.freeze());
        };
        self.channel.end(refused);
        None
    }

    /// What comes after a violation is not handed over.
    fn channel_is_fit_for(&self, message: Bytes) -> Option<Bytes> {
        match self.channel.reason() {
            Some(CloseReason::Violation | CloseReason::Oversize { .. }) => None,
            Some(CloseReason::Local | CloseReason::Remote | CloseReason::Lost) | None => Some(message),
        }
    }
}

pub(super) fn transport(error: impl std::fmt::Display) -> LinkError {
    LinkError::Transport(error.to_string())
}

fn unusable(error: impl std::fmt::Display) -> LinkError {
    LinkError::Description(error.to_string())
}

/// Whether a local address is of use only within this machine.
pub(super) fn is_loopback(addresses: &[SocketAddr]) -> bool {
    addresses.iter().any(|address| address.ip().is_loopback())
}
