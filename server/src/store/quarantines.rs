//! Quarantines: who is shut out, why and until when; what owners say to it and operators decide. One that is in force refuses connections, applications
//! and downloads of its terminal ([`refuse_quarantined`]).

use protocol::rest::{Appeal, AuditEvidence, Decision, EventType, NewDecision, NewQuarantine, Page, Quarantine, QuarantineReason};
use protocol::{ErrorCode, QuarantineId, TerminalId, UserId};
use serde_json::json;
use sqlx::PgConnection;
use sqlx::types::Json;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::conversions::stored_time;
use super::idempotency::{Answer, Begun, Idempotency, commit_once};
use super::outbox::{self, Told};
use super::{PageRequest, Store, StoreError};

/// How long a terminal is shut out that was found by an audit.
const FOUND_FOR: time::Duration = time::Duration::days(30);

/// Who reads quarantines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QuarantineViewer {
    /// Those of the own terminals.
    Owner(UserId),
    Operator,
}

impl QuarantineViewer {
    fn owner(self) -> Option<Uuid> {
        match self {
            Self::Owner(user_id) => Some(user_id.0),
            Self::Operator => None,
        }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    id: Uuid,
    terminal_id: Uuid,
    user_id: Uuid,
    reason: String,
    note: String,
    evidence: Option<Json<AuditEvidence>>,
    begun_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    appeal: Option<String>,
    appealed_at: Option<OffsetDateTime>,
    lifted: Option<bool>,
    decision: Option<String>,
    decided_at: Option<OffsetDateTime>,
}

const COLUMNS: &str =
    "id, terminal_id, user_id, reason, note, evidence, begun_at, expires_at, appeal, appealed_at, lifted, decision, decided_at";

impl Row {
    fn quarantine(self) -> Result<Quarantine, StoreError> {
        let reason: QuarantineReason = self.reason.parse().map_err(|_| StoreError::Invariant(format!("{} is no reason", self.reason)))?;
        Ok(Quarantine {
            id: QuarantineId(self.id),
            terminal_id: TerminalId(self.terminal_id),
            reason,
            note: self.note,
            evidence: self.evidence.map(|evidence| evidence.0),
            begun_at: self.begun_at,
            expires_at: self.expires_at,
            appeal: self.appeal.zip(self.appealed_at).map(|(text, at)| Appeal { text, at }),
            decision: self.lifted.zip(self.decision).zip(self.decided_at).map(|((lifted, note), at)| Decision { lifted, note, at }),
        })
    }
}

async fn read(connection: &mut PgConnection, id: QuarantineId, viewer: QuarantineViewer, lock: bool) -> Result<Row, StoreError> {
    let lock = if lock { "FOR UPDATE" } else { "" };
    let statement = format!("SELECT {COLUMNS} FROM quarantines WHERE id = $1 AND ($2::uuid IS NULL OR user_id = $2) {lock}");
    let row = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(id.0).bind(viewer.owner()).fetch_optional(connection).await?;
    row.ok_or(StoreError::NotFound("quarantine"))
}

/// The one that keeps a terminal out the longest now.
async fn in_force(connection: &mut PgConnection, terminal: TerminalId, now: OffsetDateTime) -> Result<Option<Quarantine>, StoreError> {
    let statement = format!(
        "SELECT {COLUMNS} FROM quarantines WHERE terminal_id = $1 AND expires_at > $2 AND lifted IS NOT TRUE ORDER BY expires_at DESC LIMIT 1"
    );
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement)).bind(terminal.0).bind(now).fetch_optional(connection).await?;
    row.map(Row::quarantine).transpose()
}

fn refusal(quarantine: &Quarantine) -> StoreError {
    let until = quarantine.expires_at.format(&Rfc3339).unwrap_or_default();
    let detail = format!("This terminal is shut out until {until} ({}): {}", quarantine.reason, quarantine.note);
    StoreError::refused_because(ErrorCode::TerminalQuarantined, detail)
}

/// # Errors
/// `terminal_quarantined` while a quarantine is in force.
pub(crate) async fn refuse_quarantined(connection: &mut PgConnection, terminal: TerminalId, now: OffsetDateTime) -> Result<(), StoreError> {
    match in_force(connection, terminal, now).await? {
        Some(quarantine) => Err(refusal(&quarantine)),
        None => Ok(()),
    }
}

