"""Numbered migrations: each file of `migrations/` is applied once, in order, in a transaction of its own.

The advisory lock is taken inside that transaction, before the list of applied migrations is read, so any
number of instances may start at once: one applies, the others wait and find nothing left to do. It also works
through a transaction pooler. A checksum notices a file that was edited after it was applied.
"""

import hashlib
import re
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Final

from pg_analytics.postgres.pool import Connection
from pg_analytics.postgres.statements import statement

#: Of `pg_advisory_xact_lock`; any fixed number that nothing else in the database uses.
_LOCK_KEY: Final = 0x7067_616E_616C
_OLDEST_POSTGRES: Final = 140_000
_FILE_NAME: Final = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

_CREATE_MIGRATIONS_TABLE: Final = statement(__package__, "create_migrations_table")
_LIST_APPLIED: Final = statement(__package__, "list_applied")
_RECORD_MIGRATION: Final = statement(__package__, "record_migration")
_LOCK_MIGRATIONS: Final = statement(__package__, "lock_migrations")
_NARROW_SEARCH_PATH: Final = statement(__package__, "narrow_search_path")


class MigrationError(Exception):
    """The database cannot be brought to the schema that this program needs. One line for a person."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered file."""

    version: int
    name: str
    sql: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, in hexadecimal."""
        return hashlib.sha256(self.sql.encode()).hexdigest()


@cache
def migrations() -> tuple[Migration, ...]:
    """All migrations that this program has, by number, from 1 without a gap."""
    found = [
        Migration(int(match[1]), file.name, file.read_text(encoding="utf-8"))
        for file in resources.files("pg_analytics.postgres").joinpath("migrations").iterdir()
        if (match := _FILE_NAME.fullmatch(file.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise MigrationError("the migrations are not numbered from 0001 without a gap")
    return tuple(found)


async def migrate(connection: Connection) -> list[Migration]:
    """Apply what is pending and return it; `MigrationError` if the schema is newer, edited or unusable."""
    await _check_server(connection)
    applied: list[Migration] = []
    while (migration := await _apply_next(connection)) is not None:
        applied.append(migration)
    return applied


async def is_migrated(connection: Connection) -> bool:
    """Whether every migration of this program has been applied (a newer program may have added more)."""
    if await connection.fetchval("SELECT to_regclass('schema_migrations') IS NULL"):
        return False
    return bool(await connection.fetchval("SELECT max(version) FROM schema_migrations") >= len(migrations()))


async def _check_server(connection: Connection) -> None:
    if int(await connection.fetchval("SHOW server_version_num")) < _OLDEST_POSTGRES:
        raise MigrationError("PostgreSQL 14 or newer is needed")
    if await connection.fetchval("SHOW server_encoding") != "UTF8":
        raise MigrationError("the database must have the encoding UTF8")


async def _apply_next(connection: Connection) -> Migration | None:
    async with connection.transaction():
        # Another instance may hold the lock for as long as its migration takes.
        await connection.execute("SET LOCAL statement_timeout = '10min'; SET LOCAL lock_timeout = '10min'")
        await connection.execute(_LOCK_MIGRATIONS, _LOCK_KEY)
        await connection.execute(_NARROW_SEARCH_PATH)
        await connection.execute(_CREATE_MIGRATIONS_TABLE)
        rows = await connection.fetch(_LIST_APPLIED)
        _check_applied({row["version"]: (row["name"], row["checksum"]) for row in rows})
        pending = [migration for migration in migrations() if migration.version > len(rows)]
        if not pending:
            return None
        migration = pending[0]
        await connection.execute(migration.sql)
        await connection.execute(_RECORD_MIGRATION, migration.version, migration.name, migration.checksum)
        return migration


def _check_applied(applied: dict[int, tuple[str, str]]) -> None:
    known = {migration.version: migration for migration in migrations()}
    if applied and max(applied) > len(known):
        raise MigrationError(
            f"the database is at migration {max(applied)}, this program knows {len(known)}: start a newer version of it"
        )
    for version, (name, checksum) in applied.items():
        if known[version].checksum != checksum:
            raise MigrationError(f"migration {name} was edited after it was applied; restore it and add a new one")
