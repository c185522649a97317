-- Sealed pre-delivery: the ciphertext travels from the closing on, the key comes at each rank's second.

ALTER TABLE releases
    ADD COLUMN sealed boolean NOT NULL DEFAULT false,
    ADD COLUMN aborted_at timestamptz,
    -- When bytes begin to move.
    ADD COLUMN begins_at timestamptz NOT NULL GENERATED ALWAYS AS (CASE WHEN sealed THEN closes_at ELSE starts_at END) STORED;

ALTER TABLE release_editions
    -- Wrapped by the service's own key, which is not in the database.
    ADD COLUMN sealed_key bytea,
    -- The BLAKE3 hash of the sealed manifest, once every chunk was sealed.
    ADD COLUMN sealed_manifest bytea CHECK (octet_length(sealed_manifest) = 32),
    ADD CONSTRAINT release_editions_sealed CHECK (sealed_manifest IS NULL OR sealed_key IS NOT NULL);

ALTER TABLE due_work DROP CONSTRAINT due_work_kind_check,
    ADD CONSTRAINT due_work_kind_check CHECK (kind IN ('open', 'close', 'seal', 'wave', 'deadline'));

-- When a delivery's terminal may have the key.
CREATE FUNCTION key_at(of_release uuid, of_wave integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT starts_at + make_interval(secs => delay_s)
    FROM releases JOIN release_waves ON release_id = releases.id
    WHERE releases.id = of_release AND wave = of_wave
$$;

-- Whether a delivery of a sealed release cannot be opened yet, or never will be because its release was aborted before: it costs nothing so long.
CREATE FUNCTION is_unopened(of_release uuid, of_wave integer, at timestamptz) RETURNS boolean LANGUAGE sql STABLE AS $$
    SELECT sealed AND key_at(of_release, of_wave) > coalesce(aborted_at, at) FROM releases WHERE releases.id = of_release
$$;

-- Until when nobody but the publisher may learn anything of an edition but what its sealed manifest says; null if it is no secret.
CREATE FUNCTION secret_until(of_edition bytea) RETURNS timestamptz LANGUAGE sql STABLE AS $$
    SELECT max(starts_at + make_interval(secs => (SELECT max(delay_s) FROM release_waves WHERE release_id = releases.id)))
    FROM release_editions JOIN releases ON releases.id = release_id
    WHERE edition_id = of_edition AND sealed AND state IN ('draft', 'open', 'closed', 'live')
$$;
