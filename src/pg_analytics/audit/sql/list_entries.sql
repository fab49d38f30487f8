-- A page of entries, newest first.
-- Parameters: $1 action or NULL, $2 actor or NULL, $3 limit, $4 offset.
-- Index: audit_entries_newest, audit_entries_action or audit_entries_actor.
SELECT id, actor, action, resource_type, resource_id, metadata, created_at
FROM audit_entries
WHERE ($1::text IS NULL OR action = $1) AND ($2::text IS NULL OR actor = $2)
ORDER BY created_at DESC, id DESC
LIMIT $3 OFFSET $4
