-- Releases, applications and what was awarded. Times are the server's clock.

CREATE TABLE releases (
    id uuid PRIMARY KEY,
    publisher_id uuid NOT NULL REFERENCES users,
    content_id uuid NOT NULL REFERENCES contents,
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    state text NOT NULL CHECK (state IN ('draft', 'open', 'closed', 'live', 'settled', 'cancelled', 'aborted')),
    selection text NOT NULL CHECK (selection IN ('auction', 'first_come')),
    reserve bigint NOT NULL CHECK (reserve >= 0),
    opens_at timestamptz NOT NULL,
    closes_at timestamptz NOT NULL,
    starts_at timestamptz NOT NULL,
    deadline_at timestamptz NOT NULL,
    limit_s integer NOT NULL CHECK (limit_s > 0),
    relay_bp integer NOT NULL CHECK (relay_bp BETWEEN 0 AND 10000),
    fee_bp integer NOT NULL CHECK (fee_bp BETWEEN 0 AND 10000),
    book_hash bytea CHECK (length(book_hash) = 32),
    created_at timestamptz NOT NULL,
    CHECK (opens_at < closes_at AND closes_at < starts_at AND starts_at < deadline_at)
);
CREATE INDEX releases_publisher ON releases (publisher_id, id);

-- One edition in one release: a swarm.
CREATE TABLE release_editions (
    swarm_id uuid PRIMARY KEY,
    release_id uuid NOT NULL REFERENCES releases,
    edition_id bytea NOT NULL REFERENCES editions,
    label text NOT NULL,
    position integer NOT NULL,
    length bigint NOT NULL CHECK (length > 0),
    chunks integer NOT NULL CHECK (chunks > 0),
    UNIQUE (release_id, edition_id)
);

CREATE TABLE release_ranks (
    release_id uuid NOT NULL REFERENCES releases,
    rank integer NOT NULL CHECK (rank BETWEEN 1 AND 16),
    weight integer NOT NULL CHECK (weight BETWEEN 1 AND 1000000),
    delay_s integer NOT NULL CHECK (delay_s >= 0),
    PRIMARY KEY (release_id, rank)
);

CREATE TABLE release_capacities (
    swarm_id uuid NOT NULL REFERENCES release_editions,
    rank integer NOT NULL,
    capacity integer NOT NULL CHECK (capacity > 0),
    PRIMARY KEY (swarm_id, rank)
);

CREATE TABLE applications (
    id uuid PRIMARY KEY,
    release_id uuid NOT NULL REFERENCES releases,
    swarm_id uuid NOT NULL REFERENCES release_editions,
    terminal_id uuid NOT NULL REFERENCES terminals,
    user_id uuid NOT NULL REFERENCES users,
    rank_wanted integer NOT NULL CHECK (rank_wanted >= 1),
    maximum bigint NOT NULL CHECK (maximum >= 0),
    -- The unresolved hold behind the maximum; none once the application is decided, or if the maximum is 0.
    hold_id uuid UNIQUE REFERENCES holds,
    state text NOT NULL CHECK (state IN ('active', 'withdrawn', 'won', 'lost', 'cancelled')),
    applied_at timestamptz NOT NULL,
    version integer NOT NULL DEFAULT 1
);
CREATE UNIQUE INDEX applications_one_per_terminal ON applications (release_id, terminal_id) WHERE state IN ('active', 'won');
CREATE INDEX applications_user ON applications (user_id, id);
CREATE INDEX applications_swarm ON applications (swarm_id, state) WHERE state IN ('active', 'won', 'lost');

-- A won application: the contract to bring the edition to the terminal.
CREATE TABLE deliveries (
    id uuid PRIMARY KEY,
    application_id uuid NOT NULL UNIQUE REFERENCES applications,
    release_id uuid NOT NULL REFERENCES releases,
    swarm_id uuid NOT NULL REFERENCES release_editions,
    terminal_id uuid NOT NULL REFERENCES terminals,
    user_id uuid NOT NULL REFERENCES users,
    rank integer NOT NULL CHECK (rank >= 1),
    price bigint NOT NULL CHECK (price >= 0),
    hold_id uuid UNIQUE REFERENCES holds,
    state text NOT NULL CHECK (state IN ('pending', 'settled', 'released')),
    verified_bytes bigint NOT NULL DEFAULT 0 CHECK (verified_bytes >= 0),
    verified_chunks integer NOT NULL DEFAULT 0 CHECK (verified_chunks >= 0),
    charged bigint NOT NULL DEFAULT 0 CHECK (charged >= 0 AND charged <= price),
    completed_at timestamptz,
    settled_at timestamptz
);
CREATE INDEX deliveries_swarm ON deliveries (swarm_id, rank, id);
CREATE INDEX deliveries_release ON deliveries (release_id, id);
CREATE INDEX deliveries_terminal ON deliveries (terminal_id, id);
-- Complete and not settled: nearly always empty.
CREATE INDEX deliveries_unsettled ON deliveries (id) WHERE state = 'pending' AND completed_at IS NOT NULL;

ALTER TABLE transfers ADD CONSTRAINT transfers_delivery FOREIGN KEY (delivery_id) REFERENCES deliveries;

-- How a settled delivery was divided over its sources; the nil UUID is the origin.
CREATE TABLE delivery_shares (
    delivery_id uuid NOT NULL REFERENCES deliveries,
    source uuid NOT NULL,
    bytes bigint NOT NULL CHECK (bytes > 0),
    earned bigint NOT NULL CHECK (earned >= 0),
    PRIMARY KEY (delivery_id, source)
);
CREATE INDEX delivery_shares_source ON delivery_shares (source, delivery_id);
