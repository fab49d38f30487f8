-- The database of the service, in a new cluster, before anybody can connect.
--
-- Parameters: none. Index: none.
-- Read by PostgreSQL's single-user mode.

CREATE DATABASE pg_analytics;
