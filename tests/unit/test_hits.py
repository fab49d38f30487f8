"""What a client and the caches on the way are told about an answer, and what they tell."""

import pytest

from pg_analytics.reports.hits import accepts_gzip, caching_headers, is_known


@pytest.mark.parametrize(
    "header, accepted",
    [
        (b"", False),
        (b"gzip", True),
        (b"GZIP", True),
        (b"br, gzip;q=0.5", True),
        (b"deflate", False),
        (b"gzip;q=0", False),
        (b"gzip; q=0.000", False),
        (b"gzip;q=0.001", True),
        (b"*", True),
        (b"*;q=0", False),
        (b"*, gzip;q=0", False),
        (b"identity, *;q=0.1", True),
        (b"x-gzip", False),
    ],
)
def test_gzip_goes_to_those_who_take_it(header: bytes, *, accepted: bool) -> None:
    assert accepts_gzip(header) is accepted


@pytest.mark.parametrize(
    "if_none_match, known",
    [
        (b'W/"7-abc"', True),
        (b'"7-abc"', True),
        (b'W/"6-abc", W/"7-abc"', True),
        (b"*", True),
        (b" * ", True),
        (b'W/"6-abc"', False),
        (b'W/"7-abcd"', False),
        (b'W/"17-abc"', False),
        (b"7-abc", False),
        (b"", False),
    ],
)
def test_a_client_has_the_answer_if_it_names_its_tag(if_none_match: bytes, *, known: bool) -> None:
    assert is_known(b'"7-abc"', if_none_match) is known


def test_an_answer_of_this_moment_is_not_to_be_kept() -> None:
    assert dict(caching_headers(None, None, 0)) == {b"cache-control": b"no-store", b"vary": b"accept-encoding"}


def test_a_kept_answer_says_how_old_it_is_and_how_long_it_lives() -> None:
    assert dict(caching_headers(b'"7-abc"', 120, 17)) == {
        b"etag": b'W/"7-abc"',
        b"cache-control": b"max-age=120, stale-while-revalidate=30, stale-if-error=3600",
        b"vary": b"accept-encoding",
        b"age": b"17",
    }
