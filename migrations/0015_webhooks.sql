-- Outgoing events: where owners are told of what happened, and what is on its way to them.

CREATE TABLE webhooks (
    id uuid PRIMARY KEY,
    user_id uuid NOT NULL REFERENCES users,
    url text NOT NULL,
    -- Only these types; all of them if there is none.
    events text[] NOT NULL,
    description text NOT NULL,
    -- Wrapped by the key of the service, which is not in this database.
    secret bytea NOT NULL,
    old_secret bytea,
    old_secret_until timestamptz,
    -- Nothing is sent while there is a reason.
    disabled_reason text CHECK (disabled_reason IN ('owner', 'gone', 'failing')),
    -- The first failure after which nothing was taken.
    failing_since timestamptz,
    version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    CHECK ((old_secret IS NULL) = (old_secret_until IS NULL))
);
CREATE INDEX webhooks_user ON webhooks (user_id, id);

-- One row per event and webhook, written in the transaction of what it tells of. It refers to the webhook without a foreign key: money must not wait
-- for an owner who changes a webhook, nor fail because one is removed at that moment. What has lost its webhook is swept.
CREATE TABLE outbox (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id uuid NOT NULL UNIQUE DEFAULT gen_random_uuid(),
    event_id uuid NOT NULL,
    webhook_id uuid NOT NULL,
    user_id uuid NOT NULL,
    kind text NOT NULL,
    data jsonb NOT NULL,
    occurred_at timestamptz NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'delivered', 'dead')),
    -- The next attempt; while one is under way, when its claim ends.
    due_at timestamptz NOT NULL,
    -- Drawn by whoever is sending it.
    claim uuid,
    attempts integer NOT NULL DEFAULT 0,
    last_status integer,
    last_failure text,
    ended_at timestamptz,
    -- An event is told once, whoever writes it down twice.
    CONSTRAINT outbox_once UNIQUE (webhook_id, event_id),
    CHECK ((state = 'pending') = (ended_at IS NULL)),
    CHECK (claim IS NULL OR state = 'pending')
);
CREATE INDEX outbox_list ON outbox (webhook_id, number);
-- The next owner, and each owner's next event.
CREATE INDEX outbox_due ON outbox (user_id, due_at) WHERE state = 'pending';
CREATE INDEX outbox_oldest ON outbox (due_at) WHERE state = 'pending';
CREATE INDEX outbox_claimed ON outbox (user_id, due_at) WHERE claim IS NOT NULL;
CREATE INDEX outbox_waiting ON outbox (webhook_id) WHERE state = 'pending';
CREATE INDEX outbox_dead ON outbox (webhook_id) WHERE state = 'dead';
CREATE INDEX outbox_old ON outbox (occurred_at);

-- The same event has the same id for its owner, however often it is written down.
CREATE FUNCTION outgoing_event_id(kind text, subject text, user_id uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
    SELECT encode(substring(sha256(convert_to(kind || ' ' || subject || ' ' || user_id, 'UTF8')) FOR 16), 'hex')::uuid
$$;
