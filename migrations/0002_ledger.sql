-- Money: double entry in integer minor units of one currency. The rules stand here, in the database, so that no defect of a program can break them:
--
--   * the entries of a transfer sum to zero, are at least two, and are written in the transaction that writes the transfer;
--   * transfers, entries, holds and their resolutions are never changed or deleted;
--   * a wallet's balance moves only by entries and holds, and what is available (posted - held) is never negative;
--   * a hold is on a wallet and is resolved at most once, for at most its amount, and what is posted of it is an entry of that very amount;
--   * a voucher is redeemed at most once, before it expires, for its value.
--
-- Publishers, the platform and the vouchers issued have no balance row, so that no two settlements wait for each other; a roll-up keeps reading them cheap.

-- The one currency, fixed when the service first starts.
CREATE TABLE ledger_currency (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    currency text NOT NULL CHECK (currency ~ '^[A-Z]{3}$')
);

CREATE TABLE accounts (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    kind text NOT NULL CHECK (kind IN ('wallet', 'publisher', 'platform', 'vouchers_issued')),
    user_id uuid REFERENCES users,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((user_id IS NOT NULL) = (kind IN ('wallet', 'publisher')))
);
CREATE UNIQUE INDEX accounts_of_user ON accounts (user_id, kind) WHERE user_id IS NOT NULL;
CREATE UNIQUE INDEX accounts_of_service ON accounts (kind) WHERE user_id IS NULL;
INSERT INTO accounts (kind) VALUES ('platform'), ('vouchers_issued');

-- A wallet's balance, kept by triggers alone. Amounts stay below 2^53, so that a browser reads them exactly.
CREATE TABLE wallets (
    account_id uuid PRIMARY KEY REFERENCES accounts,
    posted bigint NOT NULL DEFAULT 0,
    held bigint NOT NULL DEFAULT 0,
    -- The number of entries.
    version bigint NOT NULL DEFAULT 0,
    CONSTRAINT wallets_held CHECK (held >= 0),
    CONSTRAINT wallets_available CHECK (posted - held >= 0),
    CONSTRAINT wallets_exact CHECK (posted <= 9007199254740991)
);

CREATE TABLE transfers (
    id uuid PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('voucher_redemption', 'delivery')),
    -- References deliveries, which come with the releases; one delivery is settled by at most one transfer.
    delivery_id uuid UNIQUE,
    created_at timestamptz NOT NULL,
    -- The transaction that wrote it: entries of any other one are refused.
    xact xid8 NOT NULL DEFAULT pg_current_xact_id(),
    CHECK ((delivery_id IS NOT NULL) = (kind = 'delivery'))
);

CREATE TABLE entries (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transfer_id uuid NOT NULL REFERENCES transfers,
    -- Checked by the trigger instead of a foreign key, which would lock the platform's row in every settlement.
    account_id uuid NOT NULL,
    amount bigint NOT NULL CHECK (amount <> 0),
    -- Wallets only, set by the trigger: the number of this entry in its wallet, and the wallet's posted balance after it.
    version bigint,
    balance bigint,
    CONSTRAINT entries_once UNIQUE (transfer_id, account_id),
    CONSTRAINT entries_version UNIQUE (account_id, version)
);
CREATE INDEX entries_account ON entries (account_id, id) INCLUDE (amount);

CREATE TABLE holds (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES wallets,
    amount bigint NOT NULL CONSTRAINT holds_amount CHECK (amount > 0),
    created_at timestamptz NOT NULL
);
CREATE INDEX holds_account ON holds (account_id);

-- How a hold ended: posted in full, in part, or (0) voided. What is not posted is available again.
CREATE TABLE hold_resolutions (
    hold_id uuid PRIMARY KEY REFERENCES holds,
    posted bigint NOT NULL CONSTRAINT hold_resolutions_posted CHECK (posted >= 0),
    transfer_id uuid UNIQUE REFERENCES transfers,
    created_at timestamptz NOT NULL,
    CONSTRAINT hold_resolutions_transfer CHECK ((posted > 0) = (transfer_id IS NOT NULL))
);

