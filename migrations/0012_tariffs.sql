-- Tariffs: versions that are never edited, and offers that follow one.

CREATE TABLE tariffs (
    id uuid PRIMARY KEY,
    publisher_id uuid NOT NULL REFERENCES users,
    name text NOT NULL,
    created_at timestamptz NOT NULL
);
CREATE INDEX tariffs_publisher ON tariffs (publisher_id, id);

CREATE TABLE tariff_versions (
    tariff_id uuid NOT NULL REFERENCES tariffs,
    version integer NOT NULL CHECK (version > 0),
    terms jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (tariff_id, version)
);
CREATE TRIGGER tariff_versions_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON tariff_versions FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- A flat price with its shares, or a tariff, whose latest version counts.
ALTER TABLE on_demand_terms
    ADD COLUMN tariff_id uuid REFERENCES tariffs,
    ALTER COLUMN price DROP NOT NULL,
    ALTER COLUMN relay_bp DROP NOT NULL,
    ALTER COLUMN fee_bp DROP NOT NULL,
    ADD CONSTRAINT on_demand_terms_pricing CHECK (
        CASE WHEN tariff_id IS NULL
            THEN price IS NOT NULL AND relay_bp IS NOT NULL AND fee_bp IS NOT NULL
            ELSE price IS NULL AND relay_bp IS NULL AND fee_bp IS NULL
        END
    );

-- The version that a download was asked for under; it stays under it.
ALTER TABLE downloads
    ADD COLUMN tariff_id uuid,
    ADD COLUMN tariff_version integer,
    ADD CONSTRAINT downloads_tariff FOREIGN KEY (tariff_id, tariff_version) REFERENCES tariff_versions,
    ADD CONSTRAINT downloads_tariff_whole CHECK ((tariff_id IS NULL) = (tariff_version IS NULL));

-- What a relay got of its bytes' part, where a tariff gave it a share of its own.
ALTER TABLE delivery_shares ADD COLUMN relay_bp integer CHECK (relay_bp BETWEEN 0 AND 10000);

-- How much a terminal received since a moment.
CREATE INDEX deliveries_settled ON deliveries (terminal_id, settled_at) WHERE settled_at IS NOT NULL;
