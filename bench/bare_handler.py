"""The limit of a cached answer: a handler that does nothing, on the server that the service runs on.

`python -m bench.bare_handler PORT BYTES` answers every request with a constant of so many bytes, and `/304` with a 304.
"""

import sys
from typing import Final

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server
from starlette.types import Message, Receive, Scope, Send

_NOT_MODIFIED: Final[Message] = {"type": "http.response.start", "status": 304, "headers": []}
_NO_BODY: Final[Message] = {"type": "http.response.body", "body": b""}


async def _serve(port: int, size: int) -> None:
    body: Message = {"type": "http.response.body", "body": b"x" * size}
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % size)]
    start: Message = {"type": "http.response.start", "status": 200, "headers": headers}

    async def answer(scope: Scope, _receive: Receive, send: Send) -> None:
        if scope["path"] == "/304":
            await send(_NOT_MODIFIED)
            await send(_NO_BODY)
        else:
            await send(start)
            await send(body)

    server = Server(
        answer,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=1024,
        log_enabled=False,
    )
    await server.serve()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), int(sys.argv[2])))
