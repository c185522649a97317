//! `kit create`, `kit show`, `kit passphrase`, `kit list`.

use std::io::Write;
use std::sync::Arc;

use protocol::rest::{Kit as Registered, Login as Credentials, Password, Refresh, SignedStatement, Tokens};
use protocol::{KitId, TerminalId};
use serde::Serialize;
use terminal::api::{Api, FixedToken};
use time::OffsetDateTime;

use super::account::register_terminal;
use super::{Setting, all_pages};
use crate::arguments::{KitCommand, NewKitArguments, PassphraseArguments, TerminalArguments};
use crate::failure::{Failure, Outcome, while_doing};
use crate::folder::{Account, Folder, Moved};
use crate::kit::{Draft, Identity, Kit};
use crate::password;
use crate::random::random;
use crate::screen::{Report, clean, kit_page, kits_table};
use crate::session::{Login, not_logged_in};

/// Whoever finds the stick has all the time there is to guess.
const PASSPHRASE_CHARACTERS_MIN: usize = 8;

pub(super) async fn kit(command: KitCommand, setting: &Setting) -> Outcome<Report> {
    match command {
        KitCommand::Create(_) if setting.kit.is_some() => {
            Err(Failure::Usage("a kit is made from the login of a configuration folder: leave out --kit".into()))
        }
        KitCommand::Create(arguments) => create(arguments, &setting.folder).await,
        KitCommand::Show => show(carried(setting)?),
        KitCommand::Passphrase(arguments) => change_passphrase(arguments, carried(setting)?).await,
        KitCommand::List => list(&setting.folder).await,
    }
}

fn carried(setting: &Setting) -> Outcome<&Kit> {
    setting.kit.as_ref().ok_or_else(|| Failure::Usage("say which kit, with --kit DIR".into()))
}

/// One line on standard error. What is warned of has not kept the command from its work.
pub(super) fn warn(text: &str) {
    // A stream that is closed has nobody behind it.
    let _ = writeln!(std::io::stderr(), "spillway: {}", clean(text));
}

#[derive(Debug, Serialize)]
struct Made {
    dir: std::path::PathBuf,
    #[serde(flatten)]
    kit: Registered,
}

async fn create(arguments: NewKitArguments, folder: &Folder) -> Outcome<Report> {
    let account = folder.account()?.ok_or_else(not_logged_in)?;
    let draft = Draft::begin(&arguments.dir)?;
    let (password, passphrase) = if arguments.password_stdin {
        password::two_from_stdin()?
    } else {
        (password::ask(&format!("Password of {}: ", account.email), false)?, password::ask("New passphrase of the kit: ", true)?)
    };
    expect_long(&passphrase)?;
    let anonymous = Api::new(&account.server)?;
    // A login of its own: two folders that renew the same one would end it for each other.
    let tokens = anonymous.create_session(&Credentials { email: account.email.clone(), password }).await?;
    let refresh = Refresh { refresh_token: tokens.refresh_token.clone() };
    let api = anonymous.with_tokens(Arc::new(FixedToken(tokens.access_token.clone())));
    match fill(draft, &api, &account, tokens, &passphrase, &arguments).await {
        Ok(report) => Ok(report),
        Err(failure) => {
            // It would outlive the kit that has not come to be. If this fails as well, it ends by its age.
            let _ = api.delete_session(&refresh).await;
            Err(failure)
        }
    }
}

async fn fill(
    draft: Draft,
    api: &Api,
    account: &Account,
    tokens: Tokens,
    passphrase: &Password,
    arguments: &NewKitArguments,
) -> Outcome<Report> {
    let program = std::env::current_exe().map_err(while_doing("cannot find this program's own file"))?;
    let folder = draft.folder(passphrase)?;
    let lock = folder.lock().await?;
    let own = account.with_tokens(tokens, OffsetDateTime::now_utc());
    folder.write_account(&own, &lock)?;
    let wish = TerminalArguments { name: Some(arguments.name.clone()), up_mbit: None, down_mbit: None, store_quota: None };
    let terminal = register_terminal(api, &own, None, &wish, &folder, &lock).await?;
    let identity = Identity {
        kit_id: KitId::from_bytes(random()?),
        terminal_id: terminal.id,
        server: account.server.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let kit = draft.finish(api, &identity, &program, &folder).await?;
    let dir = arguments.dir.display();
    let text = format!(
        "The kit is in {dir}: {} available, {} held.\nUse it with `spillway --kit {dir} …`. read-only/ may be mounted read-only.\nOnly its passphrase opens it.\n\
         If either is lost, make another kit: the credit is the account's.",
        kit.statement.statement.available, kit.statement.statement.held
    );
    Report::new(&Made { dir: arguments.dir.clone(), kit }, text)
}

fn expect_long(passphrase: &Password) -> Outcome<()> {
    if passphrase.0.chars().count() < PASSPHRASE_CHARACTERS_MIN {
        return Err(Failure::Usage(format!("a passphrase has at least {PASSPHRASE_CHARACTERS_MIN} characters")));
    }
    Ok(())
}

#[derive(Debug, Serialize)]
struct Contents {
    server: String,
    terminal_id: TerminalId,
    forked: bool,
    #[serde(flatten)]
    statement: SignedStatement,
    /// Newest first.
    history: Vec<Moved>,
}

fn show(kit: &Kit) -> Outcome<Report> {
    let (statement, state) = kit.balance()?;
    let history = kit.folder.history()?;
    let text = kit_page(&kit.identity.server, &statement.statement, &history, state.forked);
    let identity = &kit.identity;
    let contents =
        Contents { server: identity.server.clone(), terminal_id: identity.terminal_id, forked: state.forked, statement, history };
    Report::new(&contents, text)
}

async fn change_passphrase(arguments: PassphraseArguments, kit: &Kit) -> Outcome<Report> {
    let passphrase = if arguments.password_stdin { password::from_stdin()? } else { password::ask("New passphrase: ", true)? };
    expect_long(&passphrase)?;
    kit.folder.lock_with(&passphrase, &kit.folder.lock().await?)?;
    let text = "The kit has another passphrase. Copies that were made of it before still open with the old one.";
    Report::new(&serde_json::json!({ "kit_id": kit.identity.kit_id }), text)
}

async fn list(folder: &Folder) -> Outcome<Report> {
    let api = Login::from_folder(folder)?.api;
    let kits = all_pages(async |page| api.kits(page).await).await?;
    let text = if kits.is_empty() { "No kits: make one with `spillway kit create`.".to_owned() } else { kits_table(&kits) };
    Report::new(&kits, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a05_a_passphrase_that_is_guessed_in_a_day_is_refused() {
        assert_eq!(expect_long(&Password("1234567".into())).unwrap_err().exit_code(), 2);
        expect_long(&Password("élégance".into())).unwrap();
    }
}
