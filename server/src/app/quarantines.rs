//! Quarantines: imposed by operators or found by an audit, and carried out at once.

use protocol::TerminalId;
use protocol::rest::{NewQuarantine, Quarantine};
use time::OffsetDateTime;

use super::checks::Checks;
use crate::clock;
use crate::error::ApiError;
use crate::live::LiveError;
use crate::state::AppState;
use crate::store::idempotency::{Answer, Idempotency};

/// Stands for a terminal that is shut out in place of its WebSocket, which learns by it that it is over.
pub const SHUT_OUT: &str = "quarantined";
const NOTE_MAX: usize = 500;
const APPEAL_MAX: usize = 2000;
/// Long enough for anything that can be mended; what cannot is imposed again.
const LONGEST: time::Duration = time::Duration::days(366);

/// # Errors
/// `invalid_request` names what cannot be; else the store's.
pub async fn impose(state: &AppState, new: NewQuarantine, request: Idempotency, now: OffsetDateTime) -> Result<Answer, ApiError> {
    let mut checks = Checks::default();
    checks.text("/note", &new.note, 1..=NOTE_MAX);
    checks.ensure(new.expires_at > now, "/expires_at", "it must be later than now");
    checks.ensure(new.expires_at <= now + LONGEST, "/expires_at", "at most 366 days from now");
    checks.done()?;
    let own = state.clone();
    let imposed = async move {
        let answer = own.store.impose_quarantine(&new, &request, now).await?;
        let quarantine: Quarantine = answer.read()?;
        shut_out(&own, quarantine.terminal_id).await;
        Ok::<_, ApiError>(answer)
    };
    state.to_the_end(imposed).await
}

/// The text of an appeal or a decision.
///
/// # Errors
/// `invalid_request`.
pub fn check_appeal(text: &str) -> Result<(), ApiError> {
    let mut checks = Checks::default();
    checks.text("/text", text, 1..=APPEAL_MAX);
    checks.done()
}

/// # Errors
/// `invalid_request`.
pub fn check_decision(note: &str) -> Result<(), ApiError> {
    let mut checks = Checks::default();
    checks.text("/note", note, 0..=NOTE_MAX);
    checks.done()
}

/// Ends the terminal's WebSocket wherever it is; a new one is refused. If Redis is away, it lasts until its access token ends.
pub async fn shut_out(state: &AppState, terminal: TerminalId) {
    let ended = async {
        // A terminal that is not there must not count as connected by this.
        if !state.live.connected(&[terminal]).await?.is_empty() {
            state.live.attach(terminal, SHUT_OUT, clock::now()).await?;
        }
        Ok::<_, LiveError>(())
    };
    if let Err(error) = ended.await {
        tracing::warn!(error = &error as &dyn std::error::Error, %terminal, "a terminal in quarantine is shut out when it comes back");
    }
}
