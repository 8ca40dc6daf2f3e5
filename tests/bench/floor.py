"""The least that the same requests can cost: servers that do nothing, in a process.

The first has constant Klein routes: each reads the request's body and answers with as many bytes as the emulator
would, or parks. The second echoes what it receives. The third answers in asyncio with as little work as possible,
which shows what the load generator itself costs.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

from cpu import cpu_of


class Floor:
    """A process on loopback with the servers, which runs until it is closed."""

    def __init__(self, kind: str = "klein") -> None:
        """Start the servers.

        Args:
        kind: ``klein``, with an echo beside it, or ``bare``.
        """
        self.start([sys.executable, __file__, kind])

    def start(self, command: list[str]) -> None:
        """Start the process.

        Args:
        command: Prints the port, and the echo's port if there is an echo.
        """
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        ports = self.process.stdout.readline().split()
        self.url = f"http://127.0.0.1:{ports[0]}"
        self.echo = ("127.0.0.1", int(ports[-1]))

    def cpu(self) -> float:
        """Return the seconds of a core that it has used."""
        return cpu_of(self.process.pid)

    def close(self) -> None:
        """Stop the process."""
        self.process.terminate()
        self.process.wait(10)


def floor_request(method: str, size: int, body: bytes = b"", route: str = "constant") -> bytes:
    """Return a request with the headers that the emulator's clients send.

    Args:
        size: Bytes of the answer's body, 0 for a 204.
    """
    head = f"{method} /{route}/{size}/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer token\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


def serve_klein() -> None:
    """Serve until the process is ended."""
    from klein import Klein
    from twisted.internet import reactor as installed
    from twisted.internet.defer import Deferred
    from twisted.internet.protocol import Factory
    from twisted.protocols.wire import Echo
    from twisted.web.server import Site

    reactor: Any = installed
    app = Klein()
    answers: dict[int, bytes] = {}

    @app.route("/constant/<int:size>/", methods=["GET", "POST", "PUT"])
    def constant(request: Any, size: int) -> bytes:
        request.content.read()
        if not size:
            request.setResponseCode(204)
            return b""
        request.setHeader(b"Content-Type", b"application/octet-stream")
        return answers.setdefault(size, b"x" * size)

    @app.route("/parked/<int:size>/", methods=["POST"])
    def parked(request: Any, size: int) -> Deferred[bytes]:
        request.content.read()
        return Deferred()

    site = Site(app.resource())
    site.log = lambda request: None
    ports = [
        reactor.listenTCP(0, factory, backlog=4096, interface="127.0.0.1").getHost().port
        for factory in (site, Factory.forProtocol(Echo))
    ]
    print(*ports, flush=True)
    reactor.run()


class _Bare(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport: Any = transport

    def data_received(self, data: bytes) -> None:
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\nxxxxxxxxxxxxxxxx")


async def serve_bare() -> None:
    """Serve until the process is ended."""
    server = await asyncio.get_running_loop().create_server(_Bare, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    if sys.argv[1] == "bare":
        asyncio.run(serve_bare())
    else:
        serve_klein()
