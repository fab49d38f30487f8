"""Answers in Redis: `report:{slug}:v{version}:{hash}`, and the mirror of each report's version.

An entry is the body of a hit, but for what is true of a moment only (`with_meta`). It names the version that was read
*before* the data, so once the version moves on nobody asks for it again and its TTL removes it; nothing is ever
searched and deleted.
The hash covers the normalised parameters and the catalogue's epoch, which no other database shares.
"""

import hashlib
from collections.abc import Mapping
from typing import Final

import msgspec

from pg_analytics.redis.client import RedisClient
from pg_analytics.reports.store import CatalogEntry

#: What every entry starts and ends with; anything else under our key was written by somebody else. The end is that of
#: `meta`, which is never empty, and of the envelope.
_BODY_START: Final = b'{"data":{'
_BODY_END: Final = b"}}"


def version_key(slug: str) -> str:
    """Where the version of a report is mirrored."""
    return f"report:version:{slug}"


def entry_key(entry: CatalogEntry, version: int, parameters: Mapping[str, object]) -> str:
    """Where the answer to `parameters` (JSON-able, normalised: equal requests give equal ones) is kept."""
    identity = msgspec.json.encode({"epoch": entry.cache_epoch, **parameters}, order="sorted")
    return f"report:{entry.slug}:v{version}:{hashlib.sha256(identity).hexdigest()}"


def with_meta(body: bytes, members: Mapping[str, object]) -> bytes:
    """`body` with more members at the end of its `meta`. Nothing of it is parsed: hits are many."""
    more = msgspec.json.encode(members)[1:-1]
    return b"".join((body.removesuffix(_BODY_END), b",", more, _BODY_END)) if more else body


class ReportCache:
    """Bodies of hits in Redis."""

    def __init__(self, redis: RedisClient) -> None:
        self._redis = redis

    async def get(self, key: str) -> bytes | None:
        """The body kept under `key`; None if there is none or Redis does not answer."""
        body = await self._redis.get(key)
        return body if body is not None and body.startswith(_BODY_START) and body.endswith(_BODY_END) else None

    async def put(self, key: str, body: bytes, *, ttl_s: int) -> None:
        """Keep `body` for `ttl_s` seconds; 0 keeps nothing."""
        if ttl_s > 0:
            await self._redis.put(key, body, ttl_s=ttl_s)

    async def mirrored_version(self, slug: str) -> int:
        """The version that Redis knows of, 0 if none."""
        value = await self._redis.get(version_key(slug))
        return int(value) if value is not None and value.isdigit() else 0

    async def mirror_versions(self, versions: Mapping[str, int]) -> None:
        """Raise the mirrored versions to `versions`, never lower them."""
        for slug, version in versions.items():
            await self._redis.raise_to(version_key(slug), version)
