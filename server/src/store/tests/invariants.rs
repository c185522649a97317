//! The database itself refuses every bad write, whatever program makes it: here by plain SQL.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::fixture::World;

/// Two funded wallets and a publisher, with short names for their accounts.
const SETTING: &str = "
    INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at)
        SELECT uid(n), n || '@example.org', '', 'user', now(), now() FROM generate_series(1, 3) n;
    INSERT INTO accounts (kind, user_id) VALUES ('wallet', uid(1)), ('wallet', uid(2)), ('publisher', uid(3));
    INSERT INTO transfers (id, kind, created_at) VALUES (uid(100), 'voucher_redemption', now());
    INSERT INTO entries (transfer_id, account_id, amount) VALUES (uid(100), issued(), -150), (uid(100), purse(1), 100), (uid(100), purse(2), 50);
    INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(10), purse(1), 60, now());";

const NAMES: &str = "
    CREATE FUNCTION uid(n bigint) RETURNS uuid LANGUAGE sql AS $$ SELECT lpad(to_hex(n), 32, '0')::uuid $$;
    CREATE FUNCTION purse(n bigint) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM accounts WHERE kind = 'wallet' AND user_id = uid(n) $$;
    CREATE FUNCTION issued() RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM accounts WHERE kind = 'vouchers_issued' $$;
    CREATE FUNCTION platform() RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM accounts WHERE kind = 'platform' $$;
    CREATE FUNCTION earnings() RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM accounts WHERE kind = 'publisher' $$;
    CREATE FUNCTION transfer(n bigint) RETURNS void LANGUAGE sql AS $$
        INSERT INTO transfers (id, kind, created_at) VALUES (uid(n), 'voucher_redemption', now()) $$;
    CREATE FUNCTION entry(n bigint, account uuid, amount bigint) RETURNS void LANGUAGE sql AS $$
        INSERT INTO entries (transfer_id, account_id, amount) VALUES (uid(n), account, amount) $$;
    CREATE FUNCTION entries(n bigint, first uuid, of_first bigint, second uuid, of_second bigint) RETURNS void LANGUAGE sql AS $$
        INSERT INTO entries (transfer_id, account_id, amount) VALUES (uid(n), first, of_first), (uid(n), second, of_second) $$;
    CREATE FUNCTION entries(n bigint, first uuid, of_first bigint, second uuid, of_second bigint, third uuid, of_third bigint)
        RETURNS void LANGUAGE sql AS $$ INSERT INTO entries (transfer_id, account_id, amount)
            VALUES (uid(n), first, of_first), (uid(n), second, of_second), (uid(n), third, of_third) $$;
    CREATE FUNCTION resolve(hold bigint, posted bigint, n bigint) RETURNS void LANGUAGE sql AS $$
        INSERT INTO hold_resolutions (hold_id, posted, transfer_id, created_at) VALUES (uid(hold), posted, uid(n), now()) $$;";

struct Sql {
    world: World,
    connection: PgConnection,
}

impl Sql {
    async fn new() -> Self {
        let world = World::new().await;
        let connection = PgConnection::connect(world.database.url()).await.unwrap();
        let mut sql = Self { world, connection };
        sql.run(NAMES).await.unwrap();
        sql.run(SETTING).await.unwrap();
        sql
    }

    /// Runs statements in one transaction and commits it.
    async fn run(&mut self, statements: &str) -> Result<(), sqlx::Error> {
        let done = sqlx::raw_sql(AssertSqlSafe(format!("BEGIN; {statements}; COMMIT;"))).execute(&mut self.connection).await;
        if done.is_err() {
            sqlx::raw_sql("ROLLBACK").execute(&mut self.connection).await.unwrap();
        }
        done.map(|_| ())
    }

    /// The statements must fail with this SQLSTATE (and constraint, if one is named), and the books still balance.
    async fn refused(&mut self, statements: &str, expected: &str) {
        let Err(error) = self.run(statements).await else { panic!("the database took: {statements}") };
        let error = error.as_database_error().unwrap_or_else(|| panic!("{statements}: {error}"));
        let found = error.constraint().map_or_else(|| error.code().unwrap_or_default().into_owned(), str::to_owned);
        assert_eq!(found, expected, "{statements}: {error}");
        self.world.store.assert_books_balance().await;
    }
}

/// SQLSTATEs without a constraint's name.
const RESTRICT: &str = "23001";
const FOREIGN_KEY: &str = "23503";

