"""What every help text teaches, and that it comes quickly."""

import re
import shlex
import subprocess
import sys
from functools import reduce
from inspect import cleandoc
from io import StringIO

import pytest
from cyclopts import App
from rich.console import Console

from pg_analytics.cli import app
from pg_analytics.cli.exit_codes import BY_HTTP_STATUS, ExitCode
from pg_analytics.cli.teaching import TAUGHT
from pg_analytics.errors import ErrorCode

COMMANDS = [
    "serve",
    "worker",
    "migrate",
    "seed",
    "demo",
    "example",
    "reports",
    "run",
    "recompute",
    "runs",
    "schedules",
    "audit",
    "health",
    "prune",
]
#: They only lead to the commands below them.
GROUPS = ["example", "prune"]
BELOW = [
    *("example flights", "prune events", "runs cancel"),
    *("schedules set", "schedules pause", "schedules resume"),
]
WITH_HELP = [*COMMANDS, *BELOW]
PRINTING = [
    "migrate",
    "seed",
    "reports",
    "run",
    "recompute",
    "runs",
    "schedules",
    "audit",
    "health",
    *BELOW,
]


def help_of(command: str) -> str:
    console = Console(file=StringIO(), width=80, color_system=None)
    app.help_print(command.split(), console=console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def examples_in(text: str) -> list[list[str]]:
    """The command lines of the block of examples."""
    block = text.partition("For example:\n")[2].partition("╭")[0].partition("Settings")[0]
    lines = block.replace("\\\n", " ").splitlines()
    return [
        shlex.split(line.split(" || ")[0].partition("pg-analytics ")[2]) for line in lines if "pg-analytics " in line
    ]


def test_there_are_these_commands() -> None:
    assert [name for name in app if not name.startswith("-")] != []
    assert sorted(name for name in app if not name.startswith("-")) == sorted(COMMANDS)


@pytest.mark.parametrize("command", WITH_HELP)
def test_help_has_examples_that_the_command_line_accepts(command: str) -> None:
    examples = examples_in(help_of(command))

    assert examples, command
    for example in examples:
        app.parse_args(example, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("command", [command for command in WITH_HELP if command not in GROUPS])
def test_help_names_settings_and_exit_codes(command: str) -> None:
    text = help_of(command)

    taught = TAUGHT[command.rpartition(" ")[2]]
    codes = re.findall(r"^  (\d+) +\S", text.partition("Exit codes:\n")[2], re.MULTILINE)
    assert codes == [str(code.value) for code in taught.ends]
    assert {"0", "2", "130"} <= set(codes)
    named = re.findall(r"^  ([A-Z_]+) ", text.partition("Settings, from the environment:\n")[2], re.MULTILINE)
    assert tuple(named) == taught.settings or taught.settings is None


@pytest.mark.parametrize("command", WITH_HELP)
def test_help_fits_a_terminal_as_it_was_written(command: str) -> None:
    """Where a line is longer than 80, the terminal breaks it, and what was indented or aligned is no more."""
    subject = reduce(App.__getitem__, command.split(), app)
    words = cleandoc(subject.help or "").partition(":param")[0]
    written = f"{words}\n{subject.help_epilogue}"

    assert [line for line in written.splitlines() if len(line) > 80] == []


@pytest.mark.parametrize("command", PRINTING)
def test_what_prints_data_has_json(command: str) -> None:
    assert "--json" in help_of(command)


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["run", "--help"], ["serve", "--help"]])
def test_help_waits_for_neither_the_service_nor_the_http_client(arguments: list[str]) -> None:
    script = (
        "import sys; from pg_analytics.cli import run; code = run(sys.argv[1:]);"
        "slow = {'httpx', 'asyncpg', 'granian', 'redis', 'starlette', 'pg_analytics.app'} & set(sys.modules);"
        "sys.exit(f'imported {slow}' if slow else code)"
    )

    done = subprocess.run([sys.executable, "-c", script, *arguments], capture_output=True, text=True, check=False)

    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_error_code_of_the_service_has_an_exit_code(code: ErrorCode) -> None:
    assert BY_HTTP_STATUS[code.status] not in {ExitCode.OK, ExitCode.FAILED, ExitCode.INTERRUPTED}
