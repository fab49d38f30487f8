"""Statements live in `.sql` files next to the code that runs them; this module reads them."""

from functools import cache
from importlib import resources


def statements_of(*packages: str) -> list[str]:
    """The text of every statement of these Python packages, for a connection that is to know them all."""
    return [
        statement(package, file.name.removesuffix(".sql"))
        for package in packages
        for file in (resources.files(package) / "sql").iterdir()
        if file.name.endswith(".sql")
    ]


def statements(package: str, *names: str) -> list[str]:
    """The text of each of these statements of a Python package."""
    return [statement(package, name) for name in names]


@cache
def statement(package: str, name: str) -> str:
    """Text of `sql/<name>.sql` inside the Python package `package`.

    The head comment stays in: whoever looks at `pg_stat_activity` reads what the statement is for. asyncpg
    prepares a statement once per connection, so the comment travels once.
    """
    return (resources.files(package) / "sql" / f"{name}.sql").read_text(encoding="utf-8")
