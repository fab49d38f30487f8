-- Waits until no rebuild is under way that has looked at the horizons, and lets none look until the transaction ends.
-- Parameters: none.
-- Index: none. Whoever only reads, as reports do, does not wait for this.
LOCK TABLE horizons IN EXCLUSIVE MODE
