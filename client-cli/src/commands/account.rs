//! `register` and `login`: an account on a server, and this machine as one of its terminals.

use std::sync::Arc;

use crate::session::Login;
use protocol::rest::{ChangeRole, Login as Credentials, NewTerminal, NewUser, Password, Role, Terminal, User};
use protocol::ws::Capabilities;
use protocol::{TerminalId, TerminalKey};
use serde::Serialize;
use terminal::api::{Api, FixedToken};
use time::OffsetDateTime;

use super::all_pages;
use crate::arguments::{LoginArguments, RegisterArguments, RoleArguments, TerminalArguments};
use crate::failure::{Failure, Outcome};
use crate::folder::{Account, Folder, FolderLock, TerminalFile};
use crate::password;
use crate::random::random;
use crate::screen::{Report, clean};

/// The longest terminal name that the server takes, in characters.
const NAME_CHARACTERS_MAX: usize = 64;

#[derive(Debug, Serialize)]
struct Registered {
    server: String,
    user: User,
    terminal: Terminal,
}

pub(super) async fn register(arguments: RegisterArguments, folder: &Folder) -> Outcome<Report> {
    if let Some(existing) = folder.terminal()? {
        return Err(Failure::Usage(format!(
            "{} holds the terminal of another account on {}: give another folder with --config, or use `spillway login`",
            folder.path().display(),
            existing.server
        )));
    }
    let api = Api::new(&arguments.server)?;
    let password = if arguments.account.password_stdin { password::from_stdin()? } else { password::ask("New password: ", true)? };
    api.create_user(&NewUser { email: arguments.account.email.clone(), password: password.clone() }).await?;
    log_in(&arguments.server, &api, &arguments.account.email, password, &arguments.terminal, folder).await
}

pub(super) async fn login(arguments: LoginArguments, folder: &Folder) -> Outcome<Report> {
    let known_server = || -> Outcome<Option<String>> {
        let from_account = folder.account()?.map(|account| account.server);
        Ok(from_account.or(folder.terminal()?.map(|terminal| terminal.server)))
    };
    let server = match arguments.server {
        Some(server) => server,
        None => known_server()?.ok_or_else(|| Failure::Usage("no server is known yet: give --server URL".into()))?,
    };
    let api = Api::new(&server)?;
    let password = if arguments.account.password_stdin { password::from_stdin()? } else { password::ask("Password: ", false)? };
    log_in(&server, &api, &arguments.account.email, password, &arguments.terminal, folder).await
}

/// For the operator.
pub(super) async fn change_role(arguments: RoleArguments, folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    // The server keeps addresses in lower case.
    let email = arguments.email.to_lowercase();
    let found = api.users_by_email(&email).await?.items.into_iter().find(|user| user.email == email);
    let user = found.ok_or_else(|| Failure::Failed(format!("there is no account with the address {email}")))?;
    let user = api.change_role(user.id, &ChangeRole { role: arguments.role.into() }).await?;
    let role = match user.role {
        Role::User => "a plain user",
        Role::Publisher => "a publisher",
        Role::Operator => "an operator",
    };
    Report::new(&user, format!("{} is {role} now.", clean(&user.email)))
}

async fn log_in(server: &str, api: &Api, email: &str, password: Password, wish: &TerminalArguments, folder: &Folder) -> Outcome<Report> {
    let tokens = api.create_session(&Credentials { email: email.to_owned(), password }).await?;
    let api = api.with_tokens(Arc::new(FixedToken(tokens.access_token.clone())));
    let user = api.me().await?;
    let lock = folder.lock().await?;
    let existing = folder.terminal()?;
    if let Some(other) = existing.as_ref().filter(|file| file.server != server || file.user_id != user.id) {
        return Err(Failure::Usage(format!(
            "{} holds the terminal of another account on {}: give another folder with --config",
            folder.path().display(),
            other.server
        )));
    }
    let account = Account {
        server: server.to_owned(),
        email: user.email.clone(),
        user_id: user.id,
        access_token: String::new(),
        access_expires_at: OffsetDateTime::UNIX_EPOCH,
        refresh_token: String::new(),
    };
    folder.write_account(&account.with_tokens(tokens, OffsetDateTime::now_utc()), &lock)?;
    let terminal = match existing.as_ref().and_then(|file| file.id) {
        Some(id) => known_terminal(&api, id, existing, wish, folder, &lock).await?,
        None => register_terminal(&api, &account, existing, wish, folder, &lock).await?,
    };
    let text = format!("Logged in to {server} as {}.\nThis terminal is {} ({}).", clean(&user.email), clean(&terminal.name), terminal.id);
    Report::new(&Registered { server: server.to_owned(), user, terminal }, text)
}

/// The terminal of an earlier login. Rates and a quota that are stated now count from the next run on.
async fn known_terminal(
    api: &Api,
    id: TerminalId,
    file: Option<TerminalFile>,
    wish: &TerminalArguments,
    folder: &Folder,
    lock: &FolderLock,
) -> Outcome<Terminal> {
    let terminal = api.terminal(id).await?;
    if let Some(mut file) = file.filter(|_| wish.up_mbit.is_some() || wish.down_mbit.is_some() || wish.store_quota.is_some()) {
        if wish.up_mbit.is_some() || wish.down_mbit.is_some() {
            file.capabilities = Some(stated(wish, file.capabilities.unwrap_or(terminal.capabilities)));
        }
        file.store_quota = wish.store_quota.or(file.store_quota);
        folder.write_terminal(&file, lock)?;
    }
    Ok(terminal)
}

