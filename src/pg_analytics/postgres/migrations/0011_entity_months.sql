-- Months of rollup_entity: a report over a long range reads one row per entity for each month that lies in it whole.
--
-- A month's rows are the sums of its days' rows, in every snapshot of the database: whoever writes days adds the
-- differences here, in the same transaction. No CHECK on the count: if somebody has written into the months, a
-- difference must still find its place, and not stop the rebuild that comes before the remedy.
-- fillfactor: each rebuild of a day changes counts of its month, in place (HOT) where a page has room for them. With
-- less room, more than half of the changes take a new place and a new entry in the index, and the time of two.
CREATE TABLE rollup_entity_month (
    month date NOT NULL,
    entity_id text COLLATE "C" NOT NULL,
    event_count bigint NOT NULL,
    PRIMARY KEY (month, entity_id)
) WITH (fillfactor = 50);

INSERT INTO rollup_entity_month (month, entity_id, event_count)
SELECT
    r.day - (extract(DAY FROM r.day)::integer - 1) AS month,
    r.entity_id,
    sum(r.event_count)
FROM rollup_entity AS r
GROUP BY 1, 2
ORDER BY 1, 2;

ANALYZE rollup_entity_month;

-- The sum of counts, as a count: sum(bigint) adds up in 128 bits and returns a numeric, which a ranking of 100,000
-- entities feels. A sum that does not fit is an error here, too.
-- (The linter asks for a space between the two brackets, and against it.)
CREATE AGGREGATE sum_counts(bigint) ( -- noqa: LT01
    sfunc = int8pl,
    stype = bigint,
    combinefunc = int8pl,
    parallel = safe
);
