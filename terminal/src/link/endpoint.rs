//! Making links: offers, answers, and the wait until a channel is open.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use protocol::hello::ChannelBinding;
use rtc::crypto;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::addresses;
use super::channel::{Handle, LinkId};
use super::config::{IceServer, LinkConfig, SLOW_UP_TO};
use super::description::{self, Fingerprint};
use super::ends::Link;
use super::error::{CloseReason, LinkError};
use super::hub::{Credentials, Described, Hub, Opening, Server, Settings};
use super::window;

/// A resolver that is not reachable takes 5 s and more to say so.
const RESOLVE_WITHIN: Duration = Duration::from_secs(1);

/// What the links of a process have in common. Cheap to clone.
#[derive(Clone)]
pub struct Endpoint {
    shared: Arc<Shared>,
    packet_bytes: u32,
}

struct Shared {
    config: LinkConfig,
    window_bytes: u32,
    hub: Hub,
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
    hub: Hub,
    id: LinkId,
    handle: Handle,
    inbox: mpsc::Receiver<Bytes>,
    opened: oneshot::Receiver<()>,
    role: Role,
    send_buffer_bytes: usize,
}

enum Role {
    Offering { own: Fingerprint },
    Answering { binding: ChannelBinding },
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("handle", &self.handle).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Asks the kernel what it grants, fixes the window, and starts what carries the links: with a slow line on the runtime that it is called from.
    ///
    /// # Errors
    /// [`LinkError::Transport`] if the machine has no socket or thread to give.
    pub fn new(config: LinkConfig) -> Result<Self, LinkError> {
        let window_bytes = window::granted(config.window_bytes).map_err(transport)?;
        let crypto = crypto::default_provider().map_err(transport)?;
        let slow = (1..=SLOW_UP_TO.0).contains(&config.line.rate().0);
        let settings = Settings { crypto, window_bytes, slow };
        let hub = Hub::start(settings, config.line.clone(), config.warnings.clone())?;
        let packet_bytes = config.packet_bytes;
        Ok(Self { shared: Arc::new(Shared { config, window_bytes, hub }), packet_bytes })
    }

    /// The same endpoint, for links over a path that does not take longer packets than these (see [`LinkConfig::packet_bytes`]).
    #[must_use]
    pub fn with_packets_up_to(&self, bytes: u32) -> Self {
        Self { shared: Arc::clone(&self.shared), packet_bytes: bytes.min(self.packet_bytes) }
    }

    /// Gives the endpoint up and waits, once its other clones and all links are gone too, until other ends and servers have been told.
    pub async fn close(self) {
        let hub = self.shared.hub.clone();
        drop(self);
        hub.ended().await;
    }

    /// The SCTP receive window of each link, in bytes: what was configured, or less where the kernel grants less.
    #[must_use]
    pub fn window_bytes(&self) -> u32 {
        self.shared.window_bytes
    }

    /// Starts a link from this end (the smaller terminal id offers). The text has all candidates in it.
    pub async fn offer(&self) -> Result<(Pending, String), LinkError> {
        let described = self.open(None).await?;
        let own = description::check(&described.sdp)?;
        Ok(self.pending(described, Role::Offering { own }))
    }

    /// Takes the offer of the other end and writes the answer.
    ///
    /// # Errors
    /// [`LinkError::Description`] for an offer that cannot be used.
    pub async fn accept(&self, offer: &str) -> Result<(Pending, String), LinkError> {
        let offerer = description::check(offer)?;
        let described = self.open(Some(offer.to_owned())).await?;
        let binding = ChannelBinding { offerer, answerer: description::check(&described.sdp)? };
        Ok(self.pending(described, Role::Answering { binding }))
    }

    async fn open(&self, offer: Option<String>) -> Result<Described, LinkError> {
        let config = &self.shared.config;
        let addresses = addresses::to_bind(&config.bind, config.include_loopback)?;
        let servers = resolved(&config.ice_servers).await;
        let opening = Opening {
            offer,
            addresses,
            servers,
            turn_only: config.turn_only,
            gather_within: config.gather_timeout,
            packet_bytes: self.packet_bytes,
        };
        self.shared.hub.open(opening).await
    }

    fn pending(&self, described: Described, role: Role) -> (Pending, String) {
        let Described { sdp, id, handle, inbox, opened } = described;
        let hub = self.shared.hub.clone();
        (Pending { hub, id, handle, inbox, opened, role, send_buffer_bytes: self.shared.config.send_buffer_bytes }, sdp)
    }
}

