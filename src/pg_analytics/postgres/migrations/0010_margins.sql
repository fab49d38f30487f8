-- Margins of rollup_source_status: what its rows of a day add up to over all of a dimension, so that a report which
-- does not split by both source and status reads about as many rows as it answers with.
--
-- One row per day for each member of a dimension: of `all` the member '', of `source` the id of the source as text, of
-- `status` the status.
CREATE TABLE rollup_source_status_margin (
    dimension text COLLATE "C" NOT NULL CHECK (dimension IN ('all', 'source', 'status')),
    member text COLLATE "C" NOT NULL,
    day date NOT NULL,
    event_count bigint NOT NULL CHECK (event_count > 0),
    -- All members of a dimension over a range of days.
    PRIMARY KEY (dimension, day, member)
);

INSERT INTO rollup_source_status_margin (dimension, member, day, event_count)
SELECT
    m.dimension,
    m.member,
    r.day,
    sum(r.event_count)
FROM rollup_source_status AS r
CROSS JOIN LATERAL (VALUES ('all', ''), ('source', r.source_id::text), ('status', r.status)) AS m (dimension, member)
GROUP BY m.dimension, r.day, m.member
ORDER BY m.dimension, r.day, m.member;

-- One member over a range of days. Nobody but this transaction knows the table yet.
-- squawk-ignore require-concurrent-index-creation
CREATE INDEX rollup_source_status_margin_member_idx ON rollup_source_status_margin (dimension, member, day);

ANALYZE rollup_source_status_margin;
