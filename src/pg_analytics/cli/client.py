"""Asking a running service: where it is, with which key, and what its refusals mean to the caller.

The key comes from the environment or from a file, never from an argument, which every user of the machine could
read in the list of processes. A demo in the current folder keeps its key there, and it is found by itself; that key
is only ever sent to this machine.
"""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final
from urllib.parse import quote, urlencode, urlsplit

from cyclopts import Parameter, validators

from pg_analytics import settings as settings_module
from pg_analytics.cli.exit_codes import BY_HTTP_STATUS, CommandError, ExitCode
from pg_analytics.settings import SettingsError

if TYPE_CHECKING:
    import httpx

BASE_PATH: Final = "/api/v1"
DEMO_FOLDER: Final = Path(".pg-analytics")
DEMO_KEY: Final = "management-key"
DEMO_DATABASE_URL: Final = "database-url"

_CONNECT_TIMEOUT_S: Final = 5
#: A stream speaks every ten seconds, if only to say that it is there.
_SILENCE_S: Final = 30
_LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")

AsJson = Annotated[
    bool,
    Parameter(
        name="--json",
        negative=(),
        show_default=False,
        help="Print the service's answer, one JSON document, and nothing else; an error is one line of JSON.",
    ),
]


Seconds = Annotated[
    int,
    Parameter(
        metavar="SECONDS",
        validator=validators.Number(gte=1, lte=3600),
        help="The longest wait for it, in seconds.",
    ),
]


@Parameter(name="*", group="Service")
@dataclass(frozen=True, slots=True)
class Asking:
    """Which service is asked."""

    url: Annotated[
        str | None,
        Parameter(help="Where the service is. [default: PG_ANALYTICS_URL, else http://127.0.0.1:$APP_PORT]"),
    ] = None
    timeout: Seconds = 30


@Parameter(name="*", group="Service")
@dataclass(frozen=True, slots=True)
class Managing(Asking):
    """Which service is asked, by somebody who must show the management key."""

    key_file: Annotated[
        Path | None,
        Parameter(
            help="File that holds the management key. [default: the variable MANAGEMENT_API_KEY, else, for a service "
            "on this machine, the key of the demo in this folder]"
        ),
    ] = None


#: The service that is asked unless options say otherwise.
DEFAULT_ASKING: Final = Asking()
DEFAULT_MANAGING: Final = Managing()


@dataclass(frozen=True, slots=True)
class Answer:
    """An envelope of the service: `document` whole, as `--json` prints it."""

    status: int
    document: dict[str, Any]

    @property
    def data(self) -> Any:
        """What was asked for."""
        return self.document["data"]

    @property
    def meta(self) -> dict[str, Any]:
        """What the service says about it; empty where there is nothing to say."""
        return dict(self.document.get("meta", {}))


