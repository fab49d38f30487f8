-- The database of the service, in a new cluster, before anybody can connect.
--
-- Parameters: none. Index: none.
-- Read by PostgreSQL's single-user mode, which ends a command at a semicolon followed by an empty line.

CREATE DATABASE pg_analytics;

