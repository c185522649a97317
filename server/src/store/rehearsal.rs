//! For tests that cannot wait: moves the times of releases behind the service's back, and shows the work that is due.

use time::{Duration, OffsetDateTime};

use super::Store;

/// One piece of due work as it stands.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct NotedWork {
    pub(crate) kind: String,
    pub(crate) attempts: i32,
    pub(crate) done: bool,
    pub(crate) last_error: Option<String>,
}

impl Store {
    /// Lets time pass for every release.
    pub(crate) async fn pass_time(&self, by: Duration) {
        for statement in [
            "UPDATE releases SET opens_at = opens_at - make_interval(secs => $1), closes_at = closes_at - make_interval(secs => $1),
                 starts_at = starts_at - make_interval(secs => $1), deadline_at = deadline_at - make_interval(secs => $1),
                 aborted_at = aborted_at - make_interval(secs => $1)",
            "UPDATE due_work SET due_at = due_at - make_interval(secs => $1)",
        ] {
            sqlx::query(statement).bind(by.as_seconds_f64()).execute(&self.pool).await.unwrap();
        }
    }

    /// Sets the times of every release; later waves follow the start a minute apart.
    pub(crate) async fn set_times(&self, closes: OffsetDateTime, starts: OffsetDateTime, deadline: OffsetDateTime) {
        sqlx::query("UPDATE releases SET opens_at = $1 - interval '1 hour', closes_at = $1, starts_at = $2, deadline_at = $3")
            .bind(closes)
            .bind(starts)
            .bind(deadline)
            .execute(&self.pool)
            .await
            .unwrap();
        for (kind, due_at) in [("open", closes - Duration::hours(1)), ("close", closes), ("wave", starts), ("deadline", deadline)] {
            self.set_due(kind, due_at).await;
        }
    }

    /// Sets when work of a kind is due; later waves follow a minute apart.
    pub(crate) async fn set_due(&self, kind: &str, due_at: OffsetDateTime) {
        sqlx::query("UPDATE due_work SET due_at = $2 + wave * interval '1 minute' WHERE kind = $1")
            .bind(kind)
            .bind(due_at)
            .execute(&self.pool)
            .await
            .unwrap();
    }

    /// As if whoever sealed had died before it was written down.
    pub(crate) async fn forget_sealed_manifests(&self) {
        sqlx::query("UPDATE release_editions SET sealed_manifest = NULL").execute(&self.pool).await.unwrap();
    }

    /// As if every release had been ended by a fault.
    pub(crate) async fn abort_everything(&self) {
        sqlx::query("UPDATE releases SET state = 'aborted'").execute(&self.pool).await.unwrap();
    }

    /// All work, in the order in which it was done.
    pub(crate) async fn noted_work(&self) -> Vec<NotedWork> {
        sqlx::query_as("SELECT kind, attempts, done_at IS NOT NULL AS done, last_error FROM due_work ORDER BY done_at, id")
            .fetch_all(&self.pool)
            .await
            .unwrap()
    }

    /// The terminal's deliveries are as if every chunk had come.
    pub(crate) async fn has_received(&self, terminal: protocol::TerminalId) {
        let statement = "UPDATE deliveries SET completed_at = now() WHERE terminal_id = $1";
        sqlx::query(statement).bind(terminal.0).execute(&self.pool).await.unwrap();
    }

    /// The terminal is measured to stand in a region, on a good line.
    pub(crate) async fn stands_in(&self, terminal: protocol::TerminalId, region: i32) {
        let statement =
            "INSERT INTO communication_states (terminal_id, region, round_trip_ms, loss_ppm, measured_at) VALUES ($1, $2, 20, 0, now())";
        sqlx::query(statement).bind(terminal.0).bind(region).execute(&self.pool).await.unwrap();
        sqlx::query("UPDATE terminals SET up_bps = 20000000 WHERE id = $1").bind(terminal.0).execute(&self.pool).await.unwrap();
    }
}
