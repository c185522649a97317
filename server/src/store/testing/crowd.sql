-- Many deliveries of one release that has begun, as if their terminals had applied, won, paid ahead and received: for measurements and for what needs a large
-- release. Ids follow from numbers, so that two crowds are alike to the last unit: see `numbered`.

CREATE FUNCTION numbered(kind integer, number integer) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
    SELECT (lpad(to_hex(kind), 8, '0') || lpad(to_hex(number), 24, '0'))::uuid
$$;

-- Least significant bit first within a byte, as receipts have it.
CREATE FUNCTION first_chunks(chunks integer) RETURNS bytea LANGUAGE sql IMMUTABLE AS $$
    SELECT decode(repeat('ff', chunks / 8) || lpad(to_hex((1 << chunks % 8) - 1), 2, '0') || repeat('00', 511 - chunks / 8), 'hex')
$$;
CREATE FUNCTION chunks_between(begun integer, ended integer) RETURNS bytea LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
    bitmap bytea := first_chunks(ended);
BEGIN
    FOR chunk IN 0..begun - 1 LOOP
        bitmap := set_bit(bitmap, chunk, 0);
    END LOOP;
    RETURN bitmap;
END $$;

-- A live release of one edition that nobody can fetch, whose publisher is user 2^31 - 1: for what needs no chunks.
CREATE PROCEDURE make_release(of_release uuid, of_swarm uuid, edition_chunks integer, chunk_bytes integer) LANGUAGE plpgsql AS $$
DECLARE
    publisher uuid := numbered(1, 2147483647);
    content uuid := numbered(8, 1);
    edition bytea := sha256('crowd');
BEGIN
    INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at)
        VALUES (publisher, 'publisher@example.org', '', 'publisher', now(), now());
    INSERT INTO contents (id, publisher_id, title, created_at) VALUES (content, publisher, 'crowd', now());
    INSERT INTO editions (id, directory, length, chunks, blake3, created_at)
        VALUES (edition, false, edition_chunks::bigint * chunk_bytes, edition_chunks, edition, now());
    INSERT INTO releases (id, publisher_id, content_id, title, state, selection, reserve, opens_at, closes_at, starts_at, deadline_at, limit_s, relay_bp,
            fee_bp, created_at, primaries_max)
        VALUES (of_release, publisher, content, 'crowd', 'live', 'auction', 0, now() - interval '3 hours', now() - interval '2 hours',
            now() - interval '1 hour', now() + interval '1 hour', 7200, 5000, 200, now(), 16);
    INSERT INTO release_editions (swarm_id, release_id, edition_id, label, position, length, chunks)
        VALUES (of_swarm, of_release, edition, 'crowd', 0, edition_chunks::bigint * chunk_bytes, edition_chunks);
END $$;

-- Kinds of numbered ids: 1 users, 2 their wallets, 3 terminals, 4 applications, 5 holds, 6 deliveries.
-- Terminal k belongs to user k % wallets; the edition has `edition_chunks` chunks of `chunk_bytes` each, less than 4,096.
CREATE PROCEDURE make_crowd(
    of_release uuid, of_swarm uuid, deliveries_count integer, wallets_count integer, price bigint, edition_chunks integer, chunk_bytes integer)
LANGUAGE plpgsql AS $$
DECLARE
    funding uuid := numbered(7, 1);
    funds bigint := price * (deliveries_count / wallets_count + 2);
BEGIN
    INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at)
        SELECT numbered(1, n), 'crowd-' || n || '@example.org', '', 'user', now(), now() FROM generate_series(0, wallets_count - 1) n;
    INSERT INTO accounts (id, kind, user_id) SELECT numbered(2, n), 'wallet', numbered(1, n) FROM generate_series(0, wallets_count - 1) n;
    INSERT INTO transfers (id, kind, created_at) VALUES (funding, 'voucher_redemption', now());
    INSERT INTO entries (transfer_id, account_id, amount)
        SELECT funding, numbered(2, n), funds FROM generate_series(0, wallets_count - 1) n
        UNION ALL SELECT funding, id, -funds * wallets_count FROM accounts WHERE kind = 'vouchers_issued';

    INSERT INTO terminals (id, user_id, name, public_key, up_bps, down_bps, created_at)
        SELECT numbered(3, k), numbered(1, k % wallets_count), 'crowd', sha256(int4send(k)), 0, 0, now() FROM generate_series(0, deliveries_count - 1) k;
    INSERT INTO applications (id, release_id, swarm_id, terminal_id, user_id, rank_wanted, maximum, state, applied_at, bid_id)
        SELECT numbered(4, k), of_release, of_swarm, numbered(3, k), numbered(1, k % wallets_count), 1, price, 'won', now(), numbered(4, k)
        FROM generate_series(0, deliveries_count - 1) k;
    INSERT INTO holds (id, account_id, amount, created_at)
        SELECT numbered(5, k), numbered(2, k % wallets_count), price, now() FROM generate_series(0, deliveries_count - 1) k;

    -- Of seven deliveries five are complete, one was interrupted, and one received nothing.
    CREATE TEMPORARY TABLE arrived ON COMMIT DROP AS
        SELECT k, CASE k % 7 WHEN 5 THEN edition_chunks * 3 / 4 WHEN 6 THEN 0 ELSE edition_chunks END AS chunks FROM generate_series(0, deliveries_count - 1) k;
    INSERT INTO deliveries (id, application_id, release_id, swarm_id, terminal_id, user_id, rank, wave, price, hold_id, state, verified_bytes, verified_chunks)
        SELECT numbered(6, k), numbered(4, k), of_release, of_swarm, numbered(3, k), numbered(1, k % wallets_count), 1, 0, price, numbered(5, k), 'pending',
            chunks::bigint * chunk_bytes, chunks
        FROM arrived;
    -- The first half of it from the terminal before, the second from the one after; every eleventh has the second half from the origin.
    INSERT INTO receipts (delivery_id, source, segment, sequence, signed_at_ms, bitmap, credited, credited_bytes, signature, recorded_at)
        SELECT numbered(6, k), source, 0, 1, 0, bitmap, bitmap, bit_count(bitmap) * chunk_bytes, repeat('0', 64)::bytea, now()
        FROM arrived CROSS JOIN LATERAL (VALUES
            (numbered(3, (k + deliveries_count - 1) % deliveries_count), first_chunks(chunks / 2)),
            (CASE k % 11 WHEN 0 THEN '00000000-0000-0000-0000-000000000000' ELSE numbered(3, (k + 1) % deliveries_count) END,
                chunks_between(chunks / 2, chunks))
        ) AS sent (source, bitmap)
        WHERE chunks > 0;
END $$;