CREATE TABLE voucher_batches (
    id uuid PRIMARY KEY,
    created_by uuid NOT NULL REFERENCES users,
    vouchers integer NOT NULL CHECK (vouchers BETWEEN 1 AND 1000),
    -- The codes are derived from this and the idempotency key of the request, of which only a hash is stored.
    salt bytea NOT NULL CHECK (length(salt) = 32),
    created_at timestamptz NOT NULL
);

CREATE TABLE vouchers (
    code_hash bytea PRIMARY KEY CHECK (length(code_hash) = 32),
    batch_id uuid NOT NULL REFERENCES voucher_batches,
    value bigint NOT NULL CHECK (value BETWEEN 1 AND 9007199254740991),
    expires_at timestamptz,
    redeemed_by uuid REFERENCES users,
    redeemed_at timestamptz,
    transfer_id uuid UNIQUE REFERENCES transfers,
    CHECK ((redeemed_by IS NULL) = (redeemed_at IS NULL) AND (redeemed_by IS NULL) = (transfer_id IS NULL)),
    CONSTRAINT vouchers_expiry CHECK (redeemed_at < expires_at)
);

-- The sum of an account's entries up to `through_entry`; written by roll_up_balances alone.
CREATE TABLE balance_rollups (
    account_id uuid PRIMARY KEY REFERENCES accounts,
    through_entry bigint NOT NULL DEFAULT 0,
    balance bigint NOT NULL DEFAULT 0
);

-- Nothing that was booked is ever changed.

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on % is refused: what was booked stays as it is', TG_OP, TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
END $$;

CREATE TRIGGER accounts_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON accounts FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER wallets_stay BEFORE DELETE OR TRUNCATE ON wallets FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER transfers_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON transfers FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER entries_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON entries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER holds_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON holds FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER hold_resolutions_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON hold_resolutions FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER voucher_batches_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON voucher_batches FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();
CREATE TRIGGER vouchers_stay BEFORE DELETE OR TRUNCATE ON vouchers FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Wallets: made with their account, moved by other triggers only.

CREATE FUNCTION guard_wallet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF pg_trigger_depth() < 2 THEN
        RAISE EXCEPTION 'a wallet changes only by entries and holds' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER wallets_guard BEFORE INSERT OR UPDATE ON wallets FOR EACH ROW EXECUTE FUNCTION guard_wallet();

CREATE FUNCTION open_wallet() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO wallets (account_id) VALUES (NEW.id);
    RETURN NULL;
END $$;
CREATE TRIGGER accounts_open_wallet AFTER INSERT ON accounts FOR EACH ROW WHEN (NEW.kind = 'wallet') EXECUTE FUNCTION open_wallet();

-- Transfers and entries.

CREATE FUNCTION stamp_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.xact := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER transfers_stamp BEFORE INSERT ON transfers FOR EACH ROW EXECUTE FUNCTION stamp_transfer();

CREATE FUNCTION post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    account_kind text;
    written_by xid8;
BEGIN
    IF NEW.version IS NOT NULL OR NEW.balance IS NOT NULL THEN
        RAISE EXCEPTION 'an entry''s version and balance follow from its wallet and cannot be stated' USING ERRCODE = 'restrict_violation';
    END IF;
    SELECT kind INTO account_kind FROM accounts WHERE id = NEW.account_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'account % does not exist', NEW.account_id USING ERRCODE = 'foreign_key_violation';
    END IF;
    SELECT xact INTO written_by FROM transfers WHERE id = NEW.transfer_id;
    IF written_by IS DISTINCT FROM pg_current_xact_id() THEN
        RAISE EXCEPTION 'entries are written in the transaction of their transfer' USING ERRCODE = 'restrict_violation';
    END IF;
    IF account_kind = 'wallet' THEN
        UPDATE wallets SET posted = posted + NEW.amount, version = version + 1 WHERE account_id = NEW.account_id
            RETURNING version, posted INTO STRICT NEW.version, NEW.balance;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER entries_post BEFORE INSERT ON entries FOR EACH ROW EXECUTE FUNCTION post_entry();

CREATE FUNCTION check_transfer(checked uuid) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    total numeric;
    lines bigint;
BEGIN
    SELECT coalesce(sum(amount), 0), count(*) INTO total, lines FROM entries WHERE transfer_id = checked;
    IF lines < 2 OR total <> 0 THEN
        RAISE EXCEPTION 'the % entries of transfer % sum to %, not to zero', lines, checked, total
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_balanced';
    END IF;
