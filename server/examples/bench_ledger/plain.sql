-- What pgbench writes to: the ledger's tables with their columns, indexes and checks, and none of its triggers and references.

CREATE SCHEMA plain;
CREATE TABLE plain.wallets (LIKE public.wallets INCLUDING ALL);
CREATE TABLE plain.transfers (LIKE public.transfers INCLUDING ALL);
CREATE TABLE plain.entries (LIKE public.entries INCLUDING ALL);
CREATE TABLE plain.hold_resolutions (LIKE public.hold_resolutions INCLUDING ALL);
INSERT INTO plain.wallets SELECT * FROM public.wallets;

-- Those that are paid: publisher 0 alone, or all of them in turn.
INSERT INTO users (id, email, password_hash, role, created_at, password_changed_at)
    SELECT numbered(10, n), 'publisher-' || n || '@example.org', '', 'publisher', now(), now() FROM generate_series(0, 999) n;
INSERT INTO accounts (id, kind, user_id) SELECT numbered(11, n), 'publisher', numbered(10, n) FROM generate_series(0, 999) n;
