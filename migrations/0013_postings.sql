-- What a posting costs: the same rules, checked once per statement where they were checked for each row and again at commit, and one call for the whole of it.
--
--   * The entries of a transfer are written by one statement, and sum to zero when it ends: not only at commit.
--   * References to rows that are never deleted, and that a trigger looks up anyway, are checked there alone; a foreign key would also lock the row.

DROP TRIGGER entries_balanced ON entries;
DROP TRIGGER transfers_balanced ON transfers;
DROP FUNCTION check_transfer_of_entry, check_new_transfer, check_transfer;
ALTER TABLE entries DROP CONSTRAINT entries_transfer_id_fkey;
ALTER TABLE hold_resolutions DROP CONSTRAINT hold_resolutions_hold_id_fkey, DROP CONSTRAINT hold_resolutions_transfer_id_fkey;

CREATE OR REPLACE FUNCTION post_entry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version IS NOT NULL OR NEW.balance IS NOT NULL THEN
        RAISE EXCEPTION 'an entry''s version and balance follow from its wallet and cannot be stated' USING ERRCODE = 'restrict_violation';
    END IF;
    UPDATE wallets SET posted = posted + NEW.amount, version = version + 1 WHERE account_id = NEW.account_id
        RETURNING version, posted INTO NEW.version, NEW.balance;
    IF NOT FOUND AND NOT EXISTS (SELECT FROM accounts WHERE id = NEW.account_id) THEN
        RAISE EXCEPTION 'account % does not exist', NEW.account_id USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NEW;
END $$;

CREATE FUNCTION check_entries() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    wrong record;
BEGIN
    SELECT transfer_id, sum(amount) AS total, count(*) AS lines INTO wrong
        FROM inserted GROUP BY transfer_id HAVING sum(amount) <> 0 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'the % entries of transfer % sum to %, not to zero', wrong.lines, wrong.transfer_id, wrong.total
            USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_balanced';
    END IF;
    IF EXISTS (SELECT FROM inserted LEFT JOIN transfers ON transfers.id = transfer_id WHERE xact IS DISTINCT FROM pg_current_xact_id()) THEN
        RAISE EXCEPTION 'entries are written in the transaction of their transfer' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER entries_balanced AFTER INSERT ON entries REFERENCING NEW TABLE AS inserted FOR EACH STATEMENT EXECUTE FUNCTION check_entries();

-- With entries there are at least two, since none is zero and they sum to zero.
CREATE FUNCTION check_transfer() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM entries WHERE transfer_id = NEW.id) THEN
        RAISE EXCEPTION 'transfer % has no entries', NEW.id USING ERRCODE = 'check_violation', CONSTRAINT = 'transfers_balanced';
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER transfers_balanced AFTER INSERT ON transfers DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION check_transfer();

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
    IF NEW.transfer_id IS NOT NULL AND NOT EXISTS (SELECT FROM transfers WHERE id = NEW.transfer_id AND xact = pg_current_xact_id()) THEN
        RAISE EXCEPTION 'a hold is posted in the transaction of its transfer' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;

-- An account, opened if it is missing. Whoever opens the same one at this moment is waited for.
CREATE FUNCTION open_account(of_kind text, of_user uuid) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    found_id uuid;
BEGIN
    IF of_user IS NULL THEN
        SELECT id INTO STRICT found_id FROM accounts WHERE kind = of_kind AND user_id IS NULL;
        RETURN found_id;
    END IF;
    SELECT id INTO found_id FROM accounts WHERE user_id = of_user AND kind = of_kind;
    IF NOT FOUND THEN
        INSERT INTO accounts (kind, user_id) VALUES (of_kind, of_user) ON CONFLICT DO NOTHING;
        SELECT id INTO STRICT found_id FROM accounts WHERE user_id = of_user AND kind = of_kind;
    END IF;
    RETURN found_id;
END $$;

-- Writes a transfer with one entry per account and, if a hold pays it, ends the hold with what is `taken` of it; the rest is available again. Wallets are locked in
-- the order of their owners, the payer's among them; the other accounts only grow. The hold is resolved before the entry takes its amount, because a wallet is
-- checked at once. Each row is looked up by itself: plans for lists of unknown length are made anew every time, which takes longer than all the rest.
CREATE FUNCTION post_transfer(
    of_transfer uuid, of_kind text, of_delivery uuid, at timestamptz,
    kinds text[], users uuid[], amounts bigint[], payer uuid, of_hold uuid, taken bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    account_ids uuid[] := '{}';
    account uuid;
    owner uuid;
BEGIN
    FOR owner IN
        SELECT posting.owner FROM unnest(kinds, users) AS posting (kind, owner) WHERE kind = 'wallet'
        UNION SELECT payer WHERE payer IS NOT NULL ORDER BY 1
    LOOP
        account := open_account('wallet', owner);
        PERFORM FROM wallets WHERE account_id = account FOR UPDATE;
    END LOOP;
    FOR place IN 1..cardinality(kinds) LOOP
        account_ids := account_ids || open_account(kinds[place], users[place]);
    END LOOP;
    INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES (of_transfer, of_kind, of_delivery, at);
    IF of_hold IS NOT NULL THEN
        INSERT INTO hold_resolutions (hold_id, posted, transfer_id, created_at)
            VALUES (of_hold, taken, CASE WHEN taken > 0 THEN of_transfer END, at);
    END IF;
    INSERT INTO entries (transfer_id, account_id, amount) SELECT of_transfer, * FROM unnest(account_ids, amounts);
END $$;
