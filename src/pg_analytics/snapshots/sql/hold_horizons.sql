-- Lets no horizon move back until the transaction ends: the days that this one leaves out stay left out until then.
-- Parameters: none.
-- Index: none. Whoever holds this waits for no other who does, nor does anybody who only reads.
LOCK TABLE horizons IN ROW SHARE MODE
