-- Closed books that anybody may read and recompute, under ids that tell nobody whose bid it is.

ALTER TABLE releases DROP CONSTRAINT releases_selection_check,
    ADD CONSTRAINT releases_selection_check CHECK (selection IN ('auction', 'first_come', 'measured_quality'));

ALTER TABLE applications
    ADD COLUMN bid_id uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The uplink that was seen in the terminal's transfers when the book closed; none for what is in no closed book.
    ADD COLUMN up_seen_bps bigint CHECK (up_seen_bps >= 0),
    ADD COLUMN lost_because text CHECK (lost_because IN ('below_reserve', 'no_place'));
ALTER TABLE applications ALTER COLUMN bid_id DROP DEFAULT;
CREATE UNIQUE INDEX applications_book ON applications (swarm_id, bid_id);

-- Of what closed before, the hash covers another layout; its books are not shown.
ALTER TABLE release_editions ADD COLUMN book_hash bytea CHECK (length(book_hash) = 32);

-- What the winners of a rank pay, with the steps that the price adds up from.
CREATE TABLE rank_prices (
    swarm_id uuid NOT NULL REFERENCES release_editions,
    rank integer NOT NULL,
    breakdown jsonb NOT NULL,
    PRIMARY KEY (swarm_id, rank)
);
