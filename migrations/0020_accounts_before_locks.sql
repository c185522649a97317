-- All accounts of a transfer are opened before any wallet is locked: whoever opens the same account at this moment is waited for, and must not wait for a wallet
-- that is locked here.
CREATE OR REPLACE FUNCTION post_transfer(
    of_transfer uuid, of_kind text, of_delivery uuid, at timestamptz,
    kinds text[], users uuid[], amounts bigint[], payer uuid, of_hold uuid, taken bigint)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    account_ids uuid[] := '{}';
    places integer := cardinality(kinds);
BEGIN
    INSERT INTO transfers (id, kind, delivery_id, created_at) VALUES (of_transfer, of_kind, of_delivery, at);
    FOR place IN 1..places LOOP
        account_ids := account_ids || open_account(kinds[place], users[place]);
    END LOOP;
    IF of_hold IS NOT NULL THEN
        -- The payer's wallet is locked by what ends its hold, in its turn; wallets after it by their entries.
        FOR place IN 1..places LOOP
            EXIT WHEN kinds[place] <> 'wallet' OR users[place] >= payer;
            PERFORM FROM wallets WHERE account_id = account_ids[place] FOR UPDATE;
        END LOOP;
        INSERT INTO hold_resolutions (hold_id, posted, transfer_id, created_at)
            VALUES (of_hold, taken, CASE WHEN taken > 0 THEN of_transfer END, at);
    END IF;
    INSERT INTO entries (transfer_id, account_id, amount) SELECT of_transfer, * FROM unnest(account_ids, amounts);
END $$;