/// The rates that were given, and for the others those known before.
fn stated(wish: &TerminalArguments, known: Capabilities) -> Capabilities {
    Capabilities { up: wish.up_mbit.unwrap_or(known.up), down: wish.down_mbit.unwrap_or(known.down) }
}

/// Makes this machine a terminal of the account. A key that an interrupted attempt has left is used again: the server may know it already.
pub(super) async fn register_terminal(
    api: &Api,
    account: &Account,
    left: Option<TerminalFile>,
    wish: &TerminalArguments,
    folder: &Folder,
    lock: &FolderLock,
) -> Outcome<Terminal> {
    let was_tried = left.is_some();
    let mut file = match left {
        Some(file) => file,
        None => TerminalFile::new(account.server.clone(), account.user_id, terminal_name(wish)?, &new_key()?),
    };
    // Before it is registered, so that no registered key is ever lost.
    folder.write_terminal(&file, lock)?;
    let public_key = file.key().public();
    let registered = if was_tried {
        all_pages(async |page| api.terminals(page).await).await?.into_iter().find(|terminal| terminal.public_key == public_key)
    } else {
        None
    };
    let terminal = match registered {
        Some(terminal) => terminal,
        None => {
            let proof = file.key().sign(&NewTerminal::proof_bytes(account.user_id));
            let capabilities = stated(wish, Capabilities::default());
            api.create_terminal(&NewTerminal { name: file.name.clone(), public_key, proof, capabilities }).await?
        }
    };
    file.id = Some(terminal.id);
    file.capabilities = Some(stated(wish, terminal.capabilities));
    file.store_quota = wish.store_quota.or(file.store_quota);
    folder.write_terminal(&file, lock)?;
    Ok(terminal)
}

fn new_key() -> Outcome<TerminalKey> {
    Ok(TerminalKey::from_secret(&random()?))
}

/// The name that was asked for, or the host's.
fn terminal_name(wish: &TerminalArguments) -> Outcome<String> {
    match &wish.name {
        Some(name) if name.is_empty() || name.chars().count() > NAME_CHARACTERS_MAX || name.chars().any(char::is_control) => {
            Err(Failure::Usage(format!("--name must have 1 to {NAME_CHARACTERS_MAX} printable characters")))
        }
        Some(name) => Ok(name.clone()),
        None => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            let name: String = host.chars().filter(|character| !character.is_control()).take(NAME_CHARACTERS_MAX).collect();
            Ok(if name.is_empty() { "terminal".to_owned() } else { name })
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::BitsPerSecond;

    fn wish(name: Option<&str>) -> TerminalArguments {
        TerminalArguments { name: name.map(str::to_owned), up_mbit: None, down_mbit: None, store_quota: None }
    }

    #[test]
    fn a_terminal_is_named_as_asked_or_after_its_host() {
        assert_eq!(terminal_name(&wish(Some("tv"))).unwrap(), "tv");
        let host = terminal_name(&wish(None)).unwrap();
        assert!((1..=64).contains(&host.chars().count()), "{host}");
        for bad in ["", "a\nb", &"x".repeat(65)] {
            assert_eq!(terminal_name(&wish(Some(bad))).unwrap_err().exit_code(), 2, "{bad:?}");
        }
    }

    #[test]
    fn rates_that_are_not_given_stay_as_they_were() {
        let known = Capabilities { up: BitsPerSecond(5), down: BitsPerSecond(7) };
        assert_eq!(stated(&wish(None), known), known);
        let given = TerminalArguments { up_mbit: Some(BitsPerSecond(0)), ..wish(None) };
        assert_eq!(stated(&given, known), Capabilities { up: BitsPerSecond(0), down: BitsPerSecond(7) });
    }

    #[test]
    fn every_key_is_a_new_one() {
        assert_ne!(new_key().unwrap().public(), new_key().unwrap().public());
    }

    #[tokio::test]
    async fn a_folder_with_another_accounts_terminal_is_left_alone() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::locate(Some(parent.path().to_owned())).unwrap();
        let file =
            TerminalFile::new("https://other.example".into(), protocol::UserId::from_bytes([1; 16]), "tv".into(), &new_key().unwrap());
        let lock = folder.lock().await.unwrap();
        folder.write_terminal(&file, &lock).unwrap();
        drop(lock);
        let line = "spillway register --server http://127.0.0.1:1 --email a@b.example --password-stdin";
        let parsed = <crate::arguments::Arguments as clap::Parser>::try_parse_from(line.split(' ')).unwrap();
        let crate::arguments::Command::Register(arguments) = parsed.command else { panic!("another command") };
        let failure = register(arguments, &folder).await.unwrap_err();
        assert_eq!(failure.exit_code(), 2, "refused before the password is read or the server is asked");
        assert!(failure.to_string().contains("https://other.example"), "{failure}");
        assert_eq!(folder.terminal().unwrap(), Some(file));
    }
}
