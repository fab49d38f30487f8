"""Commands that teach: every `--help` ends with the settings that the command reads and its exit codes.

Both come from where they are defined (`settings.setting_docs`, `ExitCode`), so that a help text cannot be out of date.
"""

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cyclopts import App

from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.settings import SettingDoc, setting_docs

#: Variables that only the command line reads.
CLIENT_SETTINGS: Final = (
    SettingDoc(
        "PG_ANALYTICS_URL",
        None,
        "Where the service is, for commands that ask one; `http://127.0.0.1:$APP_PORT` if unset.",
    ),
)
#: What a command that asks a running service reads.
ASKING: Final = ("PG_ANALYTICS_URL", "APP_PORT")
MANAGING: Final = (*ASKING, "MANAGEMENT_API_KEY")
#: How such a command may end, besides its own ways.
ASKING_ENDS: Final = (ExitCode.OK, ExitCode.USAGE, ExitCode.UNAVAILABLE, ExitCode.INTERNAL)
MANAGING_ENDS: Final = (*ASKING_ENDS, ExitCode.NOT_AUTHORISED)

_WIDTH: Final = 80
_SETTING_COLUMN: Final = 24
_CODE_COLUMN: Final = 5


@dataclass(frozen=True, slots=True)
class Taught:
    """What the help of a command says besides its own words. `settings` None: all of the service's."""

    settings: tuple[str, ...] | None
    ends: tuple[ExitCode, ...]


#: By the name of the command, for the reference page.
TAUGHT: Final[dict[str, Taught]] = {}


def command(name: str, *, settings: tuple[str, ...] | None, ends: tuple[ExitCode, ...]) -> App:
    """A command whose help names the `settings` that it reads and the ways in which it `ends`."""
    taught = TAUGHT[name] = Taught(settings, tuple(sorted({*ends, ExitCode.INTERRUPTED})))
    return App(name=name, help_epilogue=f"{_settings(taught.settings)}\n\n{_exit_codes(taught.ends)}")


def _settings(names: Iterable[str] | None) -> str:
    docs = {doc.variable: doc for doc in (*CLIENT_SETTINGS, *setting_docs())}
    shown = setting_docs() if names is None else [docs[name] for name in names]
    rows = (_row(doc.variable, _described(doc), _SETTING_COLUMN) for doc in shown)
    return "\n".join(["Settings, from the environment:", *rows])


def _described(doc: SettingDoc) -> str:
    return doc.help if doc.default is None else f"{doc.help} [{doc.default}]"


def _exit_codes(ends: Iterable[ExitCode]) -> str:
    rows = (_row(str(code.value), code.meaning, _CODE_COLUMN) for code in ends)
    return "\n".join(["Exit codes:", *rows])


def _row(term: str, text: str, column: int) -> str:
    lines = textwrap.wrap(text, _WIDTH - column - 2)
    indent = " " * (column + 2)
    return f"  {term:<{column}}" + f"\n{indent}".join(lines)
