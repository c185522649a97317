//! Events as JSON: one object a line, `event` says which. Amounts are minor units, times RFC 3339 by this machine's clock, durations milliseconds. In `replaced` the
//! `source` is null for the origin.

use protocol::ws::{LeaveReason, Progress};
use serde_json::{Value, json};
use terminal::engine::{EngineEvent, Protected, Summary, SwarmSummary};
use terminal::store::quota::Stays;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

pub(super) fn event_json(event: &EngineEvent, now: OffsetDateTime) -> Value {
    let mut object = match event {
        EngineEvent::Connected { resumed } => json!({ "event": "connected", "resumed": resumed }),
        EngineEvent::Disconnected { reason } => json!({ "event": "disconnected", "reason": reason }),
        EngineEvent::Plan { swarm_id, release_id, edition_id, epoch, rank, root, peers, opens_at } => json!({
            "event": "plan", "swarm_id": swarm_id, "release_id": release_id, "edition_id": edition_id,
            "epoch": epoch, "rank": rank, "root": root, "peers": peers, "opens_at_ms": opens_at,
        }),
        EngineEvent::Serving { swarm_id, release_id, edition_id } => {
            json!({ "event": "serving", "swarm_id": swarm_id, "release_id": release_id, "edition_id": edition_id })
        }
        EngineEvent::Opened { swarm_id, verified, to_fetch, total } => {
            json!({ "event": "opened", "swarm_id": swarm_id, "verified": verified, "to_fetch": to_fetch, "total": total })
        }
        EngineEvent::DiskFull { swarm_id, dir, needed, free } => json!({
            "event": "disk_full", "swarm_id": swarm_id, "dir": dir.display().to_string(), "needed": needed, "free": free,
        }),
        EngineEvent::DiskRoom { swarm_id } => json!({ "event": "disk_room", "swarm_id": swarm_id }),
        EngineEvent::Evicted { swarm_id, release_id, edition_id, path, bytes } => json!({
            "event": "evicted", "swarm_id": swarm_id, "release_id": release_id, "edition_id": edition_id,
            "path": path.display().to_string(), "bytes": bytes,
        }),
        EngineEvent::QuotaFull { swarm_id, dir, quota, needed, kept, missing, protected } => json!({
            "event": "quota_full", "swarm_id": swarm_id, "dir": dir.display().to_string(), "quota": quota, "needed": needed,
            "kept": kept, "missing": missing, "protected": protected.iter().map(protected_json).collect::<Vec<_>>(),
        }),
        EngineEvent::QuotaRoom { swarm_id } => json!({ "event": "quota_room", "swarm_id": swarm_id }),
        EngineEvent::Progress { swarm_id, progress, total } => {
            let mut object = json!({ "event": "progress", "swarm_id": swarm_id, "total": total });
            add_progress(&mut object, progress);
            object
        }
        EngineEvent::Replaced { swarm_id, relay, source, chunk, silent_for } => json!({
            "event": "replaced", "swarm_id": swarm_id, "relay": relay, "source": (!source.is_origin()).then_some(source),
            "chunk": chunk, "silent_ms": silent_for.as_millis(),
        }),
        EngineEvent::Completed { swarm_id, release_id, path, blake3, length, elapsed } => json!({
            "event": "completed", "swarm_id": swarm_id, "release_id": release_id, "path": path.display().to_string(),
            "blake3": blake3, "length": length, "elapsed_ms": elapsed.map(|elapsed| elapsed.as_millis()),
        }),
        EngineEvent::Sealed { swarm_id, release_id, key_at } => {
            json!({ "event": "sealed", "swarm_id": swarm_id, "release_id": release_id, "key_at_ms": key_at })
        }
        EngineEvent::KeyCame { swarm_id } => json!({ "event": "key_came", "swarm_id": swarm_id }),
        EngineEvent::Settled { swarm_id, delivery_id, charged, earned } => {
            json!({ "event": "settled", "swarm_id": swarm_id, "delivery_id": delivery_id, "charged": charged, "earned": earned })
        }
        EngineEvent::Earned { swarm_id, earned } => json!({ "event": "earned", "swarm_id": swarm_id, "earned": earned }),
        EngineEvent::Failed { swarm_id, release_id, error } => {
            json!({ "event": "failed", "swarm_id": swarm_id, "release_id": release_id, "error": error })
        }
        EngineEvent::Left { swarm_id, reason } => json!({ "event": "left", "swarm_id": swarm_id, "reason": reason }),
        EngineEvent::Warning { text } => json!({ "event": "warning", "text": text }),
    };
    object["at"] = moment(now);
    object
}

fn protected_json(protected: &Protected) -> Value {
    let why = match protected.why {
        Stays::InUse => "in_use",
        Stays::Owed => "owed",
        Stays::Unknown => "unknown",
    };
    json!({
        "release_id": protected.release_id, "edition_id": protected.edition_id, "path": protected.path.display().to_string(),
        "bytes": protected.bytes, "why": why,
    })
}

/// The last line of a run.
pub(super) fn summary_json(summary: &Summary, now: OffsetDateTime) -> Value {
    json!({
        "event": "finished",
        "complete": summary.is_complete(),
        "swarms": summary.swarms.iter().map(swarm_json).collect::<Vec<_>>(),
        "at": moment(now),
    })
}

fn swarm_json(swarm: &SwarmSummary) -> Value {
    let mut object = json!({
        "swarm_id": swarm.swarm_id, "release_id": swarm.release_id, "edition_id": swarm.edition_id, "delivery_id": swarm.delivery_id,
        "rank": swarm.rank, "serving": swarm.serving, "total": swarm.total, "path": swarm.path.as_ref().map(|path| path.display().to_string()),
        "blake3": swarm.blake3, "charged": swarm.charged, "earned": swarm.earned, "left": swarm.left,
    });
    add_progress(&mut object, &swarm.progress);
    object
}

fn add_progress(object: &mut Value, progress: &Progress) {
    object["verified"] = json!(progress.verified);
    object["from_origin"] = json!(progress.from_origin);
    object["from_peers"] = json!(progress.from_peers);
    object["relayed"] = json!(progress.relayed);
    object["up_bps"] = json!(progress.up);
    object["down_bps"] = json!(progress.down);
}

pub(super) fn moment(now: OffsetDateTime) -> Value {
    // Only years beyond 9999 cannot be written.
    now.format(&Rfc3339).map_or(Value::Null, Value::from)
}

pub(super) fn leave_words(reason: LeaveReason) -> &'static str {
    match reason {
        LeaveReason::Settled => "over, everybody has been served",
        LeaveReason::Cancelled => "cancelled by the publisher, nothing to pay",
        LeaveReason::Aborted => "ended by the publisher",
        LeaveReason::Removed => "not needed here any more",
    }
}
