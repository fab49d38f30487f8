"""The change log: every day that any writer touches stands in it, from the moment at which the events are visible."""

from collections.abc import AsyncIterator
from datetime import UTC, date, datetime, timedelta
from uuid import uuid4

import asyncpg
import pytest

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import store
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import DayRange
from tests.events import Event, add_source, insert, write

pytestmark = [pytest.mark.anyio, pytest.mark.servers]

MONDAY = date(2026, 1, 5)
TUESDAY = date(2026, 1, 6)
WEDNESDAY = date(2026, 1, 7)

INSERT = """
    INSERT INTO analytics_events (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
    VALUES ($1, (SELECT id FROM event_sources LIMIT 1), 'x', 'success', 1, 1, $2)
"""
COLUMNS = ("external_ref", "source_id", "entity_id", "status", "processing_ms", "amount_cents", "occurred_at")


def at(day: date, hour: int = 12) -> datetime:
    """A moment of a day in UTC."""
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


async def logged(connection: Connection) -> list[date]:
    """The days in the log, each as often as it stands there."""
    return [row["occurred_day"] for row in await connection.fetch("SELECT occurred_day FROM event_changes ORDER BY 1")]


async def forget(connection: Connection) -> None:
    """Empty the log, as a rebuild does."""
    await connection.execute("DELETE FROM event_changes")


@pytest.fixture
async def three_days(connection: Connection) -> Connection:
    """A database with four events on each of three days, all of them taken note of."""
    await insert(connection, MONDAY, 4, last_day=WEDNESDAY)
    await forget(connection)
    return connection


