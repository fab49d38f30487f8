"""The command that reads the audit trail."""

from collections.abc import Mapping
from typing import Any, Final

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
    """Show who asked for which recomputation, and what became of it, the newest first.

    Examples:

        pg-analytics audit
        pg-analytics audit --action recompute.failed
        pg-analytics audit --actor recompute-worker --limit 100 --json

    Parameters
    ----------
    action
        Only this action, such as recompute.triggered, recompute.completed or recompute.failed.
    actor
        Only what this actor did.
    limit
        The most entries, 1 to 100; the service's default is 20.
    offset
        How many to leave out at the beginning.
    """
    given = {"action": action, "actor": actor, "limit": limit, "offset": offset}
    asked = [(name, str(value)) for name, value in given.items() if value is not None]
    answer = Service(service).get("audit-entries", parameters=asked)
    if as_json:
        output.show_json(answer.document)
        return
    listed = output.table(("when", "action", "actor", "run", "about"), whole=("action",))
    for entry in answer.data:
        when = output.moment(entry["created_at"])
        about = _about(entry["metadata"])
        listed.add_row(*map(output.cell, (when, entry["action"], entry["actor"], entry["resource_id"], about)))
    output.show(listed)
    output.show_rest(answer.meta["pagination"], len(answer.data))


def _about(metadata: Mapping[str, Any]) -> str:
    """The scope first, then what else there is to say."""
    scope = ("report_slug", "window", "date_from", "date_to")
    words = [str(metadata[name]) for name in scope if name in metadata]
    return " ".join(words + [f"{name}={value}" for name, value in metadata.items() if name not in scope])
