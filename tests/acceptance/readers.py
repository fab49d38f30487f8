"""Clients that keep reading reports while a test breaks things, and remember every answer that was not right."""

import threading
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any, Final, Self

import httpx

Wrong = Callable[[httpx.Response], str | None]


class Readers:
    """Some clients that ask for reports until the end of a `with` block."""

    def __init__(self, url: str, requests: list[str], wrong: Wrong, *, count: int = 6) -> None:
        """`wrong` says what is wrong with an answer, or None."""
        self._url = url
        self._requests = requests
        self._wrong = wrong
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._read, args=(n,)) for n in range(count)]
        self.statuses: Counter[int] = Counter()
        self.complaints: list[str] = []

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _read(self, number: int) -> None:
        random = Random(number)
        with httpx.Client(base_url=self._url, timeout=60) as http:
            while not self._stopping.is_set():
                request = random.choice(self._requests)
                try:
                    answer = http.get(request)
                except httpx.HTTPError as error:
                    self.complaints.append(f"{request}: {error!r}")
                    continue
                self.statuses[answer.status_code] += 1
                if complaint := self._wrong(answer):
                    self.complaints.append(f"{request}: {complaint}")


#: What a failure may say about itself; anything else might be told by accident.
_MEMBERS: Final = {"code", "message", "details"}


def complaint_about_failure(answer: httpx.Response, hidden: list[str]) -> str | None:
    """What is wrong with a 503; None if it is as it must be. `hidden` must not be told."""
    body: Any = answer.json()
    if answer.status_code != 503 or set(body) != {"error"} or not set(body["error"]) <= _MEMBERS:
        return f"{answer.status_code} {answer.text}"
    if body["error"]["code"] != "service_unavailable" or not answer.headers.get("retry-after", "").isdigit():
        return f"{answer.headers} {answer.text}"
    told = [secret for secret in hidden if secret in answer.text]
    return f"tells {told}: {answer.text}" if told else None