#[tokio::test]
async fn a_transfer_whose_entries_do_not_sum_to_zero_is_refused() {
    let mut sql = Sql::new().await;
    let balanced = "transfers_balanced";
    sql.refused("SELECT transfer(1), entries(1, purse(1), -10, earnings(), 9)", balanced).await;
    sql.refused("SELECT transfer(1)", balanced).await;
    sql.refused("SELECT transfer(1), entry(1, purse(1), -10)", balanced).await;
    // By one statement, so that no order of statements and no early check lets anything through.
    sql.refused("SELECT transfer(1), entry(1, purse(1), -10), entry(1, earnings(), 10)", balanced).await;
    let two = "SELECT transfer(1), transfer(2); INSERT INTO entries (transfer_id, account_id, amount)
        VALUES (uid(1), purse(1), -10), (uid(2), earnings(), 10)";
    sql.refused(two, balanced).await;
    let late = "SELECT transfer(1), entries(1, purse(1), -10, earnings(), 10); SET CONSTRAINTS ALL IMMEDIATE; SET CONSTRAINTS ALL DEFERRED;
        SELECT entry(1, purse(2), 5)";
    sql.refused(late, balanced).await;
    sql.run("SELECT transfer(1), entries(1, purse(1), -10, earnings(), 10)").await.unwrap();
}

#[tokio::test]
async fn entries_cannot_be_added_to_a_transfer_that_was_written_before() {
    let mut sql = Sql::new().await;
    sql.refused("SELECT entries(100, platform(), 5, earnings(), -5)", RESTRICT).await;
    sql.refused("SELECT entries(999, purse(1), 5, earnings(), -5)", RESTRICT).await;
    // A stamp that is stated does not count.
    let forged = "INSERT INTO transfers (id, kind, created_at, xact) VALUES (uid(2), 'voucher_redemption', now(), '1');
        SELECT entries(2, purse(1), -5, earnings(), 5)";
    sql.run(forged).await.unwrap();
    sql.refused("SELECT entries(2, purse(2), -5, platform(), 5)", RESTRICT).await;
}

#[tokio::test]
async fn what_was_booked_is_neither_changed_nor_deleted_nor_truncated() {
    let mut sql = Sql::new().await;
    sql.run("SELECT resolve(10, 0, NULL)").await.unwrap();
    for table in ["accounts", "transfers", "entries", "holds", "hold_resolutions"] {
        let (column, value) = match table {
            "accounts" => ("kind", "'publisher'"),
            "hold_resolutions" => ("posted", "1"),
            "transfers" => ("kind", "'delivery'"),
            _ => ("amount", "1"),
        };
        sql.refused(&format!("UPDATE {table} SET {column} = {value}"), RESTRICT).await;
        sql.refused(&format!("DELETE FROM {table}"), RESTRICT).await;
        sql.refused(&format!("TRUNCATE {table} CASCADE"), RESTRICT).await;
    }
    sql.refused("TRUNCATE users CASCADE", RESTRICT).await;
}

#[tokio::test]
async fn a_hold_is_resolved_once_and_for_at_most_its_amount() {
    let mut sql = Sql::new().await;
    let spend =
        |amount: u32| format!("SELECT transfer(1), resolve(10, {amount}, 1), entries(1, purse(1), -{amount}, earnings(), {amount})");
    sql.refused(&spend(61), "hold_resolutions_most").await;
    sql.refused("SELECT resolve(10, -1, NULL)", "hold_resolutions_posted").await;
    sql.refused("SELECT resolve(10, 5, NULL)", "hold_resolutions_transfer").await;
    sql.run(&spend(60)).await.unwrap();
    sql.refused("SELECT resolve(10, 0, NULL)", "hold_resolutions_pkey").await;
    sql.refused("SELECT resolve(10, 0, NULL), resolve(10, 0, NULL)", "hold_resolutions_pkey").await;
    assert_eq!(balances(&mut sql, 1).await, (40, 0));
}

#[tokio::test]
async fn what_is_posted_of_a_hold_is_an_entry_of_its_wallet_and_its_transaction() {
    let mut sql = Sql::new().await;
    let entry = "hold_resolutions_entry";
    sql.refused("SELECT transfer(1), resolve(10, 20, 1), entries(1, purse(2), -20, earnings(), 20)", entry).await;
    sql.refused("SELECT transfer(1), resolve(10, 20, 1), entries(1, purse(1), -19, earnings(), 19)", entry).await;
    sql.refused("SELECT resolve(10, 20, 100)", entry).await;
    sql.run("SELECT transfer(3), entries(3, purse(1), -20, earnings(), 20)").await.unwrap();
    sql.refused("SELECT resolve(10, 20, 3)", RESTRICT).await;
    // One entry does not pay two holds.
    let twice = "INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(11), purse(1), 20, now());
        SELECT transfer(1), resolve(10, 20, 1), resolve(11, 20, 1), entries(1, purse(1), -20, earnings(), 20)";
    sql.refused(twice, "hold_resolutions_transfer_id_key").await;
    sql.run("SELECT transfer(1), resolve(10, 20, 1), entries(1, purse(1), -20, earnings(), 20)").await.unwrap();
    assert_eq!(balances(&mut sql, 1).await, (60, 0));
}

