-- Appends an entry, in the transaction of the act that it records.
-- Parameters: $1 actor, $2 action, $3 resource type, $4 resource id, $5 metadata as JSON.
INSERT INTO audit_entries (actor, action, resource_type, resource_id, metadata)
VALUES ($1, $2, $3, $4, $5::jsonb)
