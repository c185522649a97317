-- What a posting costs, once more: each row is looked up once, no row is locked that is about to be changed anyway, and what the end of a statement or the commit
-- checks is not checked before as well.

-- The reference locked the delivery's row for every posting. Deliveries are never deleted, so that one was there is enough.
ALTER TABLE transfers DROP CONSTRAINT transfers_delivery;
CREATE TRIGGER deliveries_stay BEFORE DELETE OR TRUNCATE ON deliveries FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

CREATE OR REPLACE FUNCTION check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    has_entries boolean;
    has_delivery boolean;
BEGIN
    SELECT EXISTS (SELECT FROM entries WHERE transfer_id = NEW.id),
            NEW.delivery_id IS NULL OR EXISTS (SELECT FROM deliveries WHERE id = NEW.delivery_id)
        INTO has_entries, has_delivery;
    IF NOT has_delivery THEN
        RAISE EXCEPTION 'delivery % does not exist', NEW.delivery_id USING ERRCODE = 'foreign_key_violation', CONSTRAINT = 'transfers_delivery';
    ELSIF NOT has_entries THEN
        RAISE EXCEPTION 'transfer % has no entries', NEW.id USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_balanced';
    END IF;
    RETURN NULL;
END $$;

-- Whether the account exists is checked when the statement ends.
CREATE OR REPLACE FUNCTION post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version IS NOT NULL OR NEW.balance IS NOT NULL THEN
        RAISE EXCEPTION 'an entry''s version and balance follow from its wallet and cannot be stated' USING ERRCODE = 'restrict_violation';
    END IF;
    UPDATE wallets SET posted = posted + NEW.amount, version = version + 1 WHERE account_id = NEW.account_id
        RETURNING version, posted INTO NEW.version, NEW.balance;
    RETURN NEW;
END $$;

-- All of it in one pass. By subqueries, which look rows up by key however many there are.
CREATE OR REPLACE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    posted record;
BEGIN
    FOR posted IN
        SELECT transfer_id, sum(amount) AS total, count(*) AS lines,
            count((SELECT true FROM accounts WHERE accounts.id = inserted.account_id)) AS known,
            (SELECT xact FROM transfers WHERE transfers.id = transfer_id) AS written_by
        FROM inserted GROUP BY transfer_id
    LOOP
        IF posted.total <> 0 THEN
            RAISE EXCEPTION 'the % entries of transfer % sum to %, not to zero', posted.lines, posted.transfer_id, posted.total
                USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_balanced';
        ELSIF posted.written_by IS DISTINCT FROM pg_current_xact_id() THEN
            RAISE EXCEPTION 'entries are written in the transaction of their transfer' USING ERRCODE = 'restrict_violation';
        ELSIF posted.known < posted.lines THEN
            RAISE EXCEPTION 'an account of transfer % does not exist', posted.transfer_id USING ERRCODE = 'foreign_key_violation';
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION guard_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    most bigint;
BEGIN
    SELECT amount INTO most FROM holds WHERE id = NEW.hold_id;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'hold % does not exist', NEW.hold_id USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF NEW.posted > most THEN
        RAISE EXCEPTION '% is more than the % of hold %', NEW.posted, most, NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_resolutions_most';
    END IF;
    RETURN NEW;
END $$;

CREATE OR REPLACE FUNCTION check_resolution() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    written_by xid8;
BEGIN
    SELECT transfers.xact INTO written_by
        FROM holds JOIN entries ON entries.account_id = holds.account_id JOIN transfers ON transfers.id = entries.transfer_id
        WHERE holds.id = NEW.hold_id AND entries.transfer_id = NEW.transfer_id AND entries.amount = -NEW.posted;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'transfer % does not take % from the wallet of hold %', NEW.transfer_id, NEW.posted, NEW.hold_id
            USING ERRCODE = 'check_violation', CONSTRAINT = 'hold_resolutions_entry';
    END IF;
    IF written_by IS DISTINCT FROM pg_current_xact_id() THEN
        RAISE EXCEPTION 'a hold is posted in the transaction of its transfer' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

-- As before, from accounts that stand in lock order. The payer's wallet is locked by what ends the hold, in its turn; wallets before it are locked before, and
-- wallets after it by their entries. What a wallet has is checked at once, so that no entry may take what is still held.
CREATE OR REPLACE FUNCTION post_transfer(
    of_transfer uuid, of_kind text, of_delivery uuid, at timestamptz,
    kinds text[], users uuid[], amounts bigint[], payer uuid, of_hold uuid, taken bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    account_ids uuid[] := '{}';
    account uuid;
    is_held boolean := of_hold IS NOT NULL;
    places integer := cardinality(kinds);
BEGIN
    INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES (of_transfer, of_kind, of_delivery, at);
    FOR place IN 1..places + 1 LOOP
        IF is_held AND (place > places OR kinds[place] <> 'wallet' OR users[place] >= payer) THEN
            INSERT INTO hold_resolutions (hold_id, posted, transfer_id, created_at)
                VALUES (of_hold, taken, CASE WHEN taken > 0 THEN of_transfer END, at);
            is_held := false;
        END IF;
        EXIT WHEN place > places;
        account := open_account(kinds[place], users[place]);
        account_ids := account_ids || account;
        IF is_held THEN
            PERFORM FROM wallets WHERE account_id = account FOR UPDATE;
        END IF;
    END LOOP;
    INSERT INTO entries (transfer_id, account_id, amount) SELECT of_transfer, * FROM unnest(account_ids, amounts);
END $$;
