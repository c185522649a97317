//! Why a command failed, and the one mapping from that to the exit code.

mod option;

use std::fmt;
use std::process::ExitCode;

use protocol::{ErrorCode, Problem, RequestId};

use option::option_of;

/// In place of a request's id where there was no request.
const NO_REQUEST: RequestId = RequestId::from_bytes([0; 16]);

/// A failure as it is told to the user: one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line is not valid; clap finds most of these itself.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    NotLoggedIn(String),
    #[error("{}", RefusedLine(.0))]
    Refused(Box<Problem>),
    /// No answer from the server, or one that says that it is not ready.
    #[error("{0}")]
    Unavailable(String),
    #[error("interrupted")]
    Interrupted,
    /// Everything on this machine: files, disk, a delivery that did not complete.
    #[error("{0}")]
    Failed(String),
}

pub(crate) type Outcome<T> = Result<T, Failure>;

impl Failure {
    /// The same numbers as in `--help`.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Failed(_) => 1,
            Self::Usage(_) => 2,
            Self::NotLoggedIn(_) => 3,
            Self::Refused(_) => 4,
            Self::Unavailable(_) => 5,
            Self::Interrupted => 130,
        }
    }

    /// What the server refused it with, if it did.
    pub(crate) fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::Refused(problem) => Some(problem.code),
            Self::Usage(_) | Self::NotLoggedIn(_) | Self::Unavailable(_) | Self::Interrupted | Self::Failed(_) => None,
        }
    }

    /// A problem that the server answered with.
    pub(crate) fn from_problem(problem: Problem) -> Self {
        match problem.status {
            401 => Self::NotLoggedIn(RefusedLine(&problem).to_string()),
            400..=499 => Self::Refused(Box::new(problem)),
            _ => Self::Unavailable(RefusedLine(&problem).to_string()),
        }
    }

    /// A refusal that came without a whole problem document, as those of the WebSocket.
    pub(crate) fn from_refusal(code: ErrorCode, detail: String) -> Self {
        let mut problem = Problem::new(code, NO_REQUEST);
        problem.detail = Some(detail).filter(|detail| !detail.is_empty());
        Self::from_problem(problem)
    }

    /// For `--json`: the same on standard error, as one object.
    pub(crate) fn to_json(&self) -> serde_json::Value {
        let mut error = serde_json::json!({ "exit_code": self.exit_code(), "message": self.to_string() });
        if let Self::Refused(problem) = self {
            error["problem"] = serde_json::json!(problem);
        }
        serde_json::json!({ "error": error })
    }
}

impl From<&Failure> for ExitCode {
    fn from(failure: &Failure) -> Self {
        Self::from(failure.exit_code())
    }
}

/// Puts what was being done before an error of the system.
pub(crate) fn while_doing(what: impl fmt::Display) -> impl FnOnce(std::io::Error) -> Failure {
    move |error| Failure::Failed(format!("{what}: {error}"))
}

/// A problem on one line: what is wrong, where, and what to do about it.
struct RefusedLine<'a>(&'a Problem);

impl fmt::Display for RefusedLine<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let problem = self.0;
        let said = problem.detail.as_deref().unwrap_or(&problem.title);
        f.write_str(said)?;
        for error in problem.errors.iter().filter(|error| error.detail != said && error.detail != problem.title) {
            write!(f, "; {}: {}", option_of(&error.pointer).unwrap_or(&error.pointer), error.detail)?;
        }
        if let Some(hint) = hint(problem.code) {
            write!(f, "; {hint}")?;
        }
        if problem.status >= 500 && problem.request_id != NO_REQUEST {
            write!(f, " (request {})", problem.request_id)?;
        }
        Ok(())
    }
}

