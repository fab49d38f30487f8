"""Histories of a database that nobody would think of, for properties: see `perform`.

A history writes, moves, changes and deletes events in an order of chance, and rebuilds ranges of chance in between; it
may prune events and drop snapshots. The days are those on which calendars go wrong; the names are those on which
programs do.
"""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from hypothesis import strategies as st

from pg_analytics.postgres.pool import Connection
from pg_analytics.snapshots import horizon_store, store
from pg_analytics.snapshots.rebuild import rebuild_days
from pg_analytics.windows import FIRST_DAY, LAST_DAY, DayRange
from tests.events import Event, add_source, write
from tests.report_oracle import REPORTS, Asked

SOURCES = ("shop", "Shop", "şöp", "a b&c=%_'\"")
ENTITIES = ("", " ", "a", "A", "a%b", "it's", "\\N", "\u00e9", "e\u0301", "\U0001f600", "\uffff", "null", "x" * 2048)
STATUSES = ("success", "failed", "pending")

SPAN = 10
# Where calendars go wrong: leap days, ends of ISO years, the ends of what can be asked for.
EPOCHS = (
    *map(date.fromisoformat, ["2024-02-29", "2024-12-30", "2021-01-03", "2026-01-01", "2000-02-29"]),
    FIRST_DAY + timedelta(days=7),
    LAST_DAY - timedelta(days=SPAN),
)

# One or two at a time: what happens in one history, and what is then asked, must meet in the same days.
epochs = st.shared(st.lists(st.sampled_from(EPOCHS), min_size=1, max_size=2), key="epochs")
days = st.builds(lambda epoch, n: epoch + timedelta(days=n), epochs.flatmap(st.sampled_from), st.integers(-7, SPAN))
times = st.sampled_from([time(0), time(23, 59, 59, 999_999), time(12)])
ranges = st.one_of(
    st.builds(
        lambda first, length: DayRange.inclusive(
            first, min(first, LAST_DAY - timedelta(days=length)) + timedelta(days=length)
        ),
        days,
        st.integers(0, 2 * SPAN),
    ),
    epochs.flatmap(st.sampled_from).map(
        lambda epoch: DayRange.inclusive(epoch - timedelta(days=7), epoch + timedelta(days=SPAN))
    ),
)


# With whole months in them.
long_ranges = st.builds(
    lambda epoch, before, after: DayRange.inclusive(
        max(FIRST_DAY, epoch - timedelta(days=min(before, (epoch - FIRST_DAY).days))),
        epoch + timedelta(days=min(after, (LAST_DAY - epoch).days)),
    ),
    epochs.flatmap(st.sampled_from),
    st.integers(0, 70),
    st.integers(20, 70),
)


@dataclass(frozen=True)
class Insert:
    """New events, as (source, entity, status, day, time)."""

    events: list[tuple[str, str, str, date, time]]


@dataclass(frozen=True)
class Move:
    """Some of the events to another day."""

    pick: int
    day: date


@dataclass(frozen=True)
class Change:
    """Other dimensions for some of the events."""

    pick: int
    entity: str
    status: str


@dataclass(frozen=True)
class Delete:
    """Some of the events, or (`pick` 0) all of them by TRUNCATE."""

    pick: int


@dataclass(frozen=True)
class Rebuild:
    """A range of days."""

    days: DayRange


@dataclass(frozen=True)
class Prune:
    """The events before a day, which is frozen from then on; its snapshots stay."""

    before: date


@dataclass(frozen=True)
class Drop:
    """The snapshots of one rollup before a day."""

    rollup: str
    before: date


@dataclass(frozen=True)
class CatchUp:
    """All that is logged."""


Step = Insert | Move | Change | Delete | Rebuild | Prune | Drop | CatchUp

picks = st.integers(1, 4)
steps = st.one_of(
    st.builds(
        Insert,
        st.lists(
            st.tuples(st.sampled_from(SOURCES), st.sampled_from(ENTITIES), st.sampled_from(STATUSES), days, times),
            min_size=1,
            max_size=25,
        ),
    ),
    st.builds(Move, picks, days),
    st.builds(Change, picks, st.sampled_from(ENTITIES), st.sampled_from(STATUSES)),
    st.builds(Delete, st.integers(0, 4)),
    st.builds(Rebuild, ranges),
)
histories = st.lists(steps, min_size=1, max_size=12)
pruned_histories = st.lists(
    st.one_of(steps, st.builds(Prune, days), st.builds(Drop, st.sampled_from(store.ROLLUPS), days)),
    min_size=1,
    max_size=12,
)
# Snapshots of something, and then changes of it.
stale_histories = st.builds(lambda before, after: [*before, CatchUp(), *after], pruned_histories, pruned_histories)


@st.composite
def requests(draw: st.DrawFn) -> Asked:
    """A request for a report, in all of its parameters."""
    slug = draw(st.sampled_from(sorted(REPORTS)))
    breakdowns, narrowed = REPORTS[slug]
    values = {"source": (*SOURCES, "nobody"), "status": STATUSES, None: ()}[narrowed]
    asked = draw(st.one_of(ranges, long_ranges))
    return Asked(
        slug=slug,
        window=draw(st.sampled_from(["day", "week"])),
        date_from=asked.start,
        date_to=asked.last,
        breakdown=draw(st.sampled_from(breakdowns)),
        only=draw(st.sampled_from([None, *values])),
        limit=draw(st.sampled_from([1, 2, 5, 1000])),
        offset=draw(st.sampled_from([0, 1, 7])),
    )


