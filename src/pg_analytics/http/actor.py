"""Who acts, for the audit trail: a name that a client gives of itself."""

from typing import Final

from starlette.requests import Request

from pg_analytics.errors import invalid
from pg_analytics.http.params import MAX_TEXT_CHARACTERS

_FALLBACK_ACTOR: Final = "management-api"


def actor_of(request: Request) -> str:
    """Who acts: the `X-Actor` header, or the name that stands for the interface itself. 400 if it is no name."""
    raw = next((value for name, value in request.scope["headers"] if name == b"x-actor"), b"")
    try:
        return checked_name("X-Actor", raw.decode("utf-8").strip()) or _FALLBACK_ACTOR
    except UnicodeDecodeError:
        raise invalid("X-Actor", "must be UTF-8") from None


def checked_name(parameter: str, text: str) -> str:
    """`text`, if it can stand as a name in the audit trail and in the catalogue; else 400."""
    if len(text) > MAX_TEXT_CHARACTERS or not text.isprintable():
        raise invalid(parameter, f"must be printable text of at most {MAX_TEXT_CHARACTERS} characters")
    return text