/// Who begins it.
#[derive(Debug, Clone, Copy)]
enum Found<'a> {
    By(UserId),
    Shown(&'a AuditEvidence),
}

async fn begin(tx: &mut PgConnection, new: &NewQuarantine, found: Found<'_>, now: OffsetDateTime) -> Result<Quarantine, StoreError> {
    let (imposed_by, evidence) = match found {
        Found::By(operator) => (Some(operator.0), None),
        Found::Shown(evidence) => (None, Some(Json(evidence))),
    };
    let statement = format!(
        "INSERT INTO quarantines (id, terminal_id, user_id, reason, note, evidence, imposed_by, begun_at, expires_at)
         SELECT $1, id, user_id, $3, $4, $5, $6, $7, $8 FROM terminals WHERE id = $2 RETURNING {COLUMNS}"
    );
    let row: Option<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
        .bind(Uuid::now_v7())
        .bind(new.terminal_id.0)
        .bind(new.reason.as_str())
        .bind(&new.note)
        .bind(evidence)
        .bind(imposed_by)
        .bind(stored_time(now))
        .bind(stored_time(new.expires_at))
        .fetch_optional(&mut *tx)
        .await?;
    let row = row.ok_or(StoreError::NotFound("terminal"))?;
    let owner = UserId(row.user_id);
    let quarantine = row.quarantine()?;
    let data = json!({
        "quarantine_id": quarantine.id, "terminal_id": quarantine.terminal_id, "reason": quarantine.reason, "note": quarantine.note,
        "expires_at": quarantine.expires_at.format(&Rfc3339).unwrap_or_default(),
    });
    outbox::tell(tx, &[Told::new(owner, EventType::TerminalShutOut, quarantine.id, data)], now).await?;
    Ok(quarantine)
}

impl Store {
    /// Shuts a terminal out on behalf of the operator who sends the request; answered with 201 and the [`Quarantine`].
    ///
    /// # Errors
    /// `not_found` for a terminal that does not exist, `invalid_request` if it would be over already, or the errors of a repeated key.
    pub async fn impose_quarantine(&self, new: &NewQuarantine, request: &Idempotency, now: OffsetDateTime) -> Result<Answer, StoreError> {
        let mut tx = match self.begin_once(request).await? {
            Begun::First(tx) => tx,
            Begun::Again(answer) => return Ok(answer),
        };
        if new.expires_at <= now {
            return Err(StoreError::refused_because(ErrorCode::InvalidRequest, "it would be over already"));
        }
        let quarantine = begin(&mut tx, new, Found::By(request.user_id), now).await?;
        commit_once(tx, request, 201, &quarantine, now).await
    }

    /// Shuts a terminal out that has answered an audit falsely; `None` if it is shut out already.
    ///
    /// # Errors
    /// The database fails.
    pub async fn quarantine_found(
        &self,
        terminal: TerminalId,
        evidence: &AuditEvidence,
        now: OffsetDateTime,
    ) -> Result<Option<Quarantine>, StoreError> {
        let mut tx = self.begin().await?;
        // Two answers at once stand in line here.
        sqlx::query("SELECT FROM terminals WHERE id = $1 FOR NO KEY UPDATE").bind(terminal.0).execute(&mut *tx).await?;
        if in_force(&mut tx, terminal, now).await?.is_some() {
            return Ok(None);
        }
        let AuditEvidence { question, .. } = evidence;
        let note = format!("it answered falsely for chunk {} of swarm {}, which it had signed for", question.chunk, question.swarm_id);
        let new = NewQuarantine { terminal_id: terminal, reason: QuarantineReason::FailedAudit, note, expires_at: now + FOUND_FOR };
        let quarantine = begin(&mut tx, &new, Found::Shown(evidence), now).await?;
        tx.commit().await?;
        Ok(Some(quarantine))
    }

    /// # Errors
    /// `terminal_quarantined` while a quarantine is in force, with its reason and end; or the database fails.
    pub async fn check_quarantine(&self, terminal: TerminalId, now: OffsetDateTime) -> Result<(), StoreError> {
        refuse_quarantined(&mut *self.pool.acquire().await?, terminal, now).await
    }

