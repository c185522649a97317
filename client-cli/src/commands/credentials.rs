//! `logout` and `password`: the end of a login, and another secret behind it.

use std::sync::Arc;

use protocol::ErrorCode;
use protocol::rest::{ChangePassword, Login as Credentials, Password, Refresh};
use serde::Serialize;
use terminal::api::{Api, ApiError, FixedToken};
use time::OffsetDateTime;

use crate::arguments::PasswordArguments;
use crate::failure::{Failure, Outcome};
use crate::folder::Folder;
use crate::password;
use crate::screen::{Report, clean};
use crate::session::{Login, not_logged_in};

/// Whose login it was or is.
#[derive(Debug, Serialize)]
struct Owner {
    server: String,
    email: String,
}

/// The server forgets the login before the folder does: a login that nobody can end any more must not stay alive.
pub(super) async fn logout(folder: &Folder) -> Outcome<Report> {
    // Looked for without the lock, which would make the folder.
    folder.account()?.ok_or_else(not_logged_in)?;
    // Held to the end, so that no process beside this one renews the tokens that are being ended.
    let lock = folder.lock().await?;
    let account = folder.account()?.ok_or_else(not_logged_in)?;
    let api = Api::new(&account.server)?.with_tokens(Arc::new(FixedToken(account.access_token.clone())));
    api.delete_session(&Refresh { refresh_token: account.refresh_token.clone() }).await?;
    folder.remove_account(&lock)?;
    let text = format!("Logged out of {}.\nThis terminal stays registered: `spillway login` uses it again.", account.server);
    Report::new(&Owner { server: account.server, email: account.email }, text)
}

/// The change ends every login of the account, so this folder logs in again.
pub(super) async fn change_password(arguments: PasswordArguments, folder: &Folder) -> Outcome<Report> {
    let login = Login::from_folder(folder)?;
    let (current, new) = if arguments.password_stdin {
        password::two_from_stdin()?
    } else {
        (password::ask("Present password: ", false)?, password::ask("New password: ", true)?)
    };
    replace_password(login, current, new, folder).await
}

async fn replace_password(login: Login, current: Password, new: Password, folder: &Folder) -> Outcome<Report> {
    login.api.change_password(&ChangePassword { current, new: new.clone() }).await.map_err(refused)?;
    let account = login.account;
    let credentials = Credentials { email: account.email.clone(), password: new };
    let tokens = login.api.create_session(&credentials).await;
    let tokens = tokens.map_err(|error| {
        Failure::NotLoggedIn(format!("the password is changed, but this login has ended ({}): use `spillway login`", Failure::from(error)))
    })?;
    let lock = folder.lock().await?;
    folder.write_account(&account.with_tokens(tokens, OffsetDateTime::now_utc()), &lock)?;
    let text = format!("The password of {} is changed.\nEvery other login of the account has ended.", clean(&account.email));
    Report::new(&Owner { server: account.server, email: account.email }, text)
}

/// A wrong present password is a refusal: the login itself is as good as before.
fn refused(error: ApiError) -> Failure {
    if let ApiError::Problem(problem) = &error
        && problem.code == ErrorCode::InvalidCredentials
    {
        return Failure::Refused(problem.clone());
    }
    Failure::from(error)
}

#[cfg(test)]
mod tests;
