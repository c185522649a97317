//! Registration of client machines.

use protocol::rest::{NewTerminal, Terminal};
use protocol::{TerminalId, UserId};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::error::ApiError;
use crate::state::AppState;

/// Adds a terminal whose owner proves that the key is at hand. The field limits are checked.
pub async fn register(state: &AppState, owner: UserId, new: NewTerminal, now: OffsetDateTime) -> Result<Terminal, ApiError> {
    if !new.public_key.verifies(&NewTerminal::proof_bytes(owner), &new.proof) {
        return Err(ApiError::invalid("/proof", "this is not the key's signature of your user id"));
    }
    let terminal = Terminal {
        id: TerminalId(Uuid::now_v7()),
        name: new.name,
        public_key: new.public_key,
        capabilities: new.capabilities,
        created_at: now,
    };
    state.store.create_terminal(owner, &terminal).await?;
    Ok(terminal)
}
