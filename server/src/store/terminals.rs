//! Client machines: their owners, keys and capabilities.

use protocol::rest::{Page, Terminal};
use protocol::ws::Capabilities;
use protocol::{BitsPerSecond, ErrorCode, PublicKey, TerminalId, UserId};
use sqlx::Row;
use sqlx::postgres::PgRow;

use super::conversions::{bigint, byte_array, stored_time, unsigned};
use super::{PageRequest, Store, StoreError};

/// A terminal and whose it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OwnedTerminal {
    pub owner: UserId,
    pub terminal: Terminal,
}

fn terminal_of(row: &PgRow) -> Result<Terminal, StoreError> {
    Ok(Terminal {
        id: TerminalId(row.try_get("id")?),
        name: row.try_get("name")?,
        public_key: PublicKey(byte_array(row.try_get("public_key")?)?),
        capabilities: Capabilities {
            up: BitsPerSecond(unsigned(row.try_get("up_bps")?)?),
            down: BitsPerSecond(unsigned(row.try_get("down_bps")?)?),
        },
        created_at: row.try_get("created_at")?,
    })
}

impl Store {
    /// Registers a terminal for its owner.
    ///
    /// # Errors
    /// `conflict` if a terminal with this key is registered.
    pub async fn create_terminal(&self, owner: UserId, terminal: &Terminal) -> Result<(), StoreError> {
        let inserted = sqlx::query(
            "INSERT INTO terminals (id, user_id, name, public_key, up_bps, down_bps, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (public_key) DO NOTHING",
        )
        .bind(terminal.id.0)
        .bind(owner.0)
        .bind(&terminal.name)
        .bind(terminal.public_key.0.as_slice())
        .bind(bigint(terminal.capabilities.up.0)?)
        .bind(bigint(terminal.capabilities.down.0)?)
        .bind(stored_time(terminal.created_at))
        .execute(&self.pool)
        .await?;
        if inserted.rows_affected() == 0 {
            return Err(StoreError::refused_because(ErrorCode::Conflict, "A terminal with this key is registered."));
        }
        Ok(())
    }

    /// Any terminal, with its owner.
    pub async fn terminal(&self, id: TerminalId) -> Result<Option<OwnedTerminal>, StoreError> {
        let row = sqlx::query("SELECT id, user_id, name, public_key, up_bps, down_bps, created_at FROM terminals WHERE id = $1")
            .bind(id.0)
            .fetch_optional(&self.pool)
            .await?;
        row.map(|row| Ok(OwnedTerminal { owner: UserId(row.try_get("user_id")?), terminal: terminal_of(&row)? })).transpose()
    }

    /// What a terminal has measured about itself.
    pub async fn set_capabilities(&self, id: TerminalId, capabilities: Capabilities) -> Result<(), StoreError> {
        sqlx::query("UPDATE terminals SET up_bps = $2, down_bps = $3 WHERE id = $1")
            .bind(id.0)
            .bind(bigint(capabilities.up.0)?)
            .bind(bigint(capabilities.down.0)?)
            .execute(&self.pool)
            .await?;
        Ok(())
    }

    /// A user's terminals, oldest first.
    pub async fn terminals_of(&self, owner: UserId, request: &PageRequest) -> Result<Page<Terminal>, StoreError> {
        let after = request.after::<uuid::Uuid>()?;
        let rows = sqlx::query(
            "SELECT id, name, public_key, up_bps, down_bps, created_at FROM terminals
             WHERE user_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3",
        )
        .bind(owner.0)
        .bind(after)
        .bind(request.rows_wanted())
        .fetch_all(&self.pool)
        .await?;
        let terminals = rows.iter().map(terminal_of).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(terminals, |terminal| terminal.id))
    }
}
