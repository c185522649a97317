//! Challenge, hello, welcome: the terminal proves that it holds its key, and takes its place.

use std::time::Duration;

use protocol::ws::{Capabilities, ClientMessage, PushPosition, ServerMessage, challenge_bytes};
use protocol::{Blake3, ErrorCode, PROTOCOL_VERSION, Signature, TerminalId};

use super::outbox::Outbox;
use crate::app::swarm::planning;
use crate::auth::Caller;
use crate::clock::{self, to_timestamp_ms};
use crate::error::ApiError;
use crate::live::{Attachment, Pushes, fresh_token};
use crate::state::AppState;

/// How long a terminal may take to answer the challenge.
pub(super) const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How often terminals report progress and receipts: fresh enough to watch, and little enough for ten thousand terminals.
const REPORT_INTERVAL_MS: u32 = 1_000;

/// A terminal that has proved who it is.
#[derive(Debug)]
pub(super) struct Greeted {
    pub(super) terminal: TerminalId,
    /// Names this WebSocket among all of the terminal's.
    pub(super) token: String,
    pub(super) attachment: Attachment,
    /// Where the pushes to be forwarded begin.
    pub(super) position: PushPosition,
}

/// What a hello claims.
#[derive(Debug)]
pub(super) struct Claim {
    protocol: u16,
    terminal_id: TerminalId,
    signature: Signature,
    capabilities: Capabilities,
    resume: Option<PushPosition>,
}

impl Claim {
    /// # Errors
    /// `unauthenticated`: the first message was something else.
    pub(super) fn from_message(message: ClientMessage) -> Result<Self, ApiError> {
        let ClientMessage::Hello { protocol, terminal_id, signature, capabilities, resume } = message else {
            return Err(ApiError::new(ErrorCode::Unauthenticated).detail("The first message must be a hello."));
        };
        Ok(Self { protocol, terminal_id, signature, capabilities, resume })
    }
}

/// Sends the challenge.
///
/// # Errors
/// The system gives no random bytes.
pub(super) fn challenge(outbox: &Outbox) -> Result<Blake3, ApiError> {
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(|error| ApiError::internal(error.to_string()))?;
    let nonce = Blake3(nonce);
    outbox.send(&ServerMessage::Challenge { nonce, server_time: to_timestamp_ms(clock::now()) });
    Ok(nonce)
}

/// Checks the claim, makes this WebSocket the terminal's, and welcomes it.
///
/// # Errors
/// `protocol_version`, `not_found` for a terminal that is not the caller's, `unauthenticated` for a wrong signature; or a store fails.
pub(super) async fn welcome(state: &AppState, outbox: &Outbox, caller: Caller, nonce: &Blake3, claim: Claim) -> Result<Greeted, ApiError> {
    if claim.protocol != PROTOCOL_VERSION {
        return Err(ApiError::new(ErrorCode::ProtocolVersion).detail(format!("This server speaks version {PROTOCOL_VERSION}.")));
    }
    let terminal = claim.terminal_id;
    let known = state.store.terminal(terminal).await?.filter(|known| known.owner == caller.user_id);
    let known =
        known.ok_or_else(|| ApiError::not_found().detail("You have no such terminal.").at("/terminal_id", "no terminal of yours"))?;
    if !known.terminal.public_key.verifies(&challenge_bytes(nonce, terminal), &claim.signature) {
        return Err(ApiError::new(ErrorCode::Unauthenticated).at("/signature", "the challenge is not signed by this terminal's key"));
    }
    if state.store.is_forked(terminal).await? {
        return Err(ApiError::new(ErrorCode::KitForked));
    }
    state.store.check_quarantine(terminal, clock::now()).await?;
    let measured = merged(known.terminal.capabilities, claim.capabilities);
    if measured != known.terminal.capabilities {
        state.store.set_capabilities(terminal, measured).await?;
    }
    let token = fresh_token();
    let attachment = state.live.attach(terminal, &token, clock::now()).await?;
    let resumed = match claim.resume {
        Some(position) => matches!(state.live.pushes(terminal, &token, position, clock::now()).await?, Pushes::Next(_)),
        None => false,
    };
    let position = claim.resume.filter(|_| resumed).unwrap_or(attachment.end);
    outbox.send(&ServerMessage::Welcome {
        server_time: to_timestamp_ms(clock::now()),
        position,
        resumed,
        ice_servers: state.config.ice_servers.0.clone(),
        report_interval_ms: REPORT_INTERVAL_MS,
    });
    if !resumed {
        planning::tell_everything(state, terminal).await?;
    }
    Ok(Greeted { terminal, token, attachment, position })
}

/// What was measured now over what was known; 0 is unknown.
fn merged(known: Capabilities, measured: Capabilities) -> Capabilities {
    let of = |known: protocol::BitsPerSecond, measured: protocol::BitsPerSecond| if measured.0 == 0 { known } else { measured };
    Capabilities { up: of(known.up, measured.up), down: of(known.down, measured.down) }
}
