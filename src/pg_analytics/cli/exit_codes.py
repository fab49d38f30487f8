"""How a command ends: one table of exit codes, and the one exception that carries one.

The help texts, the reference page and the tests take the codes and their meanings from here. Scripts rely on them,
so a code is never given another meaning.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Final, Self


class ExitCode(IntEnum):
    """Every exit code of `pg-analytics`, with its meaning."""

    OK = 0, "done"
    FAILED = 1, "done, but the answer is no: a run failed or found drift, health is degraded, a migration is pending"
    USAGE = 2, "a wrong argument, setting or parameter"
    NOT_FOUND = 3, "there is no such report, schedule or run"
    NOT_AUTHORISED = 4, "the management key is missing or wrong"
    CONFLICT = 5, "another one is active: a run of the same scope, a demo in the same folder"
    UNAVAILABLE = 6, "the service, or a server or port that is needed, cannot be reached or had"
    INTERNAL = 7, "a defect, here or in the service"
    INTERRUPTED = 130, "stopped by Ctrl-C before it was done"

    meaning: str

    def __new__(cls, code: int, meaning: str = "") -> Self:
        """A member with its meaning beside the number."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member


#: What an answer of the service means to whoever called the command. Any other status is a defect.
BY_HTTP_STATUS: Final[Mapping[int, ExitCode]] = {
    400: ExitCode.USAGE,
    401: ExitCode.NOT_AUTHORISED,
    403: ExitCode.NOT_AUTHORISED,
    404: ExitCode.NOT_FOUND,
    405: ExitCode.INTERNAL,  # we never use a wrong method: the other side is another version
    409: ExitCode.CONFLICT,
    413: ExitCode.USAGE,
    422: ExitCode.USAGE,
    429: ExitCode.UNAVAILABLE,
    500: ExitCode.INTERNAL,
    503: ExitCode.UNAVAILABLE,
}


class CommandError(Exception):
    """A command that ends without its result. `message` is one line for a person, `hint` the way out."""

    def __init__(
        self,
        exit_code: ExitCode,
        message: str,
        *,
        hint: str | None = None,
        error: Mapping[str, object] | None = None,
    ) -> None:
        """`error` is the `error` member of the service's answer, where it was the service that refused."""
        super().__init__(message)
        self.exit_code = exit_code
        self.message = message
        self.hint = hint
        self._error = error

    @property
    def envelope(self) -> dict[str, object]:
        """The error as programs read it: the service's own words, or ours in the same shape."""
        error = self._error or {"code": self.exit_code.name.lower(), "message": self.message}
        return {"error": error}
