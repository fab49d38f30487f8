"""Answers in Redis: `report:{slug}:v{version}:{hash}`, and the mirror of each report's version.

An entry is the body of a hit, but for what is true of a moment only (`with_meta`). It names the version that the
snapshot of its rows has, so once the version moves on nobody asks for it again and its TTL removes it; nothing is ever
searched and deleted.
The hash covers the normalised parameters and the catalogue's epoch, which no other database shares.
"""

import hashlib
import random
from collections.abc import Mapping
from datetime import timedelta
from typing import Final

import msgspec

from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.parameters import RunParameters
from pg_analytics.reports.store import CatalogEntry

#: What every entry starts and ends with; anything else under our key was written by somebody else. The end is that of
#: `meta`, which is never empty, and of the envelope.
_BODY_START: Final = b'{"data":{'
_BODY_END: Final = b"}}"
#: For how long the others leave a computation to one process that does not come back.
_LEAD_TTL: Final = timedelta(seconds=5)
_ENCODER: Final = msgspec.json.Encoder()
_FROM_REDIS: Final = b'"source_system":"redis"'
_FROM_MEMORY: Final = b'"source_system":"memory"'
_FROM_POSTGRES: Final = b'"source_system":"postgres"'
_HIT: Final = b'"cache_hit":true'
_MISS: Final = b'"cache_hit":false'


def version_key(slug: str) -> str:
    """Where the version of a report is mirrored."""
    return f"report:version:{slug}"


def identity_of(entry: CatalogEntry, asked: RunParameters) -> str:
    """What a request asks of a report, in one word: equal for requests that have the same answer."""
    return hashlib.sha256(_ENCODER.encode((entry.cache_epoch, asked))).hexdigest()


def entry_key(slug: str, version: int, identity: str) -> str:
    """Where the answer of a version is kept."""
    return f"report:{slug}:v{version}:{identity}"


def with_meta(body: bytes, members: Mapping[str, object]) -> bytes:
    """`body` with more members at the end of its `meta`. Nothing of it is parsed: hits are many."""
    more = msgspec.json.encode(members)[1:-1]
    return b"".join((body.removesuffix(_BODY_END), b",", more, _BODY_END)) if more else body


def from_memory(body: bytes) -> bytes:
    """The body of a hit in Redis, as that of one in memory. Rows come before what says where they are from."""
    before, _, after = body.rpartition(_FROM_REDIS)
    return b"".join((before, _FROM_MEMORY, after))


def from_postgres(body: bytes) -> bytes:
    """The body of a hit in Redis, as that of the answer which it was made of."""
    rows, hit, after = body.rpartition(_HIT + b"," + _FROM_REDIS)
    return b"".join((rows, _MISS + b"," + _FROM_POSTGRES, after.replace(_HIT, _MISS))) if hit else body


def took_ms(body: bytes) -> int:
    """How long the answer took to compute."""
    _, _, after = body.rpartition(b'"execution_ms":')
    number = after.partition(b",")[0]
    return int(number) if number.isdigit() else 0


class ReportCache:
    """Bodies of hits in Redis."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def get(self, key: str) -> bytes | None:
        """The body kept under `key`; None if there is none or Redis does not answer."""
        return _checked(await self._redis.get(key))

    async def get_or_lead(self, key: str, *, ttl_s: int) -> tuple[bytes | None, bool]:
        """The body kept under `key`, for another `ttl_s` seconds; if there is none, whether we are the one of all
        processes who shall compute it now. So it is where Redis does not answer.
        """
        found, leads = await self._redis.get_or_lead(key, lead_ttl=_LEAD_TTL)
        if found is None:
            return None, leads
        body = _checked(found)
        if body is not None:
            self._redis.prolong_soon(key, ttl_s=_jittered(ttl_s))
        return body, body is None

    def give_up(self, key: str) -> None:
        """We do not compute what belongs under `key`. Where somebody else has put it there by now, it is gone: there is
        only one more who computes it.
        """
        self._redis.delete_soon(key)

    def put(self, key: str, body: bytes, *, ttl_s: int) -> None:
        """Keep `body` for `ttl_s` seconds. Nobody waits for that: whoever looks for it too early waits for a moment."""
        self._redis.put_soon(key, body, ttl_s=_jittered(ttl_s))

    async def mirrored_version(self, slug: str) -> int:
        """The version that Redis knows of, 0 if none."""
        value = await self._redis.get(version_key(slug))
        return int(value) if value is not None and value.isdigit() else 0

    async def mirror_versions(self, versions: Mapping[str, int]) -> None:
        """Raise the mirrored versions to `versions`, never lower them."""
        for slug, version in versions.items():
            await self._redis.raise_to(version_key(slug), version)


def _checked(body: bytes | None) -> bytes | None:
    return body if body is not None and body.startswith(_BODY_START) and body.endswith(_BODY_END) else None


def _jittered(ttl_s: int) -> int:
    """A tenth shorter at most: what was put together shall not all go together."""
    return max(1, ttl_s - int(random.random() * ttl_s / 10))  # noqa: S311 - nobody gains by guessing it
