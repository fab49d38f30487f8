-- Deletes the months' rows of entities that have nothing left in them.
-- Parameters, side by side: $1 a day of the month, $2 entity; this transaction has just added to each of these rows, so
-- nobody else adds to one of them before its commit. Who waits to do so then finds it gone, and inserts it anew.
-- Index: primary key of rollup_entity_month.
DELETE FROM rollup_entity_month AS m
USING unnest($1::date[], $2::text[]) AS d (day, entity_id)
WHERE
    m.month = d.day - (extract(DAY FROM d.day)::integer - 1)
    AND m.entity_id = d.entity_id
    AND m.event_count = 0
