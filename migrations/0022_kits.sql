-- Kits: terminals that are carried on a stick. Of each chain of statements the end is kept, to find out copies.
CREATE TABLE kits (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    terminal_id uuid NOT NULL UNIQUE REFERENCES terminals,
    files bytea NOT NULL CHECK (octet_length(files) = 32),
    created_at timestamptz NOT NULL,
    forked_at timestamptz,
    -- The last statement as it was signed.
    sequence bigint NOT NULL CHECK (sequence > 0),
    statement jsonb NOT NULL,
    -- Who asked for it; none for the first.
    attempt uuid,
    CHECK ((sequence = 1) = (attempt IS NULL))
);
CREATE INDEX kits_user ON kits (user_id, id);
