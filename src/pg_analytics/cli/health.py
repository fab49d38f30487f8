"""The command that asks how the service is."""

from dataclasses import dataclass
from typing import Annotated, Final

from cyclopts import Parameter

from pg_analytics.cli import output
from pg_analytics.cli.client import AsJson, Asking, Seconds, Service
from pg_analytics.cli.exit_codes import ExitCode
from pg_analytics.cli.teaching import ASKING, ASKING_ENDS, command

health: Final = command("health", settings=ASKING, ends=(*ASKING_ENDS, ExitCode.FAILED))


@Parameter(name="*", group="Service")
@dataclass(frozen=True, slots=True)
class _AskingBriefly(Asking):
    """The service answers within a second even when a dependency hangs; who waits longer learns nothing."""

    timeout: Seconds = 4


_DEFAULT: Final = _AskingBriefly()


@health.default
def _health(
    *,
    ready: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: AsJson = False,
    service: _AskingBriefly = _DEFAULT,
) -> ExitCode:
    """Show how the service and its dependencies are.

    Exits with 0 when all is well and with 1 when a dependency is lost. With --ready
    it asks what the health check of a container should ask: a service without Redis
    is ready, since it still serves reports.

    For example:

        pg-analytics health
        pg-analytics health --ready
        pg-analytics health --url http://127.0.0.1:3004 --json

    :param ready: Ask only whether requests may be sent to the service; exit with 6 if not.
    """
    if ready:
        answer = Service(service).get("readyz", base="")
        if as_json:
            output.show_json(answer.document)
        else:
            output.show(answer.data["status"])
        return ExitCode.OK
    answer = Service(service).get("health")
    if as_json:
        output.show_json(answer.document)
    else:
        shown = {name: value for name, value in answer.data.items() if name != "dependencies"}
        output.show(output.details((shown | answer.data["dependencies"]).items()))
    return ExitCode.OK if answer.data["status"] == "ok" else ExitCode.FAILED
