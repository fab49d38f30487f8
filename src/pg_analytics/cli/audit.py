"""The command that reads the audit trail."""

from typing import Final

from pg_analytics.cli import output
from pg_analytics.cli.client import DEFAULT_MANAGING, AsJson, Managing, Service
from pg_analytics.cli.teaching import MANAGING, MANAGING_ENDS, command

audit: Final = command("audit", settings=MANAGING, ends=MANAGING_ENDS)


@audit.default
def _audit(
    *,
    action: str | None = None,
    actor: str | None = None,
    limit: int | None = None,
    offset: int | None = None,
    as_json: AsJson = False,
    service: Managing = DEFAULT_MANAGING,
) -> None:
    """Show who asked for which recomputation, and what became of it.

    The newest comes first. Every entry was committed together with what it tells.

    For example:

        pg-analytics audit
        pg-analytics audit --action recompute.failed
        pg-analytics audit --actor recompute-worker --limit 100 --json

    :param action: Only this action, such as recompute.triggered, recompute.completed or recompute.failed.
    :param actor: Only what this actor did.
    :param limit: The most entries, 1 to 100; the service's default is 20.
    :param offset: How many to leave out at the beginning.
    """
    given = {"action": action, "actor": actor, "limit": limit, "offset": offset}
    asked = [(name, str(value)) for name, value in given.items() if value is not None]
    answer = Service(service).get("audit-entries", parameters=asked)
    if as_json:
        output.show_json(answer.document)
        return
    listed = output.table(("when (UTC) and who", "what", "run"))
    for entry in answer.data:
        metadata = dict(entry["metadata"])
        scope = [metadata.pop(name, None) for name in ("report_slug", "window", "date_from", "date_to")]
        about = [f"{scope[0]} {scope[1]}", f"{scope[2]} to {scope[3]}"] if all(scope) else [None, None]
        listed.add_row(
            output.stacked(output.moment(entry["created_at"]), entry["actor"]),
            output.stacked(entry["action"], about[0]),
            output.stacked(entry["resource_id"], about[1], " ".join(f"{k}={v}" for k, v in metadata.items())),
        )
    output.show(listed)
    output.show_rest(answer.meta["pagination"], len(answer.data))
