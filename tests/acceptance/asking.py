"""Clients that keep a connection open, and a record of every answer that they get."""

import gzip
import http.client
import json
import time
from dataclasses import replace
from threading import Event
from typing import Any, Final

from tests.acceptance.answers import NONE, Answer, History
from tests.acceptance.generations import Question
from tests.running import BASE_PATH

#: Longer than the service takes to say that it is late, and shorter than anybody waits for a state (`tests.waiting`):
#: a process may be paused until some runs are completed, and those who wait for them may have just asked it.
PATIENCE_S: Final = 20


class Asked:
    """A service that clients ask, and what was told: by whichever process, since they tell each other."""

    def __init__(self, name: str, port: int, history: History, known: dict[Question, Answer]) -> None:
        """`known` holds the newest answer to each question, and is shared."""
        self.name = name
        self.port = port
        self.history = history
        self.known = known
        #: Cleared while the process is not there, or does not answer, so that nobody keeps trying.
        self.is_there = Event()
        self.is_there.set()


class Client:
    """One that asks one request at a time."""

    def __init__(self, asked: Asked) -> None:
        self.asked = asked
        self._connection = http.client.HTTPConnection("127.0.0.1", asked.port, timeout=PATIENCE_S)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def ask(self, question: Question, *, conditionally: bool = False, compressed: bool = False) -> Answer:
        """The answer, which is recorded; `conditionally`: unless it is the one that is known already."""
        known = self.asked.known.get(question) if conditionally else None
        headers = {"If-None-Match": known.tag} if known is not None and known.tag is not None else {}
        if compressed:
            headers["Accept-Encoding"] = "gzip"
        asked_at = time.monotonic()
        status, described, body = self._get(f"{BASE_PATH}/reports/{question.report}/run?{question.query}", headers)
        answer = Answer(
            service=self.asked.name,
            report=question.report,
            question=question.query,
            subject=question.subject.name,
            asked_at=asked_at,
            told_at=time.monotonic(),
            status=status,
            tag=described.get("ETag"),
            compressed="Content-Encoding" in described,
        )
        if status == 304:
            assert known is not None
            assert answer.tag == known.tag, f"304 for {known.tag} names {answer.tag}"
            answer = replace(answer, rows=known.rows, generation=known.generation)
        elif status == 200:
            envelope: dict[str, Any] = json.loads(gzip.decompress(body) if answer.compressed else body)
            answer = replace(
                answer,
                source=envelope["data"]["source_system"],
                degraded=envelope["meta"].get("degraded", False),
                rows=json.dumps(envelope["data"]["rows"]),
                generation=question.generation_of(envelope),
            )
            if answer.tag is not None:
                self.asked.known[question] = answer
        self.asked.history.answers.append(answer)
        return answer

    def _get(self, path: str, headers: dict[str, str]) -> tuple[int, http.client.HTTPMessage, bytes]:
        try:
            self._connection.request("GET", path, headers=headers)
            response = self._connection.getresponse()
            return response.status, response.headers, response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()  # and opened anew by the next request
            return NONE, http.client.HTTPMessage(), b""