#[tokio::test]
async fn the_available_amount_of_a_wallet_is_never_negative() {
    let mut sql = Sql::new().await;
    let available = "wallets_available";
    sql.refused("SELECT transfer(1), entries(1, purse(2), -51, earnings(), 51)", available).await;
    // 100 posted, 60 of it held.
    sql.refused("SELECT transfer(1), entries(1, purse(1), -41, earnings(), 41)", available).await;
    sql.refused("INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(11), purse(1), 41, now())", available).await;
    // In one statement as well, and not even for the moment until the hold is resolved.
    let both =
        "INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(11), purse(1), 20, now()), (uid(12), purse(1), 21, now())";
    sql.refused(both, available).await;
    sql.refused("SELECT transfer(1), entries(1, purse(1), -60, earnings(), 60), resolve(10, 60, 1)", available).await;
    sql.run("INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(11), purse(1), 40, now())").await.unwrap();
}

#[tokio::test]
async fn a_balance_cannot_be_tampered_with() {
    let mut sql = Sql::new().await;
    for statement in [
        "UPDATE wallets SET posted = posted + 1",
        "UPDATE wallets SET held = 0",
        "UPDATE wallets SET version = 0",
        "DELETE FROM wallets",
        "TRUNCATE wallets CASCADE",
        "INSERT INTO wallets (account_id, posted) VALUES (earnings(), 1000)",
    ] {
        sql.refused(statement, RESTRICT).await;
    }
    // Even without the trigger that guards it.
    sql.refused("ALTER TABLE wallets DISABLE TRIGGER wallets_guard; UPDATE wallets SET held = -1", "wallets_held").await;
    sql.refused("ALTER TABLE wallets DISABLE TRIGGER wallets_guard; UPDATE wallets SET posted = held - 1", "wallets_available").await;
    assert_eq!(balances(&mut sql, 1).await, (100, 60));
}

#[tokio::test]
async fn a_wallets_entries_are_numbered_without_gaps_or_repeats() {
    let mut sql = Sql::new().await;
    sql.run("SELECT transfer(1), entries(1, purse(1), -1, earnings(), 1)").await.unwrap();
    let numbers: Vec<(i64, i64)> = sqlx::query_as("SELECT version, balance FROM entries WHERE account_id = purse(1) ORDER BY id")
        .fetch_all(&mut sql.connection)
        .await
        .unwrap();
    assert_eq!(numbers, [(1, 100), (2, 99)]);
    let stated = "SELECT transfer(2); INSERT INTO entries (transfer_id, account_id, amount, version) VALUES (uid(2), purse(1), -1, 2);
        SELECT entry(2, earnings(), 1)";
    sql.refused(stated, RESTRICT).await;
    // Even without the trigger that numbers them, a number is given once.
    sql.refused(&format!("ALTER TABLE entries DISABLE TRIGGER entries_post; {stated}"), "entries_version").await;
}

#[tokio::test]
async fn a_hold_is_only_on_a_wallet_and_only_of_something() {
    let mut sql = Sql::new().await;
    let hold = |account: &str, amount: i64| {
        format!("INSERT INTO holds (id, account_id, amount, created_at) VALUES (uid(11), {account}, {amount}, now())")
    };
    for account in ["earnings()", "issued()", "uid(999)"] {
        sql.refused(&hold(account, 1), "holds_account_id_fkey").await;
    }
    sql.refused(&hold("purse(1)", 0), "holds_amount").await;
    sql.refused(&hold("purse(1)", -5), "holds_amount").await;
}

#[tokio::test]
async fn an_entry_is_on_an_account_that_exists_and_stands_once_in_its_transfer() {
    let mut sql = Sql::new().await;
    sql.refused("SELECT transfer(1), entries(1, uid(999), -1, earnings(), 1)", FOREIGN_KEY).await;
    sql.refused("SELECT transfer(1), entries(1, purse(1), -1, purse(1), -1, earnings(), 2)", "entries_once").await;
    sql.refused("SELECT transfer(1), entries(1, purse(1), 0, earnings(), 0)", "entries_amount_check").await;
}

#[tokio::test]
async fn a_user_has_one_wallet_and_the_service_one_platform() {
    let mut sql = Sql::new().await;
    sql.refused("INSERT INTO accounts (kind, user_id) VALUES ('wallet', uid(1))", "accounts_of_user").await;
    sql.refused("INSERT INTO accounts (kind) VALUES ('platform')", "accounts_of_service").await;
    sql.refused("INSERT INTO accounts (kind) VALUES ('wallet')", "accounts_check").await;
    sql.refused("INSERT INTO accounts (kind, user_id) VALUES ('platform', uid(1))", "accounts_check").await;
}

