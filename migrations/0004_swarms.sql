-- What must outlive Redis while a release runs: receipts, the origin budget, the plan, due work.

-- The latest receipt per (delivery, source, segment), and which of its chunks count for this source: `credited` bitmaps of one delivery never overlap.
CREATE TABLE receipts (
    delivery_id uuid NOT NULL REFERENCES deliveries,
    source uuid NOT NULL,
    segment integer NOT NULL CHECK (segment >= 0),
    sequence bigint NOT NULL CHECK (sequence >= 0),
    signed_at_ms bigint NOT NULL,
    bitmap bytea NOT NULL CHECK (length(bitmap) = 512),
    credited bytea NOT NULL CHECK (length(credited) = 512),
    signature bytea NOT NULL CHECK (length(signature) = 64),
    recorded_at timestamptz NOT NULL,
    PRIMARY KEY (delivery_id, source, segment)
);

-- Payload bytes that the origin may send for a release. Instances reserve blocks by a conditional update; what a dead instance had left counts as spent.
CREATE TABLE origin_budgets (
    release_id uuid PRIMARY KEY REFERENCES releases,
    limit_bytes bigint NOT NULL CHECK (limit_bytes > 0),
    -- The sum of the editions: this much is kept for first copies until it was reserved for them.
    first_copy_bytes bigint NOT NULL CHECK (first_copy_bytes > 0 AND first_copy_bytes <= limit_bytes),
    reserved_first bigint NOT NULL DEFAULT 0 CHECK (reserved_first >= 0),
    reserved_repair bigint NOT NULL DEFAULT 0 CHECK (reserved_repair >= 0),
    sent bigint NOT NULL DEFAULT 0 CHECK (sent >= 0),
    CHECK (reserved_first + reserved_repair <= limit_bytes)
);

CREATE TABLE swarm_groups (
    id uuid PRIMARY KEY,
    swarm_id uuid NOT NULL REFERENCES release_editions,
    -- 0 for rank 1.
    wave integer NOT NULL CHECK (wave >= 0),
    position integer NOT NULL,
    parent_id uuid REFERENCES swarm_groups,
    root boolean NOT NULL,
    UNIQUE (swarm_id, wave, position)
);

CREATE TABLE swarm_group_members (
    delivery_id uuid PRIMARY KEY REFERENCES deliveries,
    group_id uuid NOT NULL REFERENCES swarm_groups,
    position integer NOT NULL,
    UNIQUE (group_id, position)
);

-- Work with a due time, claimed by any instance with FOR UPDATE SKIP LOCKED.
CREATE TABLE due_work (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('open', 'close', 'wave', 'deadline')),
    release_id uuid NOT NULL REFERENCES releases,
    wave integer NOT NULL DEFAULT 0,
    due_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    done_at timestamptz,
    last_error text,
    UNIQUE (kind, release_id, wave)
);
CREATE INDEX due_work_next ON due_work (due_at) WHERE done_at IS NULL;
