//! Quarantines: terminals that are shut out for a while, why, and what their owners say to it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::audit::{AuditAnswer, AuditQuestion};
use crate::ids::*;

/// Why a terminal is shut out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuarantineReason {
    /// It answered an audit falsely, which its signature shows. The one reason that the service finds by itself.
    FailedAudit,
    /// It signed for chunks in more than one direction.
    DoubleSigning,
    /// It took chunks and did not sign for them.
    Denial,
    /// What the note says.
    Other,
}

impl QuarantineReason {
    pub const ALL: [Self; 4] = [Self::FailedAudit, Self::DoubleSigning, Self::Denial, Self::Other];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::FailedAudit => "failed_audit",
            Self::DoubleSigning => "double_signing",
            Self::Denial => "denial",
            Self::Other => "other",
        }
    }
}

impl fmt::Display for QuarantineReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the reasons are failed_audit, double_signing, denial and other")]
pub struct UnknownReason;

impl FromStr for QuarantineReason {
    type Err = UnknownReason;

    fn from_str(text: &str) -> Result<Self, UnknownReason> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == text).ok_or(UnknownReason)
    }
}

/// An operator shuts a terminal out.
#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewQuarantine {
    pub terminal_id: TerminalId,
    pub reason: QuarantineReason,
    /// What its owner is told: what was found, and where.
    #[schema(min_length = 1, max_length = 500)]
    pub note: String,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// While it is in force the terminal's connections, applications and downloads are refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Quarantine {
    pub id: QuarantineId,
    pub terminal_id: TerminalId,
    pub reason: QuarantineReason,
    pub note: String,
    /// What shows it to anybody, if it was found by an audit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub evidence: Option<AuditEvidence>,
    #[serde(with = "time::serde::rfc3339")]
    pub begun_at: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub appeal: Option<Appeal>,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub decision: Option<Decision>,
}

impl Quarantine {
    pub fn is_in_force(&self, now: OffsetDateTime) -> bool {
        now < self.expires_at && !self.decision.as_ref().is_some_and(|decision| decision.lifted)
    }
}

/// A false answer: with the chunk, whose hash the manifest has, and the terminal's key anybody can check that it is one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct AuditEvidence {
    pub question: AuditQuestion,
    pub expected: Blake3,
    pub answer: AuditAnswer,
}

/// What the owner says to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Appeal {
    pub text: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewAppeal {
    #[schema(min_length = 1, max_length = 2000)]
    pub text: String,
}

/// What an operator decides.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct Decision {
    /// Whether the terminal may come back at once; else the quarantine stands until it expires.
    pub lifted: bool,
    pub note: String,
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
}

#[derive(Debug, Clone, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewDecision {
    pub lift: bool,
    #[schema(max_length = 500)]
    #[serde(default)]
    pub note: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_is_read_as_it_is_written() {
        for reason in QuarantineReason::ALL {
            assert_eq!(reason.as_str().parse(), Ok(reason));
            assert_eq!(serde_json::to_string(&reason).unwrap(), format!("\"{reason}\""));
        }
        assert_eq!("anger".parse::<QuarantineReason>(), Err(UnknownReason));
    }
}
