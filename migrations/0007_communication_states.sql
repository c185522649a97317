-- How each terminal communicates, as measured last (a03): by itself, by its WebSocket, or by its transfers. What nobody measured is null.
CREATE TABLE communication_states (
    terminal_id uuid PRIMARY KEY REFERENCES terminals,
    -- Where it stands; only equal values are alike.
    region integer CHECK (region BETWEEN 0 AND 65535),
    -- Between the terminal and the server, there and back.
    round_trip_ms integer CHECK (round_trip_ms BETWEEN 0 AND 65535),
    loss_ppm integer CHECK (loss_ppm BETWEEN 0 AND 1000000),
    nat text NOT NULL DEFAULT 'unknown' CHECK (nat IN ('unknown', 'open', 'endpoint_independent', 'endpoint_dependent')),
    -- Seen in transfers, the smoothed highest; 0 if none was seen. What a terminal says of itself is in `terminals`.
    up_seen_bps bigint NOT NULL DEFAULT 0 CHECK (up_seen_bps >= 0),
    down_seen_bps bigint NOT NULL DEFAULT 0 CHECK (down_seen_bps >= 0),
    measured_at timestamptz NOT NULL
);
