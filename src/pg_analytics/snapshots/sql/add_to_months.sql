-- Adds what days of rollup_entity have gained and lost to their months; returns how many entities have nothing left in
-- theirs, whose rows are then to be deleted (delete_empty_months).
-- Parameters, side by side: $1 a day of the month, $2 entity, $3 difference.
-- Index: primary key of rollup_entity_month. Its rows are locked in the order of the key, so that two rebuilds of
-- different days of a month wait for each other, and never both; whoever waited adds to what the other has committed.
WITH added AS (
    INSERT INTO rollup_entity_month AS m (month, entity_id, event_count)
    SELECT
        d.day - (extract(DAY FROM d.day)::integer - 1) AS month,
        d.entity_id,
        d.difference
    FROM unnest($1::date[], $2::text[], $3::bigint[]) AS d (day, entity_id, difference)
    ORDER BY month, d.entity_id COLLATE "C"
    ON CONFLICT (month, entity_id) DO UPDATE SET event_count = m.event_count + excluded.event_count
    RETURNING event_count
)

SELECT count(*) FROM added WHERE event_count = 0
