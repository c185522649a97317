-- The scale of a release: what the publisher states, and what closing makes of the applications.

ALTER TABLE releases
    -- Primaries of an edition where rank 1 has no stated capacity.
    ADD COLUMN primaries_max integer NOT NULL DEFAULT 16 CHECK (primaries_max BETWEEN 1 AND 4096),
    -- Places of an edition in all ranks together.
    ADD COLUMN places_max integer CHECK (places_max > 0),
    -- Seconds between the waves of the last rank.
    ADD COLUMN wave_interval_s integer CHECK (wave_interval_s > 0);
ALTER TABLE releases ALTER COLUMN primaries_max DROP DEFAULT;

-- Places of an edition as the publisher states them; without, they follow from the scale.
ALTER TABLE release_ranks ADD COLUMN capacity integer CHECK (capacity > 0);
UPDATE release_ranks SET capacity = (
    SELECT places.capacity FROM release_editions first JOIN release_capacities places USING (swarm_id)
    WHERE first.release_id = release_ranks.release_id AND first.position = 0 AND places.rank = release_ranks.rank);

-- From now on written at closing, and 0 where the scale gives none.
ALTER TABLE release_capacities DROP CONSTRAINT release_capacities_capacity_check, ADD CHECK (capacity >= 0);
DELETE FROM release_capacities USING release_editions, releases
    WHERE release_editions.swarm_id = release_capacities.swarm_id AND releases.id = release_id AND releases.state IN ('draft', 'open');

-- One per rank; closing adds those of the last rank after its first one.
CREATE TABLE release_waves (
    release_id uuid NOT NULL REFERENCES releases,
    wave integer NOT NULL CHECK (wave >= 0),
    rank integer NOT NULL,
    -- Seconds from the start.
    delay_s bigint NOT NULL CHECK (delay_s >= 0),
    PRIMARY KEY (release_id, wave),
    FOREIGN KEY (release_id, rank) REFERENCES release_ranks
);
INSERT INTO release_waves (release_id, wave, rank, delay_s) SELECT release_id, rank - 1, rank, delay_s FROM release_ranks;

-- The wave that a delivery opens with, and the primary terminal that one of a later wave is tied to.
ALTER TABLE deliveries ADD COLUMN wave integer CHECK (wave >= 0), ADD COLUMN primary_terminal_id uuid REFERENCES terminals;
UPDATE deliveries SET wave = rank - 1;
ALTER TABLE deliveries ALTER COLUMN wave SET NOT NULL;
DROP INDEX deliveries_swarm;
CREATE INDEX deliveries_swarm ON deliveries (swarm_id, wave, id);
