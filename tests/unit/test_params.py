"""Query parameters: what is understood, and that everything else is refused by name."""

from collections.abc import Callable
from datetime import date
from typing import Any
from urllib.parse import quote, quote_plus, urlencode

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from pg_analytics.errors import ErrorCode, ServiceError
from pg_analytics.http.params import (
    MAX_QUERY_BYTES,
    MAX_TEXT_CHARACTERS,
    Choice,
    Day,
    Flag,
    Integer,
    Parameter,
    Query,
    Text,
)

LIMIT = Integer("limit", 50, minimum=1, maximum=1000)
WINDOW = Choice("window", "day", choices=("day", "week"), ignore_case=True)
STATUS: Parameter[Any] = Choice("status", None, choices=("success", "failed"))
SOURCE = Text("source", None)
DATE = Day("date_from", None)

words = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), min_size=1, max_size=40)


def refusal(act: Callable[[], object]) -> dict[str, Any]:
    """The details of the 400 that `act` raises."""
    with pytest.raises(ServiceError) as raised:
        act()
    assert raised.value.code is ErrorCode.INVALID_REQUEST
    assert raised.value.details
    return dict(raised.value.details)


def refused_name(raw: bytes, parameter: Parameter[Any] | None = None) -> str:
    """The parameter that is to blame for `raw`."""
    details = refusal(lambda: Query(raw) if parameter is None else Query(raw).value(parameter))
    return str(details["parameter"])


def parsed(raw: bytes) -> Query | ErrorCode:
    """The query, or the code of the error that it raises."""
    try:
        return Query(raw)
    except ServiceError as error:
        return error.code


@given(st.dictionaries(words, words, max_size=8), st.sampled_from([quote, quote_plus]))
def test_what_a_client_encodes_is_what_is_read(given_values: dict[str, str], how: Callable[..., str]) -> None:
    query = Query(urlencode(given_values, quote_via=how).encode())

    assert {name: query.value(Text(name, None)) for name in given_values} == given_values


@given(words, words, words)
def test_a_parameter_given_twice_is_refused_by_name(name: str, one: str, other: str) -> None:
    assert refused_name(urlencode([(name, one), (name, other)]).encode()) == name


@given(words)
def test_a_parameter_without_a_value_is_refused_by_name(name: str) -> None:
    assert refused_name(urlencode({name: ""}).encode()) == name
    assert refused_name(quote_plus(name).encode()) == name


@given(st.binary(max_size=60))
@example(b"%ff=1")
@example(b"a=%ff")
@example(b"\xff")
@example(b"a=%")
@example(b"a=%0")
@example(b"a=%00")
@example(b"%00=a")
@example(b"=&=")
@example(b"&&&")
def test_any_bytes_are_either_understood_or_refused(raw: bytes) -> None:
    assert isinstance(parsed(raw), Query) or parsed(raw) is ErrorCode.INVALID_REQUEST


def test_an_unknown_parameter_is_refused_with_those_that_there_are() -> None:
    details = refusal(lambda: Query(b"limit=5&page=2").allow([LIMIT, SOURCE]))

    assert details == {"parameter": "page", "allowed": "unknown parameter; this endpoint takes limit, source"}
    assert refusal(lambda: Query(b"page=2").allow([]))["allowed"] == "unknown parameter; this endpoint takes none"


def test_a_parameter_that_is_left_out_has_its_default() -> None:
    query = Query(b"")

    assert [query.value(parameter) for parameter in (LIMIT, WINDOW, STATUS, SOURCE, DATE)] == [
        *(50, "day", None, None, None)
    ]


def test_a_query_is_bounded() -> None:
    Query(b"source=" + b"a" * (MAX_QUERY_BYTES - 7))

    assert refused_name(b"source=" + b"a" * (MAX_QUERY_BYTES - 6)) == "query"


@given(st.integers(1, 1000))
def test_a_number_within_its_bounds_is_read(number: int) -> None:
    assert Query(f"limit={number}".encode()).value(LIMIT) == number


@given(st.integers().filter(lambda number: not 1 <= number <= 1000))
def test_a_number_out_of_its_bounds_is_refused(number: int) -> None:
    assert refused_name(f"limit={number}".encode(), LIMIT) == "limit"


@given(words.filter(lambda text: not (text.isascii() and text.isdigit())))
@example("\N{ARABIC-INDIC DIGIT FIVE}")
@example("²")
@example("1_0")
@example(" 5")
@example("+5")
@example("5\n")
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    assert refused_name(urlencode({"limit": text}).encode(), LIMIT) == "limit"


@given(words)
@example("DAY")
@example("wee\N{KELVIN SIGN}")
@example("Week\n")
@example("success")
def test_a_choice_is_one_of_its_words_and_case_matters_only_where_it_says_so(text: str) -> None:
    raw = urlencode({"window": text, "status": text}).encode()

    if text.isascii() and text.lower() in {"day", "week"}:
        assert Query(raw).value(WINDOW) == text.lower()
    else:
        assert refused_name(raw, WINDOW) == "window"
    if text in {"success", "failed"}:  # Hypothesis tries words that it finds in the source
        assert Query(raw).value(STATUS) == text
    else:
        assert refused_name(raw, STATUS) == "status"


@pytest.mark.parametrize("word", ["success", "failed"])
def test_each_word_of_a_choice_is_read(word: str) -> None:
    assert Query(f"status={word}".encode()).value(STATUS) == word
    assert refused_name(f"status={word.upper()}".encode(), STATUS) == "status"


def test_text_is_bounded_in_characters_and_not_in_bytes() -> None:
    longest = "☕" * MAX_TEXT_CHARACTERS

    assert Query(urlencode({"source": longest}).encode()).value(SOURCE) == longest
    assert refused_name(urlencode({"source": longest + "☕"}).encode(), SOURCE) == "source"


def test_a_day_is_read() -> None:
    assert Query(b"date_from=2024-02-29").value(DATE) == date(2024, 2, 29)
    assert refused_name(b"date_from=2023-02-29", DATE) == "date_from"


@pytest.mark.parametrize("parameter", [LIMIT, WINDOW, STATUS, SOURCE, DATE])
def test_every_kind_of_parameter_says_what_is_allowed(parameter: Parameter[Any]) -> None:
    details = refusal(lambda: Query(f"{parameter.name}={'x' * 300}".encode()).value(parameter))

    assert details["allowed"] == parameter.allowed
    assert parameter.allowed.startswith("must be ")


def test_a_flag_is_true_or_false_and_nothing_that_looks_like_it() -> None:
    flag = Flag("fresh", default=False)

    assert (Query(b"fresh=true").value(flag), Query(b"fresh=false").value(flag)) == (True, False)
    assert Query(b"").value(flag) is False
    for text in (b"True", b"TRUE", b"1", b"0", b"yes", b"on", b"t", b"%20true", b"null"):
        assert refused_name(b"fresh=" + text, flag) == "fresh"
