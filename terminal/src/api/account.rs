//! Users, sessions, terminals, wallets, vouchers, and the ledger's totals.

use protocol::rest::*;
use protocol::{KitId, TerminalId, UserId};

use super::request::Call;
use super::{Api, ApiError, PageQuery};

impl Api {
    /// Creates an account. Needs no login.
    pub async fn create_user(&self, new: &NewUser) -> Result<User, ApiError> {
        self.call(Call::post("v1/users").json(new).anonymous()).await
    }

    /// Who is logged in.
    pub async fn me(&self) -> Result<User, ApiError> {
        self.call(Call::get("v1/users/me")).await
    }

    /// Needs the present password; every other session ends.
    pub async fn change_password(&self, change: &ChangePassword) -> Result<(), ApiError> {
        // Repeating it after it was done would be refused, because the present password is then another one.
        self.call_empty(Call::put("v1/users/me/password").json(change).repeat_if_unreached()).await
    }

    /// For the operator.
    pub async fn change_role(&self, user: UserId, change: &ChangeRole) -> Result<User, ApiError> {
        self.call(Call::put(format!("v1/users/{user}/role")).json(change)).await
    }

    /// The user with an e-mail address, on a page of one or none. For the operator.
    pub async fn users_by_email(&self, email: &str) -> Result<Page<User>, ApiError> {
        self.call(Call::get("v1/users").query("email", email)).await
    }

    /// Logs in. Needs no login.
    pub async fn create_session(&self, login: &Login) -> Result<Tokens, ApiError> {
        self.call(Call::post("v1/sessions").json(login).anonymous()).await
    }

    /// Exchanges a refresh token. Never repeated once it may have arrived: a refresh token that is used twice ends the session everywhere.
    pub async fn refresh_session(&self, refresh: &Refresh) -> Result<Tokens, ApiError> {
        self.call(Call::post("v1/sessions/refresh").json(refresh).anonymous()).await
    }

    /// Logs out: the refresh token and everything that came of the same login ends.
    pub async fn delete_session(&self, refresh: &Refresh) -> Result<(), ApiError> {
        self.call_empty(Call::delete("v1/sessions").json(refresh)).await
    }

    /// Registers this machine's key.
    pub async fn create_terminal(&self, new: &NewTerminal) -> Result<Terminal, ApiError> {
        self.call(Call::post("v1/terminals").json(new)).await
    }

    pub async fn terminals(&self, page: &PageQuery) -> Result<Page<Terminal>, ApiError> {
        self.call(Call::get("v1/terminals").page(page)).await
    }

    pub async fn terminal(&self, id: TerminalId) -> Result<Terminal, ApiError> {
        self.call(Call::get(format!("v1/terminals/{id}"))).await
    }

    /// Makes a terminal a kit's; the same again if it is asked for again.
    pub async fn create_kit(&self, terminal: TerminalId, new: &NewKit) -> Result<Kit, ApiError> {
        self.call(Call::put(format!("v1/terminals/{terminal}/kit")).json(new)).await
    }

    pub async fn kits(&self, page: &PageQuery) -> Result<Page<Kit>, ApiError> {
        self.call(Call::get("v1/kits").page(page)).await
    }

    /// The balance statement after the one that is named. Its `attempt` makes it safe to repeat.
    pub async fn next_statement(&self, kit: KitId, presented: &NextStatement) -> Result<SignedStatement, ApiError> {
        self.call(Call::post(format!("v1/kits/{kit}/statements")).json(presented).repeatable()).await
    }

    pub async fn wallet(&self) -> Result<Wallet, ApiError> {
        self.call(Call::get("v1/wallet")).await
    }

    pub async fn wallet_entries(&self, page: &PageQuery) -> Result<Page<WalletEntry>, ApiError> {
        self.call(Call::get("v1/wallet/entries").page(page)).await
    }

    /// What is held, and for what.
    pub async fn wallet_holds(&self, page: &PageQuery) -> Result<Page<Hold>, ApiError> {
        self.call(Call::get("v1/wallet/holds").page(page)).await
    }

    /// Adds a voucher's worth to the wallet; the answer is the statement's new line.
    pub async fn redeem_voucher(&self, redemption: &Redemption) -> Result<WalletEntry, ApiError> {
        self.call(Call::post("v1/wallet/redemptions").json(redemption).keyed()).await
    }

    /// Makes vouchers; their codes are in the answer and nowhere else. For the operator.
    pub async fn create_vouchers(&self, new: &NewVouchers) -> Result<Vouchers, ApiError> {
        self.call(Call::post("v1/vouchers").json(new).keyed()).await
    }

    /// For the operator.
    pub async fn ledger_totals(&self) -> Result<LedgerTotals, ApiError> {
        self.call(Call::get("v1/ledger/totals")).await
    }
}