class Service:
    """A service to ask. Every way raises `CommandError` when there is no answer, or when it is a refusal."""

    def __init__(self, options: Asking) -> None:
        self._url = _url(options.url)
        self._timeout_s = options.timeout
        self._is_here = urlsplit(self._url).hostname in _LOOPBACK
        self._key = _key(options.key_file, is_here=self._is_here) if isinstance(options, Managing) else None

    def get(self, *path: str, parameters: Sequence[tuple[str, str]] = (), base: str = BASE_PATH) -> Answer:
        """GET what lies under the segments of `path`."""
        return self._ask("GET", path, query=urlencode(parameters, errors="surrogateescape"), base=base)

    def post(self, *path: str, body: object = None, actor: str | None = None) -> Answer:
        """POST `body` as JSON; `actor` is who acts."""
        content = None if body is None else json.dumps(body).encode()
        return self._ask("POST", path, content=content, headers=_acting(actor))

    def follow(self, *path: str) -> Iterator[Any]:
        """The data of each event of the stream that lies under the segments of `path`, as they come. It ends when the
        service ends it; `CommandError` also when it breaks.
        """
        with (
            self._reached(silence_s=_SILENCE_S) as http,
            http.stream("GET", self._target(path), headers=self._headers("text/event-stream")) as response,
        ):
            if not response.headers.get("content-type", "").startswith("text/event-stream"):
                response.read()
                self._accepted(self._envelope(response))
            yield from _events(response.iter_bytes())

    def patch(self, *path: str, body: object, actor: str | None = None) -> Answer:
        """PATCH with `body` as JSON; `actor` is who acts."""
        return self._ask("PATCH", path, content=json.dumps(body).encode(), headers=_acting(actor))

    def _ask(
        self,
        method: str,
        path: Sequence[str],
        *,
        query: str = "",
        base: str = BASE_PATH,
        content: bytes | None = None,
        headers: Mapping[bytes, bytes] | None = None,
    ) -> Answer:
        target = self._target(path, base) + (query and f"?{query}")
        sent = self._headers("application/json") | dict(headers or {})
        with self._reached(silence_s=self._timeout_s) as http:
            response = http.request(method, target, content=content, headers=sent)
        return self._accepted(self._envelope(response))

    def _target(self, path: Sequence[str], base: str = BASE_PATH) -> str:
        return f"{self._url}{base}/{'/'.join(quote(segment, safe='', errors='surrogateescape') for segment in path)}"

    def _headers(self, accepted: str) -> dict[bytes, bytes]:
        headers = {b"Accept": accepted.encode()}
        return headers if self._key is None else headers | {b"X-Management-Key": self._key.encode()}

    @contextmanager
    def _reached(self, *, silence_s: float) -> Iterator["httpx.Client"]:
        """A client for the length of a block, in which what keeps the service from answering is a `CommandError`."""
        import httpx  # noqa: PLC0415 - slow, and most of the command line does without

        timeout = httpx.Timeout(silence_s, connect=min(_CONNECT_TIMEOUT_S, self._timeout_s))
        try:
            # A proxy that the environment names leads out of this machine, and would see the key.
            with httpx.Client(timeout=timeout, trust_env=not self._is_here) as http:
                yield http
        except httpx.InvalidURL as error:
            raise CommandError(ExitCode.USAGE, f"{self._shown_url} is no URL: {error}") from None
        except httpx.ReadTimeout:
            silence = f"{self._shown_url} did not answer within {silence_s:g} seconds"
            raise CommandError(ExitCode.UNAVAILABLE, silence) from None
        except httpx.HTTPError as error:
            raise self._unreachable(error) from None

    @property
    def _shown_url(self) -> str:
        """The URL without a password that may stand in it."""
        parts = urlsplit(self._url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def _unreachable(self, error: Exception) -> CommandError:
        return CommandError(
            ExitCode.UNAVAILABLE,
            f"no service answers at {self._shown_url} ({str(error) or type(error).__name__})",
            hint="start one with `pg-analytics demo` or `pg-analytics serve`, "
            "or say where it is with --url or PG_ANALYTICS_URL",
        )

    def _envelope(self, response: "httpx.Response") -> Answer:
        try:
            document = json.loads(response.content)
        except ValueError:
            document = None
        if not _is_envelope(document):
            raise CommandError(
                ExitCode.INTERNAL,
                f"{self._shown_url} gave an answer that is not pg-analytics' (HTTP {response.status_code})",
                hint="look at --url, PG_ANALYTICS_URL and APP_PORT: something else seems to listen there",
            )
        return Answer(response.status_code, document)

    def _accepted(self, answer: Answer) -> Answer:
        error = answer.document.get("error")
        if error is None:
            return answer
        exit_code = BY_HTTP_STATUS.get(answer.status, ExitCode.INTERNAL)
        hint = None
        if exit_code is ExitCode.NOT_AUTHORISED:
            hint = (
                "the key that was sent is not the service's"
                if self._key
                else "set MANAGEMENT_API_KEY or give --key-file"
            )
        raise CommandError(exit_code, error["message"], hint=hint, error=error)


def _events(pieces: Iterable[bytes]) -> Iterator[Any]:
    """The data of server-sent events as our service writes them: one line of JSON each; comments have none."""
    received = b""
    for piece in pieces:
        *whole, received = (received + piece).split(b"\n\n")
        for event in whole:
            yield from (json.loads(line[6:]) for line in event.split(b"\n") if line.startswith(b"data: "))


def _acting(actor: str | None) -> dict[bytes, bytes]:
    return {} if actor is None else {b"X-Actor": actor.encode(errors="surrogateescape")}


def _is_envelope(document: Any) -> bool:
    match document:
        case {"data": _} | {"error": {"code": str(), "message": str()}}:
            return True
        case _:
            return False


def _url(given: str | None) -> str:
    """Where the service is, without a slash at the end."""
    # Of our settings only this one matters here: a client must not stumble over one that is not its own.
    port = settings_module.load({k: v for k, v in os.environ.items() if k == "APP_PORT"}).port
    url = given or os.environ.get("PG_ANALYTICS_URL") or f"http://127.0.0.1:{port}"
    if not _is_http(url):
        raise CommandError(ExitCode.USAGE, "the URL of the service must be http:// or https:// with a host")
    return url.rstrip("/")


def _is_http(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _key(file: Path | None, *, is_here: bool) -> str | None:
    """The key to send, None if there is none: the service knows best whether it is needed."""
    demo_key = DEMO_FOLDER / DEMO_KEY
    if file is None and "MANAGEMENT_API_KEY" in os.environ:
        return settings_module.load({"MANAGEMENT_API_KEY": os.environ["MANAGEMENT_API_KEY"]}).management_api_key
    if file is None and is_here and demo_key.is_file():
        file = demo_key
    if file is None:
        return None
    try:
        return settings_module.load({"MANAGEMENT_API_KEY": file.read_text(encoding="utf-8").strip()}).management_api_key
    except OSError as error:
        raise CommandError(ExitCode.USAGE, f"cannot read the key file {file}: {error.strerror}") from None
    except (SettingsError, UnicodeDecodeError):
        raise CommandError(ExitCode.USAGE, f"the key file {file} must hold one line of printable text") from None
