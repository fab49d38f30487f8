"""Answers kept in a process: which version they belong to, how much room they take, and which leave first."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pg_analytics.reports.cache import took_ms
from pg_analytics.reports.memory import Memory, Told

MEGABYTE = 1024 * 1024


def hit(rows: bytes = b"[]", *, execution_ms: int = 1) -> bytes:
    """The body of a hit in Redis."""
    return (
        b'{"data":{"rows":%b,"execution_ms":%d,"cache_hit":true,"source_system":"redis"},"meta":{"cache_hit":true}}'
        % (rows, execution_ms)
    )


def put(memory: Memory, key: str, body: bytes, *, version: int = 1, slug: str = "report") -> None:
    """Keep an answer."""
    memory.put(slug, version, key, body, tag=b'"1-a"', cost_ms=took_ms(body))


def test_an_answer_is_found_under_its_version_only() -> None:
    memory = Memory(max_bytes=MEGABYTE)
    put(memory, "a", hit(), version=2)

    assert memory.get("report", 2, "a") is not None
    assert memory.get("report", 1, "a") is None
    assert memory.get("report", 3, "a") is None
    assert memory.get("other", 2, "a") is None


def test_to_ask_whether_there_is_an_answer_is_not_to_ask_for_it() -> None:
    memory = Memory(max_bytes=MEGABYTE)
    put(memory, "a", hit(), version=2)

    assert memory.has("report", 2, "a")
    assert not memory.has("report", 1, "a")
    assert not memory.has("report", 2, "b")
    assert not memory.has("other", 2, "a")
    kept = memory.get("report", 2, "a")
    assert kept is not None
    assert kept.asked == 2, "once when it came, and once now"


def test_a_version_that_moves_on_takes_every_older_answer_of_its_report_along() -> None:
    memory = Memory(max_bytes=MEGABYTE)
    put(memory, "a", hit(), slug="other")
    of_other = memory.bytes
    put(memory, "a", hit())
    put(memory, "b", hit())

    memory.forget_older("report", 2)

    assert memory.get("report", 1, "a") is None
    assert memory.get("other", 1, "a") is not None
    assert memory.bytes == of_other


def test_what_was_computed_for_an_older_version_is_not_kept_once_a_newer_one_is_known() -> None:
    memory = Memory(max_bytes=MEGABYTE)
    put(memory, "a", hit(b'["new"]'), version=2)
    put(memory, "a", hit(b'["old"]'), version=1)

    kept = memory.get("report", 2, "a")
    assert kept is not None
    assert b"new" in kept.hit
    assert memory.get("report", 1, "a") is None


def test_the_least_valuable_leave_first() -> None:
    memory = Memory(max_bytes=100_000)
    put(memory, "slow", hit(execution_ms=900))
    put(memory, "popular", hit())
    for _ in range(900):
        memory.get("report", 1, "popular")
    put(memory, "huge", hit(b'["%b"]' % (b"x" * 3000)))

    for number in range(100):
        put(memory, str(number), hit())

    assert memory.get("report", 1, "slow") is not None, "it would take long to compute again"
    assert memory.get("report", 1, "popular") is not None, "it is asked for often"
    assert memory.get("report", 1, "huge") is None, "it takes the room of many"


@pytest.mark.parametrize("execution_ms", [1, 20])
def test_yesterdays_favourite_does_not_stay_for_ever(execution_ms: int) -> None:
    memory = Memory(max_bytes=20_000)
    put(memory, "favourite", hit(execution_ms=execution_ms))
    for _ in range(64):
        memory.get("report", 1, "favourite")

    for number in range(20_000):
        put(memory, str(number), hit())
        memory.get("report", 1, str(number))

    assert memory.get("report", 1, "favourite") is None


def test_an_answer_that_would_take_a_tenth_of_the_room_is_not_kept() -> None:
    memory = Memory(max_bytes=100_000)
    put(memory, "large", hit(b'["%b"]' % (b"x" * 5000)))

    assert memory.get("report", 1, "large") is None
    assert memory.bytes == 0


def test_no_room_keeps_nothing() -> None:
    memory = Memory(max_bytes=0)
    put(memory, "a", hit())

    assert memory.get("report", 1, "a") is None


@given(
    acts=st.lists(
        st.tuples(
            st.sampled_from(["r", "s"]),
            st.integers(1, 4),
            st.sampled_from("abcdef"),
            st.integers(0, 4000),
            st.booleans(),
        ),
        max_size=60,
    )
)
def test_its_bytes_are_those_of_what_it_keeps_and_never_more_than_allowed(
    acts: list[tuple[str, int, str, int, bool]],
) -> None:
    memory, latest = Memory(max_bytes=50_000), {"r": 0, "s": 0}
    for slug, version, key, size, forget in acts:
        if forget:
            memory.forget_older(slug, version)
        else:
            put(memory, key, hit(b'["%b"]' % (b"x" * size)), version=version, slug=slug)
        latest[slug] = max(latest[slug], version)
        kept = [
            found for s in latest for v in range(1, 5) for k in "abcdef" if (found := memory.get(s, v, k)) is not None
        ]
        assert sum(found.size for found in kept) == memory.bytes <= 50_000
        assert all(memory.get(slug, older, key) is None for older in range(1, latest[slug]))


@pytest.mark.parametrize("size, is_compressed", [(1023, False), (1024, True)])
def test_a_body_is_compressed_where_that_is_worth_it_and_only_once(size: int, *, is_compressed: bool) -> None:
    told = Told(b"x" * size)

    compressed = told.compressed()

    assert (compressed is not None) == is_compressed
    if compressed is not None:
        assert gzip.decompress(compressed) == told.body
        assert told.compressed() is compressed


def test_what_is_told_says_where_it_comes_from_whatever_the_rows_hold() -> None:
    memory = Memory(max_bytes=MEGABYTE)
    tricky = b'[{"entity_id":"\\"source_system\\":\\"redis\\""},{"source_system":"redis"}]'
    put(memory, "a", hit(tricky))
    kept = memory.get("report", 1, "a")
    assert kept is not None

    told = kept.tell({"stale_buckets": 3}, None)

    assert told.body == (
        b'{"data":{"rows":%b,"execution_ms":1,"cache_hit":true,"source_system":"memory"},'
        b'"meta":{"cache_hit":true,"stale_buckets":3}}' % tricky
    )
