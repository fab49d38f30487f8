-- The audit trail: an entry commits in the transaction of the act that it records.

CREATE TABLE audit_entries (
    id bigserial PRIMARY KEY,
    actor text NOT NULL,
    action text NOT NULL,
    resource_type text NOT NULL,
    resource_id text,
    metadata jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX audit_entries_newest ON audit_entries (created_at DESC, id DESC);
CREATE INDEX audit_entries_action ON audit_entries (action, created_at DESC, id DESC);
CREATE INDEX audit_entries_actor ON audit_entries (actor, created_at DESC, id DESC);
