"""The command `pg-analytics`: one module for each group of commands.

```
main ─→ app (Cyclopts) ─┬→ serve database prune ─→ backend (─→ processes) ┐
                        ├→ demo ─→ demo_service ──────────────────────────┴→ pg_analytics.app     the service itself
                        └→ reports recompute schedules audit health ─→ client ─→ HTTP        clients of a running one
```

`exit_codes` says how a command may end, `teaching` what every help text tells, `output` how results and errors are
printed. What takes long to import (the service, the HTTP client) is imported by the command that needs it, when it
runs: `--help` must not wait for it.
"""

import os
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from cyclopts import App, CycloptsError, Group

from pg_analytics import __version__
from pg_analytics.cli import audit, database, demo, health, output, prune, recompute, reports, schedules, serve
from pg_analytics.cli.exit_codes import CommandError, ExitCode
from pg_analytics.settings import SettingsError

app: Final = App(
    name="pg-analytics",
    help="""Exact, fast analytics reports over events in PostgreSQL, over HTTP.

Begin with `pg-analytics demo`, which needs nothing else. The help of a command
says what it is for, with examples, its settings and its exit codes.""",
    help_format="plaintext",
    version=__version__,
    suppress_keyboard_interrupt=False,  # `run` has something to say then
)
_OPTIONS: Final = Group("Options", sort_key=4)
_GROUPS: Final = {
    Group("Try the service", sort_key=1): (demo.demo, database.example),
    Group("Run the service", sort_key=2): (serve.serve, serve.worker, database.migrate, database.seed, prune.prune),
    Group("Ask a running service", sort_key=3): (
        *(reports.reports, reports.run, recompute.recompute, recompute.runs),
        *(schedules.schedules, audit.audit, health.health),
    ),
}
for _flag in ("--help", "--version"):
    app[_flag].group = (_OPTIONS,)
for _group, _commands in _GROUPS.items():
    for _place, _command in enumerate(_commands):
        _command.group = (_group,)
        _command.sort_key = _place
        app.command(_command)


def main() -> None:
    """Entry point of `pg-analytics`."""
    code = run(sys.argv[1:])
    output.flush()
    # Not sys.exit: a thread of the HTTP server that enters an interpreter which is being dismantled aborts the
    # process. One `serve` in some hundred ended so, after it had stopped in good order.
    os._exit(code)


def run(arguments: Sequence[str]) -> ExitCode:
    """Run one command line; print what there is to say, and return how it ended."""
    output.make_streams_safe()
    try:
        return _run(arguments)
    except BrokenPipeError:
        output.discard_stdout()
        return ExitCode.OK  # the reader has seen enough (`| head`)
    except CommandError as error:
        failure = error
    except SettingsError as error:
        failure = CommandError(ExitCode.USAGE, str(error))
    except CycloptsError as error:
        asked = " ".join(("pg-analytics", *(error.command_chain or ())))
        failure = CommandError(ExitCode.USAGE, str(error), hint=f"see {asked} --help")
    except KeyboardInterrupt:
        failure = CommandError(ExitCode.INTERRUPTED, "interrupted")
    except Exception as error:  # noqa: BLE001 - a defect: shown whole, so that it can be reported
        traceback.print_exc()
        failure = CommandError(ExitCode.INTERNAL, f"internal error: {type(error).__name__}")
    output.show_error(failure, as_json="--json" in arguments)
    return failure.exit_code


def _run(arguments: Sequence[str]) -> ExitCode:
    # Errors are raised and results returned: all of them come to `run`.
    exit_code = app(
        arguments,
        console=output.stdout(),
        error_console=output.stderr(),
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
    )
    if sys.stdout is not None:  # None: it was closed when we were started
        sys.stdout.flush()
    return ExitCode.OK if exit_code is None else ExitCode(exit_code)
