//! The command line: what each command takes, and the text of `--help`.

mod account;
mod kit;
mod market;
mod publisher;
mod quarantine;
mod webhook;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

pub(crate) use account::{
    LoginArguments, NewVouchersArguments, PasswordArguments, RedeemArguments, RegisterArguments, RoleArguments, TerminalArguments,
    VoucherCommand, WalletArguments,
};
pub(crate) use kit::{KitCommand, NewKitArguments, PassphraseArguments};
pub(crate) use market::{
    ApplyArguments, BookArguments, GetArguments, ListArguments, MeasureArguments, ReportArguments, RunArguments, StatusArguments,
};
pub(crate) use publisher::{ContentsArguments, NewReleaseArguments, OfferArguments, PublishArguments, ReleaseCommand, TariffCommand};
pub(crate) use quarantine::{DecideArguments, QuarantineCommand};
pub(crate) use webhook::{DeliveriesArguments, RetryArguments, WebhookCommand};

const EXIT_CODES: &str = "\
Exit codes:
    0  done
    1  failed on this machine, or a delivery was not completed
    2  the command line is not valid
    3  not logged in, or the login has ended
    4  refused by the server; the reason is printed
    5  the server cannot be reached or is not ready
  130  interrupted";

/// Receives and publishes timed releases of large contents.
#[derive(Debug, Parser)]
#[command(name = "spillway", version, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The folder of the account and the terminal key [default: the platform's configuration folder]
    #[arg(long, global = true, env = "SPILLWAY_CONFIG", value_name = "DIR")]
    pub config: Option<PathBuf>,

    /// Run from the kit in DIR instead of a configuration folder; its passphrase is asked for, or taken from SPILLWAY_KIT_PASSPHRASE
    #[arg(long, global = true, value_name = "DIR")]
    pub kit: Option<PathBuf>,

    /// Print JSON: one object or array, or one event per line for `run` and `get`; errors as one JSON object on standard error
    #[arg(long, global = true)]
    pub json: bool,

    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Create an account, log in and register this terminal
    Register(RegisterArguments),
    /// Log in; registers this terminal if the configuration folder has none
    Login(LoginArguments),
    /// End the login of the configuration folder; this terminal stays registered
    Logout,
    /// Change the account's password; every other login of the account ends
    Password(PasswordArguments),
    /// Upload files or directories as editions of a content
    Publish(PublishArguments),
    /// List the own contents and their editions
    Contents(ContentsArguments),
    /// Offer a content on demand, at any time, at a flat price or by a tariff; or change or end that
    Offer(OfferArguments),
    /// Make, change or show tariffs: prices by volume and by the time of the day
    #[command(subcommand)]
    Tariff(TariffCommand),
    /// Schedule, cancel or abort releases
    #[command(subcommand)]
    Release(ReleaseCommand),
    /// Make prepaid vouchers (operator)
    #[command(subcommand)]
    Voucher(VoucherCommand),
    /// Make an account a publisher, an operator, or a plain user again (operator)
    Role(RoleArguments),
    /// Turn a voucher code into credit
    Redeem(RedeemArguments),
    /// Show what the wallet holds and its last entries
    Wallet(WalletArguments),
    /// Have addresses told of what happens: places won, deliveries paid, releases begun
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// A terminal on a stick, with the account's balance: make, show or list kits
    #[command(subcommand)]
    Kit(KitCommand),
    /// Terminals that are shut out for a while: show them, appeal; impose and decide (operator)
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
    /// List the releases, or show one of them
    List(ListArguments),
    /// Apply to a release, or change or withdraw the application
    Apply(ApplyArguments),
    /// Download a content on demand, from terminals that have it
    Get(GetArguments),
    /// Receive and relay what was won, and serve what was received
    Run(RunArguments),
    /// Show this terminal, its applications and its deliveries
    Status(StatusArguments),
    /// Measure this machine's line and disk, and tell the server
    Measure(MeasureArguments),
    /// Say why the own applications to a release cost what they cost, or got no place
    Explain(BookArguments),
    /// Recompute every rank and price of a closed release from its published book, and its hash
    Audit(BookArguments),
    /// Show how a release went, or goes so far: times beside the bound, bytes, money, replacements
    Report(ReportArguments),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, clap::Error> {
        Arguments::try_parse_from(std::iter::once("spillway").chain(line.split_whitespace()))
    }

    const RELEASE: &str = "01234567-89ab-7def-8123-456789abcdef";

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_is_understood_in_full() {
        let lines = [
            "register --server https://s.example --email a@b.example --password-stdin --name tv --up-mbit 20 --down-mbit 100",
            "login --server http://127.0.0.1:8080 --email a@b.example",
            "login --email a@b.example",
            "logout",
            "password --password-stdin",
            "contents --all",
            &format!("contents {RELEASE} --json"),
            "publish one.bin --title Film --label en",
            "publish en.bin fr.bin --title Film --label en --label fr --chunking fixed",
            &format!("publish en.bin --content {RELEASE}"),
            &format!("release cancel {RELEASE}"),
            &format!("release abort {RELEASE}"),
            "voucher create --count 3 --value 25.00 --expires +30d",
            "redeem ABCD-EFGH",
            "role a@b.example publisher",
            "wallet --entries 5",
            "wallet --csv",
            "wallet",
            "list --all",
            &format!("list {RELEASE}"),
            &format!("apply {RELEASE} --maximum 5 --rank 2 --edition en"),
            &format!("apply {RELEASE} --change --maximum 6.50"),
            &format!("apply {RELEASE} --withdraw"),
            &format!("run --up-mbit 20 --down-mbit 100 --dir out --release {RELEASE} --release {RELEASE} --exit-when-done"),
            "run",
            "run --store-quota 20GiB",
            "run --store-quota 0",
            "login --email a@b.example --store-quota 500MB",
            &format!("get {RELEASE} --store-quota 20GiB"),
            &format!("get {RELEASE}"),
            &format!("get {RELEASE} --edition en --dir out --maximum 2.50 --up-mbit 5 --down-mbit 50"),
            &format!("get {RELEASE} --cancel"),
            &format!("offer {RELEASE} --price 0.50 --origin-budget 0 --relay-share 80% --fee 2% --limit 2d"),
            &format!("offer {RELEASE} --withdraw"),
            &format!("offer {RELEASE} --tariff {RELEASE} --limit 2d"),
            &format!("get {RELEASE} --quote"),
            "tariff create Nights terms.json",
            &format!("tariff change {RELEASE} terms.json"),
            "tariff show",
            &format!("tariff show {RELEASE} --version 2"),
            "webhook create https://a.example/x --event delivery.settled --event release.live --description accounts",
            "webhook list",
            &format!("webhook rotate {RELEASE}"),
            &format!("webhook deliveries {RELEASE} --state dead --entries 5"),
            &format!("webhook retry {RELEASE} {RELEASE}"),
            &format!("webhook retry {RELEASE} --dead"),
            &format!("webhook test {RELEASE}"),
            &format!("webhook delete {RELEASE}"),
            &format!("webhook enable {RELEASE}"),
            &format!("webhook disable {RELEASE}"),
            "status --all",
            "measure",
            "measure --region 7",
            &format!("report {RELEASE}"),
            &format!("status {RELEASE} --json --config /tmp/x"),
            "--json --config /tmp/x wallet",
        ];
        for line in lines {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
    }

    #[test]
    fn kits_webhooks_and_quarantines_are_understood_and_half_a_line_of_them_is_not() {
        let lines = [
            "kit create /mnt/stick --name stick --password-stdin",
            "--kit /mnt/stick kit show",
            "kit show --kit /mnt/stick --json",
            "kit passphrase --kit /mnt/stick --password-stdin",
            "kit list",
            &format!("webhook change {RELEASE} --url https://b.example/x --event release.live --description more"),
            &format!("webhook change {RELEASE} --all-events"),
            "quarantine list --open",
            &format!("quarantine appeal {RELEASE} sorry"),
            &format!("quarantine impose {RELEASE} --reason denial --note unsigned --until +7d"),
            &format!("quarantine lift {RELEASE} --note believed"),
            &format!("quarantine uphold {RELEASE}"),
            "--kit /mnt/stick run --dir out",
        ];
        for line in lines {
            if let Err(error) = parse(line) {
                panic!("{line}: {error}");
            }
        }
        let lines = [
            "kit",
            "kit create",
            &format!("webhook change {RELEASE}"),
            &format!("webhook change {RELEASE} --all-events --event release.live"),
            &format!("quarantine appeal {RELEASE}"),
            &format!("quarantine impose {RELEASE} --reason anger --note x"),
            &format!("quarantine impose {RELEASE} --reason denial"),
            "kit show /mnt/stick",
            "--kit",
        ];
        for line in lines {
            assert_eq!(parse(line).map(drop).map_err(|error| error.exit_code()), Err(2), "{line}");
        }
    }

    #[test]
    fn a_release_is_described_on_one_line() {
        let line = format!(
            "release create --content {RELEASE} --edition en fr --rank 100:0:1 --rank 60:5:16 --reserve 1.00 --opens +0s --closes +10s \
             --starts +15s --origin-budget 1.1x --relay-share 50% --fee 2% --limit 10m"
        );
        let Command::Release(ReleaseCommand::Create(release)) = parse(&line).unwrap().command else { panic!("another command") };
        assert_eq!(release.editions, ["en", "fr"]);
        assert_eq!(release.ranks.len(), 2);
        assert_eq!(release.limit_s, 600);
        assert_eq!(release.relay_share.get(), 5000);
    }

    #[test]
    fn lines_that_contradict_themselves_are_usage_errors() {
        let lines = [
            "",
            "fly",
            "register --email a@b.example",
            "register --server https://s.example",
            "register --server ftp://s.example --email a@b.example",
            "register --server s.example --email a@b.example",
            "register --server https://s.example --email a@b.example --up-mbit 2,5",
            "publish",
            "publish one.bin",
            &format!("publish one.bin --title Film --content {RELEASE}"),
            "publish one.bin --content 42",
            "release",
            &format!("release create --content {RELEASE} --closes +10s --starts +15s"),
            &format!("release create --content {RELEASE} --rank 100 --closes +10s --starts +15s"),
            &format!("release create --content {RELEASE} --rank 100:0 --primaries-max 0 --closes +10s --starts +15s"),
            &format!("release create --content {RELEASE} --rank 100:0:1 --closes soon --starts +15s"),
            &format!("release create --content {RELEASE} --rank 100:0:1 --closes +10s --starts +15s --fee 2"),
            "release cancel",
            "release abort",
            "voucher create --count 0 --value 1",
            "voucher create --count 1001 --value 1",
            "voucher create --count 1 --value -1",
            "voucher create --count 1 --value 1e3",
            "redeem",
            "role a@b.example emperor",
            "wallet --entries many",
            "wallet --entries 5 --csv",
            &format!("apply {RELEASE}"),
            &format!("apply {RELEASE} --change"),
            &format!("apply {RELEASE} --withdraw --change"),
            &format!("apply {RELEASE} --withdraw --maximum 5"),
            &format!("apply {RELEASE} --maximum 5 --rank 0"),
            "apply --maximum 5",
            "run --release nothing",
            "logout now",
            "contents 42",
            &format!("contents {RELEASE} --all"),
            "run --up-mbit -1",
            "run --store-quota",
            "run --store-quota much",
            "run --store-quota 1.5GiB",
            &format!("get {RELEASE} --cancel --store-quota 20GiB"),
            &format!("offer {RELEASE}"),
            &format!("offer {RELEASE} --tariff {RELEASE} --price 1"),
            &format!("offer {RELEASE} --tariff {RELEASE} --fee 2%"),
            &format!("get {RELEASE} --quote --cancel"),
            "tariff create Nights",
            "tariff show --version 2",
            "webhook create",
            "webhook create https://a.example --event delivery.sent",
            &format!("webhook retry {RELEASE}"),
            &format!("webhook retry {RELEASE} {RELEASE} --dead"),
            &format!("webhook deliveries {RELEASE} --state lost"),
            &format!("webhook deliveries {RELEASE} --entries 0"),
            "status --release",
            "measure --region 65536",
            "report",
        ];
        for line in lines {
            match parse(line) {
                Ok(arguments) => panic!("{line} was understood as {arguments:?}"),
                Err(error) => assert_eq!(error.exit_code(), 2, "{line}"),
            }
        }
    }

    fn all_commands(command: &clap::Command) -> Vec<&clap::Command> {
        command.get_subcommands().flat_map(|sub| std::iter::once(sub).chain(all_commands(sub))).collect()
    }

    #[test]
    fn every_command_and_every_argument_says_what_it_is_for() {
        let program = Arguments::command();
        for command in all_commands(&program) {
            assert!(command.get_about().is_some(), "{} has no help", command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{} {} has no help", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn an_id_that_is_none_is_refused_without_the_name_of_a_type() {
        for line in [
            "list 42",
            "apply 42 --maximum 1",
            "status 42",
            "run --release 42",
            "release cancel 42",
            "contents 42",
            "get 42",
            "offer 42 --price 1",
            "tariff change 42 terms.json",
            "report 42",
            "webhook test 42",
            "quarantine lift 42",
            "quarantine impose 42 --reason other --note x",
        ] {
            let error = parse(line).unwrap_err().to_string();
            assert!(error.contains("looks like 01") && !error.contains("Id "), "{line}: {error}");
        }
    }

    #[test]
    fn the_help_names_every_exit_code() {
        let help = Arguments::command().render_long_help().to_string();
        for code in ["0", "1", "2", "3", "4", "5", "130"] {
            assert!(help.lines().any(|line| line.split_whitespace().next() == Some(code)), "{code} is missing in\n{help}");
        }
    }
}
