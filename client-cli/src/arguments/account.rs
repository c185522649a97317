//! Arguments about accounts and money.

use clap::{Args, Subcommand, ValueEnum};
use protocol::rest::Role;
use protocol::{Amount, BitsPerSecond, Bytes};

use crate::values::{Moment, amount, mbit, moment, store_quota};

#[derive(Debug, Args)]
pub(crate) struct RegisterArguments {
    /// The server's address
    #[arg(long, env = "SPILLWAY_SERVER", value_name = "URL", value_parser = server_url)]
    pub server: String,
    #[command(flatten)]
    pub account: AccountArguments,
    #[command(flatten)]
    pub terminal: TerminalArguments,
}

#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// The server's address [default: the one used before]
    #[arg(long, env = "SPILLWAY_SERVER", value_name = "URL", value_parser = server_url)]
    pub server: Option<String>,
    #[command(flatten)]
    pub account: AccountArguments,
    #[command(flatten)]
    pub terminal: TerminalArguments,
}

#[derive(Debug, Args)]
pub(crate) struct AccountArguments {
    /// The account's e-mail address
    #[arg(long)]
    pub email: String,
    /// Read the password from the first line of standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct TerminalArguments {
    /// The terminal's name [default: this machine's host name]
    #[arg(long, value_name = "NAME")]
    pub name: Option<String>,
    /// This machine's uplink in Mbit/s; 0 if not known, which limits nothing [default: as before, or 0]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub up_mbit: Option<BitsPerSecond>,
    /// This machine's downlink in Mbit/s; 0 if not known, which limits nothing [default: as before, or 0]
    #[arg(long, value_name = "N", value_parser = mbit)]
    pub down_mbit: Option<BitsPerSecond>,
    /// The most that received editions may take up in the folder that they go to, such as 20GiB; 0 is no quota [default: as before, or 0]
    #[arg(long, value_name = "SIZE", value_parser = store_quota)]
    pub store_quota: Option<Bytes>,
}

#[derive(Debug, Args)]
pub(crate) struct PasswordArguments {
    /// Read the present and the new password from the first two lines of standard input instead of asking for them
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum VoucherCommand {
    /// Make codes; they are shown this once
    Create(NewVouchersArguments),
}

#[derive(Debug, Args)]
pub(crate) struct NewVouchersArguments {
    /// How many codes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub count: u32,
    /// What each is worth, such as 25.00
    #[arg(long, value_name = "AMOUNT", value_parser = amount)]
    pub value: Amount,
    /// When they expire: +30d or a date and time [default: never]
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub expires: Option<Moment>,
}

#[derive(Debug, Args)]
pub(crate) struct RoleArguments {
    /// The account's e-mail address
    pub email: String,
    /// What the account may do from now on
    #[arg(value_enum)]
    pub role: AccountRole,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccountRole {
    /// Applies, receives and relays
    User,
    /// Also publishes contents and schedules releases
    Publisher,
    /// Runs the service
    Operator,
}

impl From<AccountRole> for Role {
    fn from(role: AccountRole) -> Self {
        match role {
            AccountRole::User => Self::User,
            AccountRole::Publisher => Self::Publisher,
            AccountRole::Operator => Self::Operator,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct RedeemArguments {
    /// The voucher code
    pub code: String,
}

#[derive(Debug, Args)]
pub(crate) struct WalletArguments {
    /// How many of the latest entries to show
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub entries: usize,
    /// Print all entries as comma-separated values, newest first
    #[arg(long, conflicts_with = "entries")]
    pub csv: bool,
}

/// `http://` or `https://` with a host; without a slash at the end, so that paths can be put behind it.
fn server_url(text: &str) -> Result<String, String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match host.map(|host| host.trim_end_matches('/')) {
        Some(host) if !host.is_empty() && !host.contains(char::is_whitespace) => Ok(text.trim_end_matches('/').to_owned()),
        Some(_) | None => Err("expected an address such as https://spillway.example".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_an_http_address_without_a_slash_at_its_end() {
        assert_eq!(server_url("http://127.0.0.1:8080/"), Ok("http://127.0.0.1:8080".into()));
        assert_eq!(server_url("https://s.example/base"), Ok("https://s.example/base".into()));
        for bad in ["", "s.example", "https://", "http:///", "ws://s.example", "https://a b"] {
            assert!(server_url(bad).is_err(), "{bad:?} was accepted");
        }
    }
}
