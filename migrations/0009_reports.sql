-- What the report of a release is made from, besides what is paid on.

-- The lines that a terminal was planned with, whatever it says of itself later. Null in plans of earlier versions.
ALTER TABLE swarm_group_members
    ADD COLUMN up_bps bigint CHECK (up_bps >= 0),
    ADD COLUMN down_bps bigint CHECK (down_bps >= 0);

-- When rates were last seen in transfers, and what the terminal's disk takes.
ALTER TABLE communication_states
    ADD COLUMN seen_at timestamptz,
    ADD COLUMN disk_write_bps bigint CHECK (disk_write_bps >= 0);

-- Payload of the chunks that count for the source. Rows of earlier versions are reckoned with their next receipt; what is settled is in `delivery_shares`.
ALTER TABLE receipts ADD COLUMN credited_bytes bigint NOT NULL DEFAULT 0 CHECK (credited_bytes >= 0);

-- Somebody else was chosen for what a terminal owed or missed: how often, and the latest ones of each release.
CREATE TABLE reselection_counts (
    release_id uuid NOT NULL REFERENCES releases,
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 32),
    events bigint NOT NULL CHECK (events > 0),
    chunks bigint NOT NULL CHECK (chunks >= 0),
    PRIMARY KEY (release_id, reason)
);
CREATE TABLE reselections (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id uuid NOT NULL REFERENCES releases,
    swarm_id uuid NOT NULL REFERENCES release_editions,
    at timestamptz NOT NULL,
    reason text NOT NULL CHECK (length(reason) BETWEEN 1 AND 32),
    -- Whom it concerns: who lost its place, or who missed the chunks.
    terminal_id uuid NOT NULL,
    -- Who took its place, or sends the chunks; the nil UUID is the origin. Null if nobody was there yet.
    replacement uuid,
    chunks integer NOT NULL CHECK (chunks >= 0)
);
CREATE INDEX reselections_release ON reselections (release_id, id);