END $$;
CREATE FUNCTION check_new_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM check_transfer(NEW.id);
    RETURN NULL;
END $$;
CREATE FUNCTION check_transfer_of_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM check_transfer(NEW.transfer_id);
    RETURN NULL;
END $$;
-- On both, so that neither a transfer without entries nor an entry added after an early check (SET CONSTRAINTS … IMMEDIATE) gets through.
CREATE CONSTRAINT TRIGGER transfers_balanced AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_new_transfer();
CREATE CONSTRAINT TRIGGER entries_balanced AFTER INSERT ON entries DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION check_transfer_of_entry();

-- Holds. The balance is moved once per statement, so that closing a large book updates each wallet once.

CREATE FUNCTION raise_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE wallets SET held = held + added.amount
        FROM (SELECT account_id, sum(amount) AS amount FROM inserted GROUP BY account_id) added
        WHERE wallets.account_id = added.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER holds_raise AFTER INSERT ON holds REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION raise_held();

CREATE FUNCTION guard_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    most bigint;
    written_by xid8;
BEGIN
    SELECT amount INTO most FROM holds WHERE id = NEW.hold_id;
    IF NEW.posted > most THEN
        RAISE EXCEPTION '% is more than the % of hold %', NEW.posted, most, NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_resolutions_most';
    END IF;
    IF NEW.transfer_id IS NOT NULL THEN
        SELECT xact INTO written_by FROM transfers WHERE id = NEW.transfer_id;
        IF written_by IS DISTINCT FROM pg_current_xact_id() THEN
            RAISE EXCEPTION 'a hold is posted in the transaction of its transfer' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER hold_resolutions_guard BEFORE INSERT ON hold_resolutions FOR EACH ROW EXECUTE FUNCTION guard_resolution();

CREATE FUNCTION lower_held() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE wallets SET held = held - ended.amount
        FROM (
            SELECT holds.account_id, sum(holds.amount) AS amount
            FROM inserted JOIN holds ON holds.id = inserted.hold_id
            GROUP BY holds.account_id
        ) ended
        WHERE wallets.account_id = ended.account_id;
    RETURN NULL;
END $$;
CREATE TRIGGER hold_resolutions_lower AFTER INSERT ON hold_resolutions REFERENCING NEW TABLE AS inserted
    FOR EACH STATEMENT EXECUTE FUNCTION lower_held();

-- The entry may be written after the resolution (it must be: else what is available could be negative in between), so this waits for the commit.
CREATE FUNCTION check_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (
        SELECT FROM holds JOIN entries ON entries.account_id = holds.account_id
        WHERE holds.id = NEW.hold_id AND entries.transfer_id = NEW.transfer_id AND entries.amount = -NEW.posted
    ) THEN
        RAISE EXCEPTION 'transfer % does not take % from the wallet of hold %', NEW.transfer_id, NEW.posted, NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_resolutions_entry';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER hold_resolutions_entry AFTER INSERT ON hold_resolutions DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.posted > 0) EXECUTE FUNCTION check_resolution();

-- Vouchers.

CREATE FUNCTION guard_voucher() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.redeemed_at IS NOT NULL THEN
            RAISE EXCEPTION 'a voucher is made before it is redeemed' USING ERRCODE = 'restrict_violation';
        END IF;
    ELSIF OLD.redeemed_at IS NOT NULL THEN
        RAISE EXCEPTION 'the voucher was redeemed before' USING ERRCODE = 'restrict_violation', CONSTRAINT = 'vouchers_once';
    ELSIF (NEW.code_hash, NEW.batch_id, NEW.value, NEW.expires_at) IS DISTINCT FROM (OLD.code_hash, OLD.batch_id, OLD.value, OLD.expires_at) THEN
        RAISE EXCEPTION 'a voucher''s terms stay as they are' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER vouchers_guard BEFORE INSERT OR UPDATE ON vouchers FOR EACH ROW EXECUTE FUNCTION guard_voucher();

