-- For this transaction: the current schema alone, temporary tables last. A function that is made keeps this path, so
-- that nobody's temporary table can stand in for one of ours.
-- Parameters: none.
-- Index: none.
SELECT set_config('search_path', quote_ident(current_schema()) || ', pg_temp', TRUE)
