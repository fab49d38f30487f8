-- From which day on each rollup is to be kept: as long as any window of any report that reads it asks for, and from a
-- Monday on, so that no week is halved. Without a number of days, for ever.
-- Parameters: $1 today.
-- Index: none; the catalogue has a handful of rows.
SELECT
    asked.rollup,
    greatest(asked.first_day - (extract(ISODOW FROM asked.first_day)::integer - 1), DATE '0001-01-08') AS keep_from
FROM (
    SELECT
        d.rollup,
        -- Whatever somebody wrote there, it stays within what a date can be.
        CASE
            WHEN bool_or(w.retention_days IS NULL) THEN DATE '0001-01-08'
            ELSE $1::date - least(max(w.retention_days), 1000000)
        END AS first_day
    FROM report_definitions AS d
    INNER JOIN aggregate_windows AS w ON d.slug = w.report_slug
    GROUP BY d.rollup
) AS asked
