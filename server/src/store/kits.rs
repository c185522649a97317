//! Kits, and the chains of their balance statements. Which of two copies goes on is decided in [`rules::kit`].

use protocol::rest::{BalanceStatement, Kit, NewKit, NextStatement, Page, SignedStatement, Wallet};
use protocol::{AttemptId, Blake3, ErrorCode, KitId, PublicKey, Signature, TerminalId, UserId};
use rules::kit::{ChainEnd, Verdict, judge};
use sqlx::types::Json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::conversions::{bigint, byte_array, stored_time};
use super::{PageRequest, Store, StoreError};

/// What signs for kits.
pub trait KitSigner {
    fn public_key(&self) -> PublicKey;
    fn sign_statement(&self, statement: &BalanceStatement) -> Signature;
    fn sign_files(&self, kit: KitId, files: &Blake3) -> Signature;
}

#[derive(sqlx::FromRow)]
struct KitRow {
    id: Uuid,
    terminal_id: Uuid,
    files: Vec<u8>,
    created_at: OffsetDateTime,
    forked_at: Option<OffsetDateTime>,
    statement: Json<SignedStatement>,
    attempt: Option<Uuid>,
}

impl KitRow {
    fn kit(self, signer: &impl KitSigner) -> Result<Kit, StoreError> {
        let (id, files) = (KitId(self.id), Blake3(byte_array(&self.files)?));
        Ok(Kit {
            id,
            terminal_id: TerminalId(self.terminal_id),
            files,
            files_signature: signer.sign_files(id, &files),
            public_key: signer.public_key(),
            created_at: self.created_at,
            forked_at: self.forked_at,
            statement: self.statement.0,
        })
    }

    fn end(&self) -> ChainEnd {
        let last = &self.statement.0.statement;
        ChainEnd { sequence: last.sequence, hash: last.hash(), previous: last.previous, attempt: self.attempt.map(AttemptId) }
    }
}

fn signed(signer: &impl KitSigner, wallet: &Wallet, kit_id: KitId, place: (u64, Blake3), at: OffsetDateTime) -> SignedStatement {
    let (sequence, previous) = place;
    let statement =
        BalanceStatement { kit_id, sequence, previous, available: wallet.available, held: wallet.held, at: at.truncate_to_millisecond() };
    SignedStatement { signature: signer.sign_statement(&statement), statement }
}

const COLUMNS: &str = "id, terminal_id, files, created_at, forked_at, statement, attempt";

impl Store {
    /// Makes an own terminal a kit's, with a first statement; answers the kit that it is already if it is asked for once more.
    ///
    /// # Errors
    /// `not_found` for another owner's terminal, `conflict` if it is another kit's, or the kit another terminal's.
    pub async fn create_kit(
        &self,
        owner: UserId,
        terminal: TerminalId,
        new: &NewKit,
        signer: &impl KitSigner,
        now: OffsetDateTime,
    ) -> Result<Kit, StoreError> {
        let now = stored_time(now);
        let own: Option<bool> = sqlx::query_scalar("SELECT true FROM terminals WHERE id = $1 AND user_id = $2")
            .bind(terminal.0)
            .bind(owner.0)
            .fetch_optional(&self.pool)
            .await?;
        own.ok_or(StoreError::NotFound("terminal"))?;
        let first = signed(signer, &self.wallet(owner).await?, new.id, (1, Blake3([0; 32])), now);
        sqlx::query(
            "INSERT INTO kits (id, user_id, terminal_id, files, created_at, sequence, statement) VALUES ($1, $2, $3, $4, $5, 1, $6) ON CONFLICT DO NOTHING",
        )
        .bind(new.id.0)
        .bind(owner.0)
        .bind(terminal.0)
        .bind(new.files.0.as_slice())
        .bind(now)
        .bind(Json(first))
        .execute(&self.pool)
        .await?;
        let statement = format!("SELECT {COLUMNS} FROM kits WHERE id = $1 AND terminal_id = $2 AND user_id = $3 AND files = $4");
        let row: Option<KitRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(new.id.0)
            .bind(terminal.0)
            .bind(owner.0)
            .bind(new.files.0.as_slice())
            .fetch_optional(&self.pool)
            .await?;
        let taken = || StoreError::refused_because(ErrorCode::Conflict, "This terminal is another kit's, or this kit another terminal's.");
        row.ok_or_else(taken)?.kit(signer)
    }

    /// The kits of an owner, by id.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn kits(&self, owner: UserId, request: &PageRequest, signer: &impl KitSigner) -> Result<Page<Kit>, StoreError> {
        let statement = format!("SELECT {COLUMNS} FROM kits WHERE user_id = $1 AND ($2::uuid IS NULL OR id > $2) ORDER BY id LIMIT $3");
        let rows: Vec<KitRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(owner.0)
            .bind(request.after::<Uuid>()?)
            .bind(request.rows_wanted())
            .fetch_all(&self.pool)
            .await?;
        let kits = rows.into_iter().map(|row| row.kit(signer)).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(kits, |kit| kit.id))
    }

    /// The next statement of an own kit, or the last one once more if its answer was lost.
    ///
    /// # Errors
    /// `not_found`; `kit_forked` if what it presents is not the end of its chain, from then on for every copy of it.
    pub async fn next_statement(
        &self,
        owner: UserId,
        kit: KitId,
        presented: &NextStatement,
        signer: &impl KitSigner,
        now: OffsetDateTime,
    ) -> Result<SignedStatement, StoreError> {
        // Before the transaction: a second connection inside one could wait for itself.
        let wallet = self.wallet(owner).await?;
        let mut tx = self.begin().await?;
        let statement = format!("SELECT {COLUMNS} FROM kits WHERE id = $1 AND user_id = $2 FOR UPDATE");
        let row: Option<KitRow> = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(kit.0).bind(owner.0).fetch_optional(&mut *tx).await?;
        let row = row.ok_or(StoreError::NotFound("kit"))?;
        if row.forked_at.is_some() {
            return Err(StoreError::refused(ErrorCode::KitForked));
        }
        let end = row.end();
        match judge(&end, presented) {
            Verdict::Again => Ok(row.statement.0),
            Verdict::Forked => {
                sqlx::query("UPDATE kits SET forked_at = $2 WHERE id = $1").bind(kit.0).bind(now).execute(&mut *tx).await?;
                tx.commit().await?;
                Err(StoreError::refused(ErrorCode::KitForked))
            }
            Verdict::Next => {
                let next = signed(signer, &wallet, kit, (end.sequence + 1, end.hash), stored_time(now));
                sqlx::query("UPDATE kits SET sequence = $2, statement = $3, attempt = $4 WHERE id = $1")
                    .bind(kit.0)
                    .bind(bigint(next.statement.sequence)?)
                    .bind(Json(&next))
                    .bind(presented.attempt.0)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(next)
            }
        }
    }

    /// Whether a terminal is that of a kit that was copied.
    ///
    /// # Errors
    /// The database fails.
    pub async fn is_forked(&self, terminal: TerminalId) -> Result<bool, StoreError> {
        Ok(sqlx::query_scalar("SELECT EXISTS (SELECT FROM kits WHERE terminal_id = $1 AND forked_at IS NOT NULL)")
            .bind(terminal.0)
            .fetch_one(&self.pool)
            .await?)
    }
}