#[tokio::test]
async fn a_voucher_is_redeemed_once_in_time_and_for_its_value() {
    let mut sql = Sql::new().await;
    let made =
        "INSERT INTO voucher_batches (id, created_by, vouchers, salt, created_at) VALUES (uid(50), uid(1), 3, sha256('salt'), now());
        INSERT INTO vouchers (code_hash, batch_id, value, expires_at) VALUES
            (sha256('a'), uid(50), 30, NULL), (sha256('b'), uid(50), 30, now()), (sha256('c'), uid(50), 100, NULL)";
    sql.run(made).await.unwrap();
    let redeem = |code: &str, user: u32, value: u32, transfer: u32| {
        format!(
            "SELECT transfer({transfer}), entries({transfer}, purse({user}), {value}, issued(), -{value});
             UPDATE vouchers SET redeemed_by = uid(1), redeemed_at = now(), transfer_id = uid({transfer}) WHERE code_hash = sha256('{code}')"
        )
    };
    sql.refused(&redeem("b", 1, 30, 1), "vouchers_expiry").await;
    sql.refused(&redeem("a", 1, 31, 1), "vouchers_entry").await;
    sql.refused(&redeem("a", 2, 30, 1), "vouchers_entry").await;
    // An earlier transfer of the same value to the same wallet does not do.
    let unpaid = "UPDATE vouchers SET redeemed_by = uid(1), redeemed_at = now(), transfer_id = uid(100) WHERE code_hash = sha256('c')";
    sql.refused(unpaid, "vouchers_entry").await;
    sql.run(&redeem("a", 1, 30, 1)).await.unwrap();
    sql.refused(&redeem("a", 1, 30, 2), "vouchers_once").await;
    let unredeem = "UPDATE vouchers SET redeemed_by = NULL, redeemed_at = NULL, transfer_id = NULL WHERE code_hash = sha256('a')";
    sql.refused(unredeem, "vouchers_once").await;
    sql.refused("UPDATE vouchers SET value = 3000 WHERE code_hash = sha256('b')", RESTRICT).await;
    sql.refused("UPDATE vouchers SET expires_at = NULL WHERE code_hash = sha256('b')", RESTRICT).await;
    sql.refused("DELETE FROM vouchers", RESTRICT).await;
    for statement in ["UPDATE voucher_batches SET vouchers = 1", "DELETE FROM voucher_batches", "TRUNCATE voucher_batches CASCADE"] {
        sql.refused(statement, RESTRICT).await;
    }
}

#[tokio::test]
async fn one_delivery_is_paid_by_one_transfer() {
    let mut sql = Sql::new().await;
    let paid = "INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES (uid(1), 'delivery', uid(7), now());
        SELECT entries(1, purse(1), -1, earnings(), 1)";
    // There is no such delivery here; that one is paid twice is refused before that is noticed.
    sql.refused(paid, "transfers_delivery").await;
    let twice = "INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES (uid(1), 'delivery', uid(7), now()), (uid(2), 'delivery', uid(7), now())";
    sql.refused(twice, "transfers_delivery_id_key").await;
    sql.refused("INSERT INTO transfers (id, kind, created_at) VALUES (uid(1), 'delivery', now())", "transfers_check").await;
}

#[tokio::test]
async fn a_roll_up_is_the_sum_of_its_entries_whatever_is_written_to_it() {
    let mut sql = Sql::new().await;
    sql.run("SELECT roll_up_balances()").await.unwrap();
    sql.run("SELECT transfer(1), entries(1, purse(1), -10, earnings(), 10)").await.unwrap();
    assert_eq!(earned(&mut sql).await, 10, "entries after the roll-up count");
    sql.run("UPDATE balance_rollups SET balance = 1000000, through_entry = 0").await.unwrap();
    assert_eq!(earned(&mut sql).await, 10);
    sql.run("SELECT transfer(2), entries(2, purse(2), -5, earnings(), 5); SELECT roll_up_balances(), roll_up_balances()").await.unwrap();
    assert_eq!(earned(&mut sql).await, 15);
    sql.world.store.assert_books_balance().await;
}

async fn earned(sql: &mut Sql) -> i64 {
    sqlx::query_scalar("SELECT account_balance(earnings())").fetch_one(&mut sql.connection).await.unwrap()
}

/// (posted, held)
async fn balances(sql: &mut Sql, user: i64) -> (i64, i64) {
    sqlx::query_as("SELECT posted, held FROM wallets WHERE account_id = purse($1)").bind(user).fetch_one(&mut sql.connection).await.unwrap()
}