@pytest.fixture
async def another(database_url: str) -> AsyncIterator[Connection]:
    """Another connection to the database of this test."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


async def test_an_insert_logs_each_of_its_days_once(connection: Connection) -> None:
    await insert(connection, MONDAY, 5, last_day=WEDNESDAY)
    assert await logged(connection) == [MONDAY, TUESDAY, WEDNESDAY]


async def test_a_statement_that_touches_nothing_logs_nothing(three_days: Connection) -> None:
    await three_days.execute("DELETE FROM analytics_events WHERE FALSE")
    await three_days.execute("UPDATE analytics_events SET status = 'failed' WHERE FALSE")
    await three_days.execute(f"{INSERT} ON CONFLICT DO NOTHING", f"e-{MONDAY}-1", at(TUESDAY))
    assert await logged(three_days) == []


async def test_an_update_logs_the_day_before_and_the_day_after(three_days: Connection) -> None:
    await three_days.execute(
        "UPDATE analytics_events SET occurred_at = occurred_at + INTERVAL '2 days' WHERE occurred_day = $1", MONDAY
    )
    assert await logged(three_days) == [MONDAY, WEDNESDAY]


async def test_an_update_of_a_dimension_logs_its_day(three_days: Connection) -> None:
    await three_days.execute("UPDATE analytics_events SET entity_id = 'renamed' WHERE occurred_day = $1", TUESDAY)
    assert await logged(three_days) == [TUESDAY]


async def test_a_delete_logs_its_days(three_days: Connection) -> None:
    await three_days.execute("DELETE FROM analytics_events WHERE occurred_day >= $1", TUESDAY)
    assert await logged(three_days) == [TUESDAY, WEDNESDAY]


async def test_a_truncation_logs_every_day_that_was_ever_rebuilt(three_days: Connection) -> None:
    async with three_days.transaction():
        await rebuild_days(three_days, DayRange.inclusive(MONDAY, TUESDAY), run_id=None)
    await three_days.execute("TRUNCATE analytics_events")
    assert await logged(three_days) == [MONDAY, TUESDAY]


async def test_a_truncation_takes_nothing_from_a_frozen_day_and_does_not_log_it(three_days: Connection) -> None:
    async with three_days.transaction():
        await rebuild_days(three_days, DayRange.inclusive(MONDAY, WEDNESDAY), run_id=None)
    await three_days.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", TUESDAY)
    await three_days.execute("TRUNCATE analytics_events")
    assert await logged(three_days) == [TUESDAY, WEDNESDAY]


async def test_copy_logs_its_days(three_days: Connection) -> None:
    source = await three_days.fetchval("SELECT id FROM event_sources")
    days = (MONDAY, MONDAY, WEDNESDAY)
    records = [(f"copied-{n}", source, "x", "success", 1, 1, at(day)) for n, day in enumerate(days)]
    await three_days.copy_records_to_table("analytics_events", columns=COLUMNS, records=records)
    assert await logged(three_days) == [MONDAY, WEDNESDAY]


async def test_an_upsert_logs_what_it_inserts_and_both_days_of_what_it_moves(three_days: Connection) -> None:
    upsert = f"{INSERT} ON CONFLICT (external_ref) DO UPDATE SET occurred_at = excluded.occurred_at"
    await three_days.execute(upsert, f"e-{MONDAY}-1", at(WEDNESDAY))
    assert set(await logged(three_days)) == {MONDAY, WEDNESDAY}

    await forget(three_days)
    await three_days.execute(upsert, "new", at(TUESDAY))
    assert await logged(three_days) == [TUESDAY]


async def test_merge_logs_what_it_inserts_updates_and_deletes(three_days: Connection) -> None:
    if three_days.get_server_version().major < 15:
        pytest.skip("MERGE came with PostgreSQL 15")
    await three_days.execute(
        """
        MERGE INTO analytics_events AS e
        USING (VALUES ('e-2026-01-05-1', 'delete'), ('e-2026-01-06-1', 'move'), ('new', 'insert')) AS c (ref, what)
        ON e.external_ref = c.ref
        WHEN MATCHED AND c.what = 'delete' THEN DELETE
        WHEN MATCHED THEN UPDATE SET occurred_at = '2026-02-02 00:00+00'
        WHEN NOT MATCHED THEN INSERT
            (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
            VALUES (c.ref, (SELECT id FROM event_sources), 'x', 'success', 1, 1, '2026-03-03 23:59:59+00')
        """
    )
    assert await logged(three_days) == [MONDAY, TUESDAY, date(2026, 2, 2), date(2026, 3, 3)]


async def test_a_statement_with_several_writes_in_it_logs_the_days_of_each(three_days: Connection) -> None:
    await three_days.execute(
        f"WITH gone AS (DELETE FROM analytics_events WHERE occurred_day = '{MONDAY}') {INSERT}", "new", at(WEDNESDAY)
    )
    assert await logged(three_days) == [MONDAY, WEDNESDAY]


async def test_the_backlog_names_each_day_once_newest_first_and_since_its_first_change(
    three_days: Connection, another: Connection
) -> None:
    moments = "SELECT statement_timestamp()"
    writing = another.transaction()
    await writing.start()
    await another.execute(INSERT, "open", at(WEDNESDAY))
    before = await three_days.fetchval(moments)
    await three_days.execute(INSERT, "first", at(MONDAY))
    between = await three_days.fetchval(moments)
    await three_days.execute(INSERT, "second", at(MONDAY))
    await three_days.execute(INSERT, "third", at(TUESDAY))
    after = await three_days.fetchval(moments)

    tuesday, monday = await store.read_backlog(three_days)
    assert (tuesday.day, monday.day) == (TUESDAY, MONDAY)
    assert before < monday.since < between < tuesday.since < after
    assert 0 <= tuesday.age_s < monday.age_s

    # Logged first, and visible last: its age is that of the statement, not of the commit.
    await writing.commit()
    wednesday, *_ = await store.read_backlog(three_days)
    assert wednesday.day == WEDNESDAY
    assert wednesday.since < before


async def test_the_age_of_a_change_is_that_of_its_statement_and_not_of_its_transaction(three_days: Connection) -> None:
    async with three_days.transaction():
        began = await three_days.fetchval("SELECT now()")
        await three_days.execute(INSERT, "new", at(MONDAY))

    [monday] = await store.read_backlog(three_days)
    assert monday.since > began


async def test_the_log_appears_and_vanishes_with_the_events(three_days: Connection, another: Connection) -> None:
    writing = three_days.transaction()
    await writing.start()
    await three_days.execute(INSERT, "new", at(MONDAY))
    assert await logged(three_days) == [MONDAY]
    assert await logged(another) == []
    await writing.rollback()
    assert await logged(three_days) == []

    async with three_days.transaction():
        await three_days.execute(INSERT, "kept", at(TUESDAY))
        undone = three_days.transaction()
        await undone.start()
        await three_days.execute(INSERT, "undone", at(WEDNESDAY))
        await undone.rollback()
    assert await logged(another) == [TUESDAY]


async def test_a_role_that_may_only_write_events_is_logged_and_cannot_touch_the_log(
    three_days: Connection, database_url: str
) -> None:
    role = f"writer_{uuid4().hex}"
    await three_days.execute(
        f"""
        CREATE ROLE {role} LOGIN PASSWORD 'p';
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON analytics_events TO {role};
        GRANT SELECT ON event_sources TO {role};
        GRANT USAGE ON SEQUENCE analytics_events_id_seq TO {role};
        """
    )
    writer = await asyncpg.connect(database_url, user=role, password="p")
    try:
        await writer.execute(INSERT, "new", at(MONDAY))
        await writer.execute("UPDATE analytics_events SET status = 'failed' WHERE external_ref = 'e-2026-01-06-1'")
        await writer.execute("DELETE FROM analytics_events WHERE external_ref = 'e-2026-01-07-1'")
        assert await logged(three_days) == [MONDAY, TUESDAY, WEDNESDAY]
        await writer.execute("TRUNCATE analytics_events")
        for forbidden in ("SELECT FROM event_changes", "DELETE FROM event_changes", "SELECT FROM recompute_runs"):
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await writer.execute(forbidden)
    finally:
        await writer.close()
        await three_days.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


async def test_objects_of_a_writers_own_that_have_the_names_of_ours_do_not_lead_the_log_astray(
    three_days: Connection, database_url: str
) -> None:
    writer = await asyncpg.connect(database_url)
    try:
        schema = await writer.fetchval("SELECT current_schema()")
        await writer.execute(
            f"""
            CREATE SCHEMA decoy;
            CREATE TABLE decoy.event_changes (external_ref text, occurred_day date);
            CREATE TABLE decoy.new_rows (external_ref text, occurred_day date);
            CREATE FUNCTION decoy.min(text) RETURNS text LANGUAGE sql AS $$ SELECT 'decoy' $$;
            CREATE FUNCTION decoy.never(date, date) RETURNS boolean LANGUAGE sql AS $$ SELECT FALSE $$;
            CREATE OPERATOR decoy.<> (LEFTARG = date, RIGHTARG = date, FUNCTION = decoy.never);
            CREATE TEMPORARY TABLE event_changes (external_ref text, occurred_day date);
            SET search_path = decoy, pg_temp, {schema}, pg_catalog;
            """
        )
        await writer.execute(INSERT, "one", at(MONDAY))
        await writer.executemany(INSERT, [("two", at(TUESDAY)), ("three", at(WEDNESDAY))])
        await writer.execute(
            """
            INSERT INTO analytics_events
            (external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at)
            SELECT 'many-' || n || external_ref, source_id, entity_id, status, processing_ms, amount_cents, occurred_at
            FROM analytics_events, generate_series(1, 2) AS n
            """
        )
        for decoy in ("decoy.event_changes", "pg_temp.event_changes"):
            assert not await writer.fetch(f"SELECT FROM {decoy}")
    finally:
        await writer.close()
    assert sorted(await logged(three_days)) == [MONDAY, MONDAY, TUESDAY, TUESDAY, WEDNESDAY, WEDNESDAY]


#: What a writer may have, ahead of everything, in place of what the change log uses.
LOOK_ALIKES = """
    CREATE SCHEMA AUTHORIZATION {role};
    SET ROLE {role};
    CREATE FUNCTION {role}.caught(text, text) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$;
    CREATE FUNCTION {role}.caught_text(text, text) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$;
    CREATE FUNCTION {role}.caught_date(date, date) RETURNS boolean LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'ran as %', current_user; END $$;
    CREATE AGGREGATE {role}.min(text) (SFUNC = {role}.caught, STYPE = text, INITCOND = '');
    CREATE OPERATOR {role}.= (FUNCTION = {role}.caught_text, LEFTARG = text, RIGHTARG = text);
    CREATE OPERATOR {role}.<> (FUNCTION = {role}.caught_date, LEFTARG = date, RIGHTARG = date);
    CREATE OPERATOR {role}.>= (FUNCTION = {role}.caught_date, LEFTARG = date, RIGHTARG = date);
    CREATE TABLE {role}.event_changes (external_ref text, occurred_day date);
    CREATE TABLE {role}.snapshot_buckets (day date);
    CREATE TABLE {role}.horizons (subject text, kept_from date);
    RESET ROLE;
"""


async def test_a_writer_whose_search_path_holds_look_alikes_is_logged_and_gains_nothing(
    three_days: Connection, database_url: str
) -> None:
    async with three_days.transaction():
        await rebuild_days(three_days, [MONDAY], run_id=None)
    role = f"writer_{uuid4().hex}"
    await three_days.execute(
        f"""
        CREATE ROLE {role} LOGIN PASSWORD 'p';
        GRANT SELECT, INSERT, UPDATE, DELETE, TRUNCATE ON analytics_events TO {role};
        GRANT SELECT ON event_sources TO {role};
        GRANT USAGE ON SEQUENCE analytics_events_id_seq TO {role};
        {LOOK_ALIKES.format(role=role)}
        """
    )
    writer = await asyncpg.connect(database_url, user=role, password="p")
    try:
        await writer.execute(f"SET search_path = {role}, pg_catalog, public")
        for name in ("event_changes", "new_rows", "old_rows"):
            await writer.execute(f"CREATE TEMPORARY TABLE {name} (external_ref text, occurred_day date)")
        await writer.execute(INSERT, "new", at(MONDAY))
        copied = [(f"copied-{n}", 1, "x", "success", 1, 1, at(day)) for n, day in enumerate((TUESDAY, WEDNESDAY))]
        await writer.copy_records_to_table("analytics_events", schema_name="public", columns=COLUMNS, records=copied)
        assert await logged(three_days) == [MONDAY, TUESDAY, WEDNESDAY]

        await forget(three_days)
        await writer.execute("UPDATE analytics_events SET amount_cents = 2")
        await writer.execute("DELETE FROM analytics_events")
        assert await logged(three_days) == [MONDAY, MONDAY, TUESDAY, TUESDAY, WEDNESDAY, WEDNESDAY]

        await forget(three_days)
        await writer.execute("TRUNCATE analytics_events")
        assert await logged(three_days) == [MONDAY]
    finally:
        await writer.close()
        await three_days.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("zone", ["Pacific/Kiritimati", "America/Los_Angeles", "Asia/Kathmandu"])
async def test_the_day_of_an_event_is_that_of_utc_whatever_the_time_zone_of_its_writer(
    connection: Connection, zone: str
) -> None:
    await add_source(connection)
    await connection.execute(f"SET TimeZone = '{zone}'")
    midnight = at(TUESDAY, 0)
    moments = [midnight - timedelta(microseconds=1), midnight]
    await write(connection, [Event(str(moment), "shop", "x", "success", moment) for moment in moments])
    # As text without an offset, a moment is read in the writer's zone, as PostgreSQL always does.
    await connection.execute(INSERT.replace("$2", "'2026-03-01 00:30'"), "local")
    local = await connection.fetchval("SELECT occurred_at FROM analytics_events WHERE external_ref = 'local'")

    assert await logged(connection) == [MONDAY, TUESDAY, local.astimezone(UTC).date()]


async def test_the_first_and_the_last_day_that_can_be_asked_for_can_be_written_and_none_beyond(
    connection: Connection,
) -> None:
    await add_source(connection)
    first, last = "0001-01-08 00:00:00+00", "9999-12-26 23:59:59.999999+00"
    for number, moment in enumerate((first, last)):
        await connection.execute(INSERT.replace("$2", f"'{moment}'"), str(number))
    assert await logged(connection) == [date(1, 1, 8), date(9999, 12, 26)]

    for beyond in (
        "0001-01-07 23:59:59.999999+00",
        "0001-12-31 23:59:59+00 BC",
        "9999-12-27 00:00:00+00",
        "infinity",
        "-infinity",
    ):
        with pytest.raises(asyncpg.CheckViolationError):
            await connection.execute(INSERT.replace("$2", f"'{beyond}'"), beyond)