CREATE FUNCTION check_redemption() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    written_by xid8;
BEGIN
    SELECT xact INTO written_by FROM transfers WHERE id = NEW.transfer_id AND kind = 'voucher_redemption';
    IF written_by IS DISTINCT FROM pg_current_xact_id() OR NOT EXISTS (
        SELECT FROM entries JOIN accounts ON accounts.id = entries.account_id
        WHERE entries.transfer_id = NEW.transfer_id AND accounts.user_id = NEW.redeemed_by AND accounts.kind = 'wallet' AND entries.amount = NEW.value
    ) THEN
        RAISE EXCEPTION 'the redemption of a voucher books its value in the wallet of whoever redeems it'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'vouchers_entry';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER vouchers_entry AFTER UPDATE ON vouchers DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW WHEN (NEW.redeemed_at IS NOT NULL) EXECUTE FUNCTION check_redemption();

-- Balances of the accounts that have no balance row.

-- Whatever is written to a roll-up, the trigger puts the true sum there. The lock waits for transactions that are writing entries, whose numbers may
-- be below the highest one that is visible already.
CREATE FUNCTION compute_rollup() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    rolled_through bigint := 0;
    rolled_balance bigint := 0;
BEGIN
    LOCK TABLE entries IN SHARE MODE;
    IF TG_OP = 'UPDATE' THEN
        NEW.account_id := OLD.account_id;
        rolled_through := OLD.through_entry;
        rolled_balance := OLD.balance;
    END IF;
    SELECT coalesce(max(id), rolled_through) INTO NEW.through_entry FROM entries WHERE account_id = NEW.account_id;
    SELECT rolled_balance + coalesce(sum(amount), 0) INTO NEW.balance FROM entries
        WHERE account_id = NEW.account_id AND id > rolled_through AND id <= NEW.through_entry;
    RETURN NEW;
END $$;
CREATE TRIGGER balance_rollups_compute BEFORE INSERT OR UPDATE ON balance_rollups FOR EACH ROW EXECUTE FUNCTION compute_rollup();

-- Brings every roll-up up to date. Entries wait while it runs, so it runs in a transaction of its own, now and then.
CREATE FUNCTION roll_up_balances() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    LOCK TABLE entries IN SHARE MODE;
    UPDATE balance_rollups SET balance = balance;
    INSERT INTO balance_rollups (account_id)
        SELECT id FROM accounts WHERE kind <> 'wallet' AND id NOT IN (SELECT account_id FROM balance_rollups);
END $$;

-- The balance of an account without a balance row.
CREATE FUNCTION account_balance(asked uuid) RETURNS bigint LANGUAGE sql STABLE AS $$
    WITH rolled AS (
        SELECT coalesce(max(through_entry), 0) AS through_entry, coalesce(max(balance), 0) AS balance FROM balance_rollups WHERE account_id = asked
    )
    SELECT (rolled.balance + coalesce(sum(entries.amount), 0))::bigint
    FROM rolled LEFT JOIN entries ON entries.account_id = asked AND entries.id > rolled.through_entry
    GROUP BY rolled.balance
$$;

-- Empty, or something is very wrong: wallets and roll-ups that do not follow from the entries and holds. For audits and tests.
CREATE VIEW ledger_discrepancies AS
    SELECT wallets.account_id, 'posted' AS what, wallets.posted AS kept, coalesce(booked.total, 0)::bigint AS booked
    FROM wallets LEFT JOIN (SELECT account_id, sum(amount) AS total FROM entries GROUP BY account_id) booked USING (account_id)
    WHERE wallets.posted <> coalesce(booked.total, 0)
    UNION ALL
    SELECT wallets.account_id, 'held', wallets.held, coalesce(open.total, 0)::bigint
    FROM wallets LEFT JOIN (
        SELECT holds.account_id, sum(holds.amount) AS total
        FROM holds WHERE NOT EXISTS (SELECT FROM hold_resolutions WHERE hold_id = holds.id)
        GROUP BY holds.account_id
    ) open USING (account_id)
    WHERE wallets.held <> coalesce(open.total, 0)
    UNION ALL
    SELECT balance_rollups.account_id, 'rollup', balance_rollups.balance, coalesce(sum(entries.amount), 0)::bigint
    FROM balance_rollups LEFT JOIN entries ON entries.account_id = balance_rollups.account_id AND entries.id <= balance_rollups.through_entry
    GROUP BY balance_rollups.account_id, balance_rollups.balance
    HAVING balance_rollups.balance <> coalesce(sum(entries.amount), 0);
