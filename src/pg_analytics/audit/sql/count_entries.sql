-- How many entries match.
-- Parameters: $1 action or NULL, $2 actor or NULL.
-- Index: audit_entries_action or audit_entries_actor where one is given.
SELECT count(*)
FROM audit_entries
WHERE ($1::text IS NULL OR action = $1) AND ($2::text IS NULL OR actor = $2)
