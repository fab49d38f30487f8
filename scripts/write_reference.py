"""Write the reference pages that follow from the code: the command line and the settings.

With `--check` nothing is written, and a page that is out of date is an error.
"""

import re
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from pg_analytics.cli import app
from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.cli.teaching import CLIENT_SETTINGS, TAUGHT
from pg_analytics.settings import SettingDoc, setting_docs

REFERENCE: Final = Path(__file__).resolve().parent.parent / "docs" / "reference"

_GENERATED: Final = "<!-- Written by scripts/write_reference.py from the code. Change it there. -->\n"
_HEADING: Final = re.compile(r"^#{2,} (pg-analytics .*)\n", re.MULTILINE)
_CONTENTS: Final = re.compile(
    r"^## Table of Contents\n\n(?: *-.*\n)+\n", re.MULTILINE
)  # the groups of commands say more
_EXAMPLES: Final = re.compile(r"^For example:\n\n((?: {4}.*\n)+)", re.MULTILINE)

_COMMAND_LINE: Final = """\
## How commands speak

A command that prints data prints a table, and with `--json` one JSON document: what the service answered, unchanged.
That is all there is on standard output. Progress, notes and errors are on standard error: an error is a line that
begins with `error:`, mostly followed by one with a `hint:`; with `--json` it is one line of JSON instead, which has
the form of the service's own errors, `{"error": {"code": …, "message": …}}`.

A reader that leaves early (`pg-analytics runs | head`) is no error. `NO_COLOR` turns colours off.

## Exit codes

"""
_SETTINGS: Final = """\
# Settings

Every setting is read from the environment when the program starts. One that does not parse, or is empty, stops the
start with a line that names it. Durations are written `250ms`, `15m`, `2h`.

"""
_CLIENT_SETTINGS: Final = """
## Of the command line

`APP_PORT` and `MANAGEMENT_API_KEY` also tell the commands that ask a running service where it is and how to prove who
they are. Besides those, they read:

"""


def main(arguments: Sequence[str]) -> int:
    """Write the pages, or with `--check` compare them; 1 if one is out of date."""
    out_of_date = []
    for name, text in pages().items():
        page = REFERENCE / name
        if arguments == ["--check"]:
            if not page.exists() or page.read_text(encoding="utf-8") != text:
                out_of_date.append(page)
        else:
            page.parent.mkdir(parents=True, exist_ok=True)
            page.write_text(text, encoding="utf-8")
    for page in out_of_date:
        print(f"{page} is out of date: run scripts/write_reference.py", file=sys.stderr)
    return 1 if out_of_date else 0


def pages() -> dict[str, str]:
    """The text of every generated page, by file name."""
    return {"command-line.md": _command_line(), "settings.md": _settings()}


def _command_line() -> str:
    """What Cyclopts says of each command, with its settings and exit codes, and examples that can be checked."""
    text = app.generate_docs(output_format="markdown").replace("```console", "```text")
    text = _CONTENTS.sub("", text)
    text = _EXAMPLES.sub(_as_shell_block, text)
    introduction, *sections = _HEADING.split(text)
    commands = (
        f"\n## {title}\n{body.rstrip()}\n{_taught(title)}"
        for title, body in zip(sections[::2], sections[1::2], strict=True)
    )
    codes = _table(("Code", "Name", "Meaning"), ((str(code.value), code.name, code.meaning) for code in ExitCode))
    return _GENERATED + introduction + _COMMAND_LINE + codes + "".join(commands)


def _as_shell_block(match: re.Match[str]) -> str:
    lines = "".join(line[4:] for line in match[1].splitlines(keepends=True))
    return f"```sh\n{lines}```\n"


def _taught(title: str) -> str:
    taught = TAUGHT.get(title.rpartition(" ")[2])
    if taught is None:
        return ""
    names = "all" if taught.settings is None else ", ".join(f"`{name}`" for name in taught.settings)
    codes = ", ".join(str(code.value) for code in taught.ends)
    return f"\n**[Settings](settings.md)**: {names}.\n\n**[Exit codes](#exit-codes)**: {codes}.\n"


def _settings() -> str:
    return (
        _GENERATED + _SETTINGS + _settings_table(setting_docs()) + _CLIENT_SETTINGS + _settings_table(CLIENT_SETTINGS)
    )


def _settings_table(docs: Iterable[SettingDoc]) -> str:
    rows = ((f"`{doc.variable}`", f"`{doc.default}`" if doc.default else "", doc.help) for doc in docs)
    return _table(("Variable", "Default", "Meaning"), rows)


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
