-- Terminals that are shut out for a while. A row is never removed: it says what was found, what the owner said to it, and what was decided.
CREATE TABLE quarantines (
    id uuid PRIMARY KEY,
    terminal_id uuid NOT NULL REFERENCES terminals,
    user_id uuid NOT NULL REFERENCES users,
    reason text NOT NULL CHECK (reason IN ('failed_audit', 'double_signing', 'denial', 'other')),
    note text NOT NULL,
    -- A false answer to an audit, as it was signed.
    evidence jsonb,
    -- The operator; none if the service found it by itself.
    imposed_by uuid REFERENCES users,
    begun_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL CHECK (expires_at > begun_at),
    appeal text,
    appealed_at timestamptz,
    lifted boolean,
    decision text,
    decided_by uuid REFERENCES users,
    decided_at timestamptz,
    CHECK ((appeal IS NULL) = (appealed_at IS NULL)),
    CHECK ((lifted IS NULL) = (decided_at IS NULL) AND (lifted IS NULL) = (decision IS NULL) AND (lifted IS NULL) = (decided_by IS NULL)),
    -- What nobody imposed shows itself.
    CHECK (imposed_by IS NOT NULL OR evidence IS NOT NULL)
);
CREATE INDEX quarantines_terminal ON quarantines (terminal_id, expires_at);
CREATE INDEX quarantines_user ON quarantines (user_id, id);
