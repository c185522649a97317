//! Making links: offers, answers, and the wait until a channel is open.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;

use protocol::hello::ChannelBinding;
use rtc::ice::mdns::MulticastDnsMode;
use rtc::peer_connection::configuration::setting_engine::SctpMaxMessageSize;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;
use webrtc::data_channel::{DataChannel, DataChannelEvent, RTCDataChannelInit};
use webrtc::peer_connection::crypto::{self, RTCCryptoProvider};
use webrtc::peer_connection::{
    CipherSuiteId, PeerConnection, PeerConnectionBuilder, RTCConfigurationBuilder, RTCIceServer, RTCSessionDescription, SettingEngine,
    SettingEngineBuilder,
};

use super::addresses;
use super::config::{
    CHECK_INTERVAL, CHECKS_PER_PAIR, DISCONNECTED_AFTER, FAILED_AFTER_DISCONNECTED, IceServer, KEEPALIVE_INTERVAL, LIBRARY_MESSAGE_BYTES,
    LinkConfig,
};
use super::connection::{Events, Fate, Handle};
use super::description::{self, Fingerprint};
use super::ends::Link;
use super::error::{CloseReason, LinkError};
use super::runtime::{self, LinkRuntime};

/// The name of the one channel of a link.
const CHANNEL_LABEL: &str = "spillway";

/// One thread for all links of the process. The library builds its pool once, with the first link; more threads cost memory and gain nothing while
/// one carries 200 MB/s and more.
const REACTOR_THREADS: usize = 1;

/// What the links of a process have in common. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
}

struct Shared {
    config: LinkConfig,
    window_bytes: u32,
    crypto: Arc<dyn RTCCryptoProvider>,
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint")
            .field("config", &self.shared.config)
            .field("window_bytes", &self.shared.window_bytes)
            .finish_non_exhaustive()
    }
}

/// A link whose description is written and whose channel is not open yet. Dropping it gives it up.
pub struct Pending {
    connection: Arc<dyn PeerConnection>,
    handle: Handle,
    role: Role,
    send_buffer_bytes: usize,
}

enum Role {
    Offering { channel: Arc<dyn DataChannel>, own: Fingerprint },
    Answering { accepted: oneshot::Receiver<Arc<dyn DataChannel>>, binding: ChannelBinding },
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("handle", &self.handle).finish_non_exhaustive()
    }
}

/// A connection of the library with nothing negotiated yet.
struct Fresh {
    connection: Arc<dyn PeerConnection>,
    handle: Handle,
    gathered: watch::Receiver<bool>,
}

impl Endpoint {
    /// Asks the kernel what it grants and fixes the window.
    pub fn new(config: LinkConfig) -> Result<Self, LinkError> {
        let window_bytes = runtime::window_granted(config.window_bytes).map_err(transport)?;
        let crypto = crypto::default_provider().map_err(transport)?;
        Ok(Self { shared: Arc::new(Shared { config, window_bytes, crypto }) })
    }

    /// The SCTP receive window of each link, in bytes: what was configured, or less where the kernel grants less.
    #[must_use]
    pub fn window_bytes(&self) -> u32 {
        self.shared.window_bytes
    }

    /// Starts a link from this end (the smaller terminal id offers). The text has all candidates in it.
    pub async fn offer(&self) -> Result<(Pending, String), LinkError> {
        let fresh = self.connection(None).await?;
        // Ordered and reliable is the default; it stands here because the protocol builds on it.
        let options = RTCDataChannelInit { ordered: true, ..RTCDataChannelInit::default() };
        let channel = fresh.connection.create_data_channel(CHANNEL_LABEL, Some(options)).await.map_err(transport)?;
        let offer = fresh.connection.create_offer(None).await.map_err(transport)?;
        let sdp = self.describe(&fresh, offer).await?;
        let own = description::check(&sdp)?;
        Ok((self.pending(fresh, Role::Offering { channel, own }), sdp))
    }

    /// Takes the offer of the other end and writes the answer.
    pub async fn accept(&self, offer_sdp: &str) -> Result<(Pending, String), LinkError> {
        let offerer = description::check(offer_sdp)?;
        // Parsed before anything is opened: a wrong text costs no sockets.
        let offer = RTCSessionDescription::offer(offer_sdp.to_owned()).map_err(unusable)?;
        let (accepted_sender, accepted) = oneshot::channel();
        let fresh = self.connection(Some(accepted_sender)).await?;
        fresh.connection.set_remote_description(offer).await.map_err(unusable)?;
        let answer = fresh.connection.create_answer(None).await.map_err(unusable)?;
        let sdp = self.describe(&fresh, answer).await?;
        let binding = ChannelBinding { offerer, answerer: description::check(&sdp)? };
        Ok((self.pending(fresh, Role::Answering { accepted, binding }), sdp))
    }

    fn pending(&self, fresh: Fresh, role: Role) -> Pending {
        Pending { connection: fresh.connection, handle: fresh.handle, role, send_buffer_bytes: self.shared.config.send_buffer_bytes }
    }

