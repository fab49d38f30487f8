-- The snapshots as the original system keeps them: one wide row of text per report, window, bucket and dimension,
-- with an index for each way to ask.
CREATE TABLE original_snapshots (
    id bigserial PRIMARY KEY,
    report_slug text NOT NULL,
    window_name text NOT NULL,
    bucket_start timestamptz NOT NULL,
    dimension_key text NOT NULL,
    dimension_value text NOT NULL,
    metric_name text NOT NULL,
    metric_value bigint NOT NULL,
    computed_at timestamptz NOT NULL DEFAULT now(),
    run_id uuid,
    UNIQUE (report_slug, window_name, bucket_start, dimension_key, dimension_value, metric_name)
);
CREATE INDEX ON original_snapshots (report_slug, window_name, bucket_start DESC);
CREATE INDEX ON original_snapshots (dimension_key, dimension_value);
CREATE INDEX ON original_snapshots (computed_at DESC);
