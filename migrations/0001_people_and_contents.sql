-- Who takes part, and what there is to distribute.

CREATE TABLE users (
    id uuid PRIMARY KEY,
    email text NOT NULL UNIQUE CHECK (email = lower(email) AND length(email) BETWEEN 3 AND 254),
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'publisher', 'operator')),
    created_at timestamptz NOT NULL,
    password_changed_at timestamptz NOT NULL
);

-- A session is a family of refresh tokens; each is good for one use, and a second use revokes the family.
CREATE TABLE refresh_tokens (
    token_hash bytea PRIMARY KEY CHECK (length(token_hash) = 32),
    family_id uuid NOT NULL,
    user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX refresh_tokens_family ON refresh_tokens (family_id);
CREATE INDEX refresh_tokens_user ON refresh_tokens (user_id);

-- Ed25519 keys that sign access tokens. Every instance reads them here, so that any of them can check any token.
CREATE TABLE signing_keys (
    kid text PRIMARY KEY,
    seed bytea NOT NULL CHECK (length(seed) = 32),
    created_at timestamptz NOT NULL
);

CREATE TABLE terminals (
    id uuid PRIMARY KEY CHECK (id <> '00000000-0000-0000-0000-000000000000'),
    user_id uuid NOT NULL REFERENCES users,
    name text NOT NULL CHECK (length(name) BETWEEN 1 AND 64),
    public_key bytea NOT NULL UNIQUE CHECK (length(public_key) = 32),
    up_bps bigint NOT NULL CHECK (up_bps >= 0),
    down_bps bigint NOT NULL CHECK (down_bps >= 0),
    created_at timestamptz NOT NULL
);
CREATE INDEX terminals_user ON terminals (user_id, id);

CREATE TABLE contents (
    id uuid PRIMARY KEY,
    publisher_id uuid NOT NULL REFERENCES users,
    title text NOT NULL CHECK (length(title) BETWEEN 1 AND 200),
    created_at timestamptz NOT NULL
);
CREATE INDEX contents_publisher ON contents (publisher_id, id);

-- What a manifest says; the manifest itself and the chunks are in the object store under their hashes.
CREATE TABLE editions (
    id bytea PRIMARY KEY CHECK (length(id) = 32),
    directory boolean NOT NULL,
    length bigint NOT NULL CHECK (length > 0),
    chunks integer NOT NULL CHECK (chunks > 0),
    blake3 bytea NOT NULL CHECK (length(blake3) = 32),
    created_at timestamptz NOT NULL
);

CREATE TABLE content_editions (
    content_id uuid NOT NULL REFERENCES contents,
    edition_id bytea NOT NULL REFERENCES editions,
    label text NOT NULL CHECK (length(label) BETWEEN 1 AND 64),
    created_at timestamptz NOT NULL,
    PRIMARY KEY (content_id, edition_id),
    UNIQUE (content_id, label)
);

-- An announced edition whose bytes have not all arrived.
CREATE TABLE uploads (
    id uuid PRIMARY KEY,
    content_id uuid NOT NULL REFERENCES contents,
    label text NOT NULL,
    directory boolean NOT NULL,
    chunking text NOT NULL CHECK (chunking IN ('content_defined', 'fixed')),
    files jsonb NOT NULL,
    length bigint NOT NULL CHECK (length > 0),
    created_at timestamptz NOT NULL
);

-- The first answer to each money-changing request, given again to whoever repeats the request with the same key.
CREATE TABLE idempotency_keys (
    user_id uuid NOT NULL REFERENCES users,
    key text NOT NULL CHECK (length(key) BETWEEN 1 AND 128),
    request_hash bytea NOT NULL CHECK (length(request_hash) = 32),
    status smallint NOT NULL,
    body jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (user_id, key)
);
