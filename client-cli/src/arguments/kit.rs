//! Arguments about kits.

use std::path::PathBuf;

use clap::{Args, Subcommand};

#[derive(Debug, Subcommand)]
pub(crate) enum KitCommand {
    /// Make a kit in a directory, such as a stick's, with a terminal and a login of its own
    Create(NewKitArguments),
    /// Show the balance and the history that the kit of --kit carries, without asking the server
    Show,
    /// Lock the kit of --kit with another passphrase
    Passphrase(PassphraseArguments),
    /// List the account's kits
    List,
}

#[derive(Debug, Args)]
pub(crate) struct NewKitArguments {
    /// Where it goes; read-only/ and rewritable/ are made there
    pub dir: PathBuf,
    /// The name of the kit's terminal
    #[arg(long, default_value = "kit")]
    pub name: String,
    /// Read the account's password and the kit's new passphrase from the first two lines of standard input instead of asking for them
    #[arg(long)]
    pub password_stdin: bool,
}

#[derive(Debug, Args)]
pub(crate) struct PassphraseArguments {
    /// Read the new passphrase from the first line of standard input instead of asking for it
    #[arg(long)]
    pub password_stdin: bool,
}