    /// Quarantines, oldest first; with `open`, only those in force with an appeal that nobody has decided.
    ///
    /// # Errors
    /// The cursor is not this list's, or the database fails.
    pub async fn quarantines(
        &self,
        viewer: QuarantineViewer,
        open: bool,
        request: &PageRequest,
        now: OffsetDateTime,
    ) -> Result<Page<Quarantine>, StoreError> {
        let statement = format!(
            "SELECT {COLUMNS} FROM quarantines
             WHERE ($1::uuid IS NULL OR user_id = $1) AND ($2::uuid IS NULL OR id > $2)
                 AND (NOT $3 OR (appeal IS NOT NULL AND lifted IS NULL AND expires_at > $4))
             ORDER BY id LIMIT $5"
        );
        let rows: Vec<Row> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
            .bind(viewer.owner())
            .bind(request.after::<Uuid>()?)
            .bind(open)
            .bind(now)
            .bind(request.rows_wanted())
            .fetch_all(&self.pool)
            .await?;
        let quarantines = rows.into_iter().map(Row::quarantine).collect::<Result<Vec<_>, _>>()?;
        Ok(request.page(quarantines, |quarantine| quarantine.id))
    }

    /// # Errors
    /// `not_found`, or the database fails.
    pub async fn quarantine(&self, id: QuarantineId, viewer: QuarantineViewer) -> Result<Quarantine, StoreError> {
        read(&mut *self.pool.acquire().await?, id, viewer, false).await?.quarantine()
    }

    /// Notes what the owner says to a quarantine; until it is decided the text may be replaced.
    ///
    /// # Errors
    /// `not_found`; `conflict` if it is decided, or over.
    pub async fn appeal(&self, id: QuarantineId, owner: UserId, text: &str, now: OffsetDateTime) -> Result<Quarantine, StoreError> {
        let mut tx = self.begin().await?;
        let present = read(&mut tx, id, QuarantineViewer::Owner(owner), true).await?.quarantine()?;
        expect_open(&present, now)?;
        sqlx::query("UPDATE quarantines SET appeal = $2, appealed_at = $3 WHERE id = $1")
            .bind(id.0)
            .bind(text)
            .bind(stored_time(now))
            .execute(&mut *tx)
            .await?;
        let quarantine = read(&mut tx, id, QuarantineViewer::Operator, false).await?.quarantine()?;
        tx.commit().await?;
        Ok(quarantine)
    }

    /// Decides a quarantine on behalf of an operator, appealed or not. The same decision once more changes nothing.
    ///
    /// # Errors
    /// `not_found`; `conflict` if it was decided otherwise, or is over.
    pub async fn decide_quarantine(
        &self,
        id: QuarantineId,
        operator: UserId,
        decision: &NewDecision,
        now: OffsetDateTime,
    ) -> Result<Quarantine, StoreError> {
        let mut tx = self.begin().await?;
        let row = read(&mut tx, id, QuarantineViewer::Operator, true).await?;
        let owner = UserId(row.user_id);
        let present = row.quarantine()?;
        if present.decision.as_ref().is_some_and(|made| (made.lifted, &made.note) == (decision.lift, &decision.note)) {
            return Ok(present);
        }
        expect_open(&present, now)?;
        sqlx::query("UPDATE quarantines SET lifted = $2, decision = $3, decided_by = $4, decided_at = $5 WHERE id = $1")
            .bind(id.0)
            .bind(decision.lift)
            .bind(&decision.note)
            .bind(operator.0)
            .bind(stored_time(now))
            .execute(&mut *tx)
            .await?;
        let data = json!({ "quarantine_id": id, "terminal_id": present.terminal_id, "lifted": decision.lift, "note": decision.note });
        outbox::tell(&mut tx, &[Told::new(owner, EventType::QuarantineRuled, id, data)], now).await?;
        let quarantine = read(&mut tx, id, QuarantineViewer::Operator, false).await?.quarantine()?;
        tx.commit().await?;
        Ok(quarantine)
    }
}

fn expect_open(quarantine: &Quarantine, now: OffsetDateTime) -> Result<(), StoreError> {
    if quarantine.decision.is_some() {
        return Err(StoreError::refused_because(ErrorCode::Conflict, "This quarantine is decided."));
    }
    if quarantine.expires_at <= now {
        return Err(StoreError::refused_because(ErrorCode::Conflict, "This quarantine is over."));
    }
    Ok(())
}