async def start_over(connection: Connection) -> None:
    """Empty the database. The view `remembered_events` is what its snapshots tell: events that were pruned and, from
    the horizon on, those that are there.
    """
    await connection.execute(
        """
        TRUNCATE analytics_events, event_sources, rollup_source_status, rollup_source_status_margin, rollup_entity,
            rollup_entity_month, snapshot_buckets;
        TRUNCATE event_changes;
        CREATE TABLE IF NOT EXISTS pruned_events (LIKE analytics_events);
        TRUNCATE pruned_events;
        CREATE OR REPLACE VIEW remembered_events AS
        SELECT * FROM pruned_events UNION ALL SELECT e.* FROM analytics_events AS e, horizons AS h
        WHERE h.subject = 'events' AND e.occurred_at AT TIME ZONE 'UTC' >= h.kept_from;
        """
    )
    await connection.execute("UPDATE horizons SET kept_from = $1", FIRST_DAY)
    for slug in SOURCES:
        await add_source(connection, slug)


async def perform(writer: Connection, service: Connection, history: list[Step]) -> None:
    """Live through `history`."""
    for number, step in enumerate(history):
        match step:
            case Rebuild(rebuilt):
                await rebuild(service, rebuilt)
            case CatchUp():
                await rebuild_logged(service)
            case Prune(before):
                await prune(service, before)
            case Drop(rollup, before):
                await drop(service, rollup, before)
            case _:
                await change_events(writer, step, number)


async def change_events(writer: Connection, step: Insert | Move | Change | Delete, number: int) -> None:
    """What other programs do; `number` keeps the names of events apart."""
    match step:
        case Insert(events):
            named = [
                Event(f"{number}-{n}", source, entity, status, datetime.combine(day, moment, UTC))
                for n, (source, entity, status, day, moment) in enumerate(events)
            ]
            await write(writer, named)
        case Move(pick, day):
            await writer.execute(
                "UPDATE analytics_events SET occurred_at = $1 WHERE hashtext(external_ref) % 5 = $2",
                datetime.combine(day, time(6), UTC),
                pick,
            )
        case Change(pick, entity, status):
            await writer.execute(
                "UPDATE analytics_events SET entity_id = $1, status = $2 WHERE hashtext(external_ref) % 5 = $3",
                entity,
                status,
                pick,
            )
        case Delete(0):
            await writer.execute("TRUNCATE analytics_events")
        case Delete(pick):
            await writer.execute("DELETE FROM analytics_events WHERE hashtext(external_ref) % 5 = $1", pick)


async def horizon(connection: Connection, subject: str) -> date:
    """From which day on the events, or a rollup, are kept."""
    found: date = await connection.fetchval("SELECT kept_from FROM horizons WHERE subject = $1", subject)
    return found


async def rebuild(connection: Connection, rebuilt: DayRange) -> dict[str, int]:
    """Rebuild those days of a range that are not frozen; the versions that moved on."""
    kept_from = await horizon(connection, "events")
    async with connection.transaction():
        return (await rebuild_days(connection, [day for day in rebuilt if day >= kept_from], run_id=None)).versions


async def rebuild_logged(connection: Connection) -> None:
    """Rebuild the days in the log, and no other; what cannot be rebuilt any more is marked."""
    kept_from = await horizon(connection, "events")
    logged = [row["day"] for row in await connection.fetch("SELECT DISTINCT occurred_day AS day FROM event_changes")]
    frozen = [day for day in logged if day < kept_from]
    async with connection.transaction():
        await store.take_changes(connection, frozen)
        await store.mark_frozen_days(connection, frozen)
    for day in set(logged) - set(frozen):
        await rebuild(connection, DayRange.inclusive(day, day))


async def prune(connection: Connection, before: date) -> None:
    """What retention does to events, in SQL of our own; they are remembered."""
    if before <= await horizon(connection, "events"):
        return
    await rebuild_logged(connection)
    async with connection.transaction():
        await connection.execute(
            """
            INSERT INTO pruned_events
            SELECT * FROM remembered_events AS e WHERE NOT EXISTS (
                SELECT FROM pruned_events AS p WHERE p.external_ref = e.external_ref
            ) AND e.occurred_at AT TIME ZONE 'UTC' < $1::date::timestamp
            """,
            before,
        )
        await connection.execute("ALTER TABLE analytics_events DISABLE TRIGGER USER")
        await connection.execute("DELETE FROM analytics_events WHERE occurred_at AT TIME ZONE 'UTC' < $1::date", before)
        await connection.execute("ALTER TABLE analytics_events ENABLE TRIGGER USER")
        await connection.execute("UPDATE horizons SET kept_from = $1 WHERE subject = 'events'", before)


async def drop(connection: Connection, rollup: str, before: date) -> None:
    """What retention does to snapshots."""
    await connection.execute(
        "UPDATE horizons SET kept_from = greatest(kept_from, $2) WHERE subject = $1", rollup, before
    )
    async with connection.transaction():
        await horizon_store.drop_days(connection, rollup, FIRST_DAY, before)
