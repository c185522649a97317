//! Arguments of `quarantine`: terminals that are shut out for a while.

use clap::{Args, Subcommand};
use protocol::rest::QuarantineReason;
use protocol::{QuarantineId, TerminalId};

use crate::values::{Moment, moment, quarantine_id, terminal_id};

#[derive(Debug, Subcommand)]
pub(crate) enum QuarantineCommand {
    /// Show the quarantines of the own terminals; an operator sees all
    List(ListQuarantinesArguments),
    /// Say why an own terminal should come back
    Appeal(AppealArguments),
    /// Shut a terminal out for a while (operator)
    Impose(ImposeArguments),
    /// Let a terminal come back at once (operator)
    Lift(DecideArguments),
    /// Let a quarantine stand until it expires (operator)
    Uphold(DecideArguments),
}

#[derive(Debug, Args)]
pub(crate) struct ListQuarantinesArguments {
    /// Only those in force with an appeal that is not decided
    #[arg(long)]
    pub open: bool,
}

#[derive(Debug, Args)]
pub(crate) struct AppealArguments {
    /// The quarantine's id, as `quarantine list` shows it
    #[arg(value_parser = quarantine_id)]
    pub quarantine: QuarantineId,
    /// What an operator should know
    pub text: String,
}

#[derive(Debug, Args)]
pub(crate) struct ImposeArguments {
    /// The terminal's id
    #[arg(value_parser = terminal_id)]
    pub terminal: TerminalId,
    /// failed_audit, double_signing, denial or other
    #[arg(long, value_name = "REASON", value_parser = |text: &str| text.parse::<QuarantineReason>())]
    pub reason: QuarantineReason,
    /// What its owner is told: what was found, and where
    #[arg(long, value_name = "TEXT")]
    pub note: String,
    /// Until when, such as +30d
    #[arg(long, value_name = "TIME", default_value = "+30d", value_parser = moment)]
    pub until: Moment,
}

#[derive(Debug, Args)]
pub(crate) struct DecideArguments {
    /// The quarantine's id, as `quarantine list` shows it
    #[arg(value_parser = quarantine_id)]
    pub quarantine: QuarantineId,
    /// What its owner is told
    #[arg(long, value_name = "TEXT", default_value = "", hide_default_value = true)]
    pub note: String,
}