/// What to do, where the problem's own text cannot know the commands of this program.
fn hint(code: ErrorCode) -> Option<&'static str> {
    match code {
        ErrorCode::Unauthenticated | ErrorCode::RefreshTokenReused => Some("log in with `spillway login`"),
        ErrorCode::EmailTaken => Some("log in with `spillway login`, or choose another address"),
        ErrorCode::InsufficientFunds => Some("add credit with `spillway redeem CODE`"),
        ErrorCode::AlreadyApplied => Some("use `spillway apply --change` or `--withdraw`"),
        ErrorCode::UnknownEdition | ErrorCode::UnknownRank | ErrorCode::BelowReserve | ErrorCode::ReleaseNotOpen => {
            Some("see `spillway list RELEASE`")
        }
        ErrorCode::KitForked => Some("make a new kit with `spillway kit create`; the credit is the account's, and none is lost"),
        ErrorCode::TerminalQuarantined => Some("see `spillway quarantine list`, and appeal with `spillway quarantine appeal`"),
        ErrorCode::WebhookLimit => Some("remove one with `spillway webhook delete`"),
        ErrorCode::PreconditionFailed => Some("it has changed meanwhile: try again"),
        ErrorCode::PriceAboveMaximum => Some("give a higher `--maximum`"),
        ErrorCode::EditionSealed => Some("apply for its release: see `spillway list`"),
        ErrorCode::NotOnDemand => Some("wait for a release of it: see `spillway list`"),
        ErrorCode::BudgetTooSmall => Some("give at least `--origin-budget 1.01x`"),
        ErrorCode::TooManyRequests | ErrorCode::Internal | ErrorCode::Unavailable | ErrorCode::IdempotencyKeyBusy => {
            Some("try again later")
        }
        ErrorCode::ProtocolVersion => Some("this program is too old or too new for the server"),
        ErrorCode::InvalidRequest
        | ErrorCode::InvalidCredentials
        | ErrorCode::Forbidden
        | ErrorCode::NoLease
        | ErrorCode::NotFound
        | ErrorCode::MethodNotAllowed
        | ErrorCode::Conflict
        | ErrorCode::ReleaseClosed
        | ErrorCode::IdempotencyKeyReused
        | ErrorCode::VoucherUsed
        | ErrorCode::VoucherExpired
        | ErrorCode::PayloadTooLarge
        | ErrorCode::UnsupportedMediaType
        | ErrorCode::EmptyEdition
        | ErrorCode::PreconditionRequired
        | ErrorCode::IdempotencyKeyRequired
        | ErrorCode::BudgetSpent
        | ErrorCode::MalformedMessage
        | ErrorCode::NotInSwarm
        | ErrorCode::InvalidReceipt => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::error::ProblemError;

    fn problem(code: ErrorCode) -> Problem {
        Problem::new(code, RequestId::from_bytes([7; 16]))
    }

    #[test]
    fn every_failure_has_the_exit_code_that_the_help_promises() {
        let cases = [
            (Failure::Failed(String::new()), 1),
            (Failure::Usage(String::new()), 2),
            (Failure::NotLoggedIn(String::new()), 3),
            (Failure::from_problem(problem(ErrorCode::Unauthenticated)), 3),
            (Failure::from_problem(problem(ErrorCode::InvalidCredentials)), 3),
            (Failure::from_problem(problem(ErrorCode::InsufficientFunds)), 4),
            (Failure::from_problem(problem(ErrorCode::NotFound)), 4),
            (Failure::from_problem(problem(ErrorCode::TooManyRequests)), 4),
            (Failure::from_problem(problem(ErrorCode::Internal)), 5),
            (Failure::from_problem(problem(ErrorCode::Unavailable)), 5),
            (Failure::Unavailable(String::new()), 5),
            (Failure::Interrupted, 130),
        ];
        for (failure, code) in cases {
            assert_eq!(failure.exit_code(), code, "{failure:?}");
            assert_ne!(failure.exit_code(), 0);
        }
    }

    #[test]
    fn every_refusal_by_the_server_is_a_failure_on_one_line() {
        for &code in ErrorCode::ALL {
            let failure = Failure::from_problem(problem(code));
            assert!([3, 4, 5].contains(&failure.exit_code()), "{code}");
            assert!(!failure.to_string().is_empty() && !failure.to_string().contains('\n'), "{code}");
        }
    }

    #[test]
    fn a_refusal_shows_where_the_request_is_wrong_and_what_to_do() {
        let mut refused = problem(ErrorCode::BelowReserve);
        refused.detail = Some("The reserve of rank 1 is 1.00 EUR".into());
        refused.errors = vec![ProblemError { pointer: "/maximum/amount".into(), detail: "must be at least 100".into() }];
        let failure = Failure::from_problem(refused);
        assert_eq!(failure.to_string(), "The reserve of rank 1 is 1.00 EUR; --maximum: must be at least 100; see `spillway list RELEASE`");
        let json = failure.to_json();
        assert_eq!(json["error"]["exit_code"], 4);
        assert_eq!(json["error"]["problem"]["code"], "below_reserve");
        assert_eq!(json["error"]["problem"]["errors"][0]["pointer"], "/maximum/amount");
    }

    #[test]
    fn an_error_of_the_server_itself_names_the_request() {
        let line = Failure::from_problem(problem(ErrorCode::Internal)).to_string();
        assert!(line.contains("07070707-0707-0707-0707-070707070707"), "{line}");
    }
}
