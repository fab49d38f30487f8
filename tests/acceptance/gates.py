"""Gates: the first process that comes to a place of the protocol is held there, inside its transaction, until the
test lets it go. Whoever comes after it passes, so that two rebuilds of one day meet in every order.

A place is a write into a table, and a gate a trigger on it. It waits for an advisory lock, since these are had and
given back outside of any transaction; so what is held also meets the time limits that a slow server would bring.
"""

from typing import Final

from pg_analytics.postgres.pool import Connection

#: Table, event and condition of the writes at which a process can be held, by what it is about to do.
PLACES: Final = {
    "claim a run": ("recompute_runs", "UPDATE", "NEW.attempt > OLD.attempt"),
    "take the log": ("event_changes", "DELETE", "true"),
    "merge new rows": ("rollup_entity", "INSERT", "true"),
    "merge changed rows": ("rollup_source_status", "UPDATE", "true"),
    "move the versions": ("report_definitions", "UPDATE", "NEW.version > OLD.version"),
    "record progress": ("recompute_runs", "UPDATE", "NEW.remaining_until <> OLD.remaining_until"),
    "complete a run": ("recompute_runs", "UPDATE", "NEW.status = 'completed'"),
    "tell of the end": ("audit_entries", "INSERT", "NEW.action = 'recompute.completed'"),
}
_NUMBERS: Final = {place: number for number, place in enumerate(PLACES)}

#: Classes of the advisory locks: who holds the first is the gate's keeper, who has the second has come first.
_KEEPER: Final = 4711
_COMER: Final = 4712

_FUNCTION: Final = f"""
    CREATE FUNCTION story.pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
    DECLARE place integer := TG_ARGV[0];
    BEGIN
        IF NOT pg_try_advisory_xact_lock_shared({_KEEPER}, place) AND pg_try_advisory_xact_lock({_COMER}, place) THEN
            PERFORM pg_advisory_xact_lock_shared({_KEEPER}, place);
        END IF;
        RETURN coalesce(NEW, OLD);
    END
    $$
"""
_GATE: Final = """
    CREATE TRIGGER gate_{number} BEFORE {event} ON {table}
    FOR EACH ROW WHEN ({condition}) EXECUTE FUNCTION story.pass_gate({number})
"""
_SOMEBODY_HELD: Final = f"""
    SELECT EXISTS(
        SELECT FROM pg_locks AS l JOIN pg_database AS d ON d.oid = l.database
        WHERE d.datname = current_database() AND l.locktype = 'advisory' AND l.classid = {_KEEPER} AND NOT l.granted
    )
"""


async def build_gates(connection: Connection) -> None:
    """Build every gate, open. The schema `story` must be there."""
    await connection.execute(_FUNCTION)
    for place, (table, event, condition) in PLACES.items():
        await connection.execute(_GATE.format(number=_NUMBERS[place], table=table, event=event, condition=condition))


async def close_gate(keeper: Connection, place: str) -> bool:
    """Close the gate at `place`, for as long as `keeper` is connected; False if somebody is just passing."""
    return bool(await keeper.fetchval(f"SELECT pg_try_advisory_lock({_KEEPER}, $1)", _NUMBERS[place]))


async def open_gates(keeper: Connection) -> None:
    """Let go whoever is held."""
    await keeper.execute("SELECT pg_advisory_unlock_all()")


async def somebody_is_held(keeper: Connection) -> bool:
    """Whether a process waits at a gate."""
    return bool(await keeper.fetchval(_SOMEBODY_HELD))