    /// Binds the sockets and starts the connection's driver and its supervisor.
    async fn connection(&self, accepted: Option<oneshot::Sender<Arc<dyn DataChannel>>>) -> Result<Fresh, LinkError> {
        let config = &self.shared.config;
        let addresses = addresses::to_bind(&config.bind, config.include_loopback)?;
        let (gathered_sender, gathered) = watch::channel(false);
        let fate = Fate::new();
        let events = Events::new(gathered_sender, fate.clone(), accepted);
        let servers = config.ice_servers.iter().map(library_server).collect();
        let connection = PeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().with_ice_servers(servers).build())
            .with_setting_engine(self.settings(&addresses))
            .with_handler(Arc::new(events))
            .with_udp_addrs(addresses)
            .with_dedicated_reactor_pool_size(REACTOR_THREADS)
            .with_runtime(Arc::new(LinkRuntime { sent: config.sent.clone() }))
            .build()
            .await
            .map_err(transport)?;
        let connection: Arc<dyn PeerConnection> = Arc::new(connection);
        let handle = Handle::supervise(Arc::clone(&connection), fate);
        Ok(Fresh { connection, handle, gathered })
    }

    fn settings(&self, addresses: &[SocketAddr]) -> SettingEngine {
        let loopback = addresses.iter().any(|address| address.ip().is_loopback());
        let settings = SettingEngineBuilder::new()
            .with_crypto_provider(Arc::clone(&self.shared.crypto))
            .with_sctp_max_receive_buffer_size(self.shared.window_bytes)
            .with_sctp_max_message_size(SctpMaxMessageSize::Bounded(LIBRARY_MESSAGE_BYTES))
            .with_ice_timeouts(Some(DISCONNECTED_AFTER), Some(FAILED_AFTER_DISCONNECTED), Some(KEEPALIVE_INTERVAL))
            .with_ice_connection_attempts(Some(CHECK_INTERVAL), Some(CHECKS_PER_PAIR))
            .with_include_loopback_candidate(loopback)
            // The default binds a multicast socket per link and fails where there is no multicast route.
            .with_multicast_dns_mode(MulticastDnsMode::Disabled)
            // Certificates here are ECDSA. An end that picks one of the RSA suites of the default list leaves the handshake hanging.
            .with_dtls_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_ChaCha20_Poly1305_Sha256,
            ]);
        match self.shared.config.packet_bytes {
            Some(packet_bytes) => settings.with_sctp_mtu(packet_bytes).build(),
            None => settings.build(),
        }
    }

    /// Applies the own description, waits for the candidates and returns the text with all of them.
    async fn describe(&self, fresh: &Fresh, own: RTCSessionDescription) -> Result<String, LinkError> {
        fresh.connection.set_local_description(own).await.map_err(transport)?;
        let mut gathered = fresh.gathered.clone();
        // A server that does not answer must not hold the link: what was gathered until then is used.
        let _ = tokio::time::timeout(self.shared.config.gather_timeout, gathered.wait_for(|done| *done)).await;
        let description = fresh.connection.local_description().await.ok_or_else(|| LinkError::Transport("no local description".into()))?;
        Ok(description.sdp)
    }
}

impl Pending {
    /// Waits until the channel is open. The end that offered passes the answer, the other end `None`.
    ///
    /// # Errors
    /// [`LinkError::Deadline`] when it is not open by then, [`LinkError::Description`] for an answer that cannot be used,
    /// [`LinkError::Closed`] when the ends did not reach each other or the other end gave up.
    pub async fn complete(self, answer_sdp: Option<&str>, deadline: Instant) -> Result<Link, LinkError> {
        let Self { connection, handle, role, send_buffer_bytes } = self;
        let opened = async {
            match role {
                Role::Offering { channel, own } => {
                    let answer = answer_sdp.ok_or_else(|| LinkError::Description("the offering end needs the answer".into()))?;
                    let binding = ChannelBinding { offerer: own, answerer: description::check(answer)? };
                    let answer = RTCSessionDescription::answer(answer.to_owned()).map_err(unusable)?;
                    connection.set_remote_description(answer).await.map_err(unusable)?;
                    Ok((channel, binding))
                }
                Role::Answering { accepted, binding } => {
                    let channel = accepted.await.map_err(|_| LinkError::Closed(CloseReason::Lost))?;
                    expect_our_channel(&*channel).await?;
                    Ok((channel, binding))
                }
            }
        };
        let opened = async {
            let (channel, binding) = opened.await?;
            wait_for_open(&*channel).await?;
            Ok(Link::new(channel, handle.clone(), binding, send_buffer_bytes))
        };
        until(deadline, &handle, opened).await
    }
}

/// Runs `opening` until the deadline or the end of the connection.
async fn until(deadline: Instant, handle: &Handle, opening: impl Future<Output = Result<Link, LinkError>>) -> Result<Link, LinkError> {
    let result = tokio::select! {
        result = opening => result,
        reason = handle.ending() => Err(LinkError::Closed(reason)),
        () = tokio::time::sleep_until(deadline) => Err(LinkError::Deadline),
    };
    if result.is_err() {
        handle.end(CloseReason::Local);
    }
    result
}

async fn expect_our_channel(channel: &dyn DataChannel) -> Result<(), LinkError> {
    let label = channel.label().await.map_err(transport)?;
    let ordered = channel.ordered().await.map_err(transport)?;
    if label != CHANNEL_LABEL || !ordered {
        return Err(LinkError::Closed(CloseReason::Violation));
    }
    Ok(())
}

async fn wait_for_open(channel: &dyn DataChannel) -> Result<(), LinkError> {
    match channel.poll().await {
        Some(DataChannelEvent::OnOpen) => Ok(()),
        _ => Err(LinkError::Closed(CloseReason::Lost)),
    }
}

fn library_server(server: &IceServer) -> RTCIceServer {
    RTCIceServer { urls: server.urls.clone(), username: server.username.clone(), credential: server.credential.clone() }
}

fn transport(error: impl std::fmt::Display) -> LinkError {
    LinkError::Transport(error.to_string())
}

fn unusable(error: impl std::fmt::Display) -> LinkError {
    LinkError::Description(error.to_string())
}
