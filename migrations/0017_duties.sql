-- Relay duty: a rank may owe some time of presence after the delivery is complete, backed by a deposit that is held beside the price.

ALTER TABLE release_ranks
    ADD COLUMN duty_s integer CHECK (duty_s BETWEEN 1 AND 604800),
    ADD COLUMN deposit bigint CHECK (deposit BETWEEN 1 AND 9007199254740991),
    ADD CONSTRAINT release_ranks_duty CHECK ((duty_s IS NULL) = (deposit IS NULL));

-- What the application's hold has beside the maximum.
ALTER TABLE applications ADD COLUMN deposit bigint NOT NULL DEFAULT 0 CHECK (deposit >= 0);

CREATE TABLE duties (
    delivery_id uuid PRIMARY KEY REFERENCES deliveries,
    release_id uuid NOT NULL REFERENCES releases,
    after_s integer NOT NULL CHECK (after_s > 0),
    deposit bigint NOT NULL CHECK (deposit > 0),
    hold_id uuid NOT NULL UNIQUE REFERENCES holds,
    -- What the looks at who is connected have found so far.
    absent_since timestamptz,
    absent_ms bigint NOT NULL DEFAULT 0 CHECK (absent_ms >= 0),
    -- How it ended.
    ended_at timestamptz,
    missed_ms bigint,
    forfeited bigint CHECK (forfeited BETWEEN 0 AND deposit),
    transfer_id uuid UNIQUE REFERENCES transfers,
    CONSTRAINT duties_ended CHECK (num_nulls(ended_at, missed_ms, forfeited) IN (0, 3)),
    CONSTRAINT duties_transfer CHECK ((coalesce(forfeited, 0) > 0) = (transfer_id IS NOT NULL))
);
CREATE INDEX duties_open ON duties (release_id, delivery_id) WHERE ended_at IS NULL;

-- One for each release with duties that have not ended.
CREATE TABLE duty_watches (
    release_id uuid PRIMARY KEY REFERENCES releases,
    looked_at timestamptz,
    due_at timestamptz NOT NULL
);
CREATE INDEX duty_watches_due ON duty_watches (due_at);

ALTER TABLE transfers DROP CONSTRAINT transfers_kind_check,
    ADD CONSTRAINT transfers_kind_check CHECK (kind IN ('voucher_redemption', 'delivery', 'duty_forfeit'));
