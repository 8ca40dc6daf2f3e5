"""What the log does not say unless someone asks for it."""

from __future__ import annotations

import io
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import pytest
import pytest_twisted
from conftest import Harness
from twisted.internet.threads import deferToThread
from twisted.logger import globalLogPublisher

from twisted_cm.logs import log_observer, parse_level


@contextmanager
def log(*levels: str) -> Iterator[io.StringIO]:
    """Write the log as ``serve`` does."""
    written = io.StringIO()
    observer = log_observer(written, "text", map(parse_level, levels))
    globalLogPublisher.addObserver(observer)
    try:
        yield written
    finally:
        globalLogPublisher.removeObserver(observer)


def until_closed(harness: Harness, sent: bytes) -> None:
    """Send bytes over a connection and leave it open until the server closes it."""
    address = urlsplit(str(harness.service.addresses.http))
    with socket.create_connection((address.hostname, address.port), timeout=10) as connection:
        connection.sendall(sent)
        with suppress(ConnectionResetError):
            while connection.recv(4096):
                pass


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nHo",
        b"POST /_emulate/foundry/compute-modules/runtimes HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\n{",
    ],
    ids=["silent", "idle after an answer", "slow head", "slow body"],
)
@pytest_twisted.ensureDeferred
async def test_a_connection_that_times_out_is_not_in_the_default_log(hasty: Harness, sent: bytes) -> None:
    with log() as default, log("debug") as asked:
        await deferToThread(until_closed, hasty, sent)
        # The client may see the end before the server's log has its line.
        await hasty.until(lambda: hasty.connections() == 0)
    assert default.getvalue() == ""
    assert " debug    server.transport.channel: Timing out client: " in asked.getvalue()