impl Pending {
    /// Waits until the channel is open. The end that offered passes the answer, the other end `None`.
    ///
    /// # Errors
    /// [`LinkError::Deadline`] when it is not open by then, [`LinkError::Description`] for an answer that cannot be used,
    /// [`LinkError::Closed`] when the ends did not reach each other or the other end gave up.
    pub async fn complete(self, answer_sdp: Option<&str>, deadline: Instant) -> Result<Link, LinkError> {
        let Self { hub, id, handle, inbox, opened, role, send_buffer_bytes } = self;
        let opening = async {
            let binding = match role {
                Role::Offering { own } => {
                    let answer = answer_sdp.ok_or_else(|| LinkError::Description("the offering end needs the answer".into()))?;
                    let binding = ChannelBinding { offerer: own, answerer: description::check(answer)? };
                    hub.answer(id, answer.to_owned()).await?;
                    binding
                }
                Role::Answering { binding } => binding,
            };
            opened.await.map_err(|_| LinkError::Closed(handle.reason().unwrap_or(CloseReason::Lost)))?;
            Ok(Link::new(handle.clone(), inbox, binding, send_buffer_bytes))
        };
        until(deadline, &handle, opening).await
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

/// The servers with their names looked up. One whose name is not known now is left out, and tried again with the next link.
async fn resolved(servers: &[IceServer]) -> Vec<Server> {
    let mut resolved = Vec::new();
    for server in servers {
        for url in &server.urls {
            let Some((host, port, relays)) = address_of(url) else {
                tracing::warn!(%url, "only stun: and turn: over UDP are supported");
                continue;
            };
            let credentials = relays.then(|| Credentials { username: server.username.clone(), password: server.credential.clone() });
            let found = tokio::time::timeout(RESOLVE_WITHIN, tokio::net::lookup_host((host, port))).await;
            let addresses: Vec<SocketAddr> = match found {
                Ok(Ok(addresses)) => addresses.collect(),
                Ok(Err(_)) | Err(_) => {
                    tracing::warn!(%url, "the name of a STUN or TURN server cannot be looked up");
                    continue;
                }
            };
            // One address of each family: more are the same server once more.
            for v4 in [true, false] {
                let address = addresses.iter().copied().find(|address| address.is_ipv4() == v4);
                resolved.extend(address.map(|address| Server { address, credentials: credentials.clone() }));
            }
        }
    }
    resolved
}

/// Host, port and whether it relays, of `stun:host:port` or `turn:host:port?transport=udp` (RFC 7064, RFC 7065).
fn address_of(url: &str) -> Option<(&str, u16, bool)> {
    const PORT: u16 = 3478;
    let (scheme, rest) = url.split_once(':')?;
    let relays = match scheme {
        "stun" => false,
        "turn" => true,
        _ => return None,
    };
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    // RFC 7064 knows no query; configurations have it all the same.
    if !query.is_empty() && query != "transport=udp" {
        return None;
    }
    let (host, port) = match place.strip_prefix('[') {
        Some(v6) => {
            let (host, port) = v6.split_once(']')?;
            (host, port.strip_prefix(':'))
        }
        None => place.split_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Some(PORT), |port| port.parse().ok())?;
    (!host.is_empty()).then_some((host, port, relays))
}

fn transport(error: impl std::fmt::Display) -> LinkError {
    LinkError::Transport(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_servers_are_read_as_the_rfcs_write_them() {
        for (url, expected) in [
            ("stun:stun.example.org", Some(("stun.example.org", 3478, false))),
            ("stun:192.0.2.1:5000", Some(("192.0.2.1", 5000, false))),
            ("stun:[2001:db8::1]:5000", Some(("2001:db8::1", 5000, false))),
            ("stun:[2001:db8::1]", Some(("2001:db8::1", 3478, false))),
            ("turn:turn.example.org:3479?transport=udp", Some(("turn.example.org", 3479, true))),
            ("turn:turn.example.org?transport=tcp", None),
            ("turns:turn.example.org", None),
            ("stun:", None),
            ("stun:host:port", None),
            ("turn.example.org", None),
            ("stun:[2001:db8::1", None),
        ] {
            assert_eq!(address_of(url), expected, "{url}");
        }
    }
}
