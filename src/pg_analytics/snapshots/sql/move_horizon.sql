-- Moves a horizon.
-- Parameters: $1 subject, $2 first day that is kept from now on.
-- Index: primary key of horizons.
UPDATE horizons SET kept_from = $2, moved_at = now() WHERE subject = $1
