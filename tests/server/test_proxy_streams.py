"""The bodies of requests that are passed on, and of their answers."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import raw, receive_until
from server.proxy_target import Target, passing
from twisted.internet import reactor

from twisted_cm.config.tls import local_certificate


@pytest_twisted.ensureDeferred
async def test_both_bodies_flow_as_they_come() -> None:
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        client = raw(harness, "POST /x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n")
        await harness.until(lambda: target.connections and b"one" in target.last.body)
        target.last.transport.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        client.sendall(b"3\r\ntwo\r\n0\r\n\r\n")
        await harness.until(lambda: b"two" in target.last.body)
        assert b"200 OK" in await receive_until(client, b"\r\n\r\n")
        for piece in (b"first", b"second"):
            chunk = b"%x\r\n%b\r\n" % (len(piece), piece)
            target.last.transport.write(chunk)
            assert await receive_until(client, b"\r\n") == chunk
        target.last.transport.write(b"0\r\n\r\n")
        assert await receive_until(client, b"0\r\n\r\n") == b"0\r\n\r\n"
        client.close()


class _Endless:
    """Produces bytes as long as its consumer wants some, and counts them."""

    def __init__(self, transport: Any) -> None:
        self.written = 0
        self.paused = False
        self._transport = transport
        transport.registerProducer(self, True)
        self.resumeProducing()

    def resumeProducing(self) -> None:
        self.paused = False
        reactor.callLater(0, self._write)

    def pauseProducing(self) -> None:
        self.paused = True

    def stopProducing(self) -> None:
        self.paused = True

    def _write(self) -> None:
        if not self.paused:
            self.written += 65536
            self._transport.write(b"x" * 65536)
            reactor.callLater(0, self._write)


@pytest_twisted.ensureDeferred
async def test_a_caller_that_reads_slowly_slows_the_server_down() -> None:
    async with Target(b"HTTP/1.1 200 OK\r\n\r\n") as target, passing({"/x": target.url}) as harness:
        client = raw(harness, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await harness.until(lambda: target.connections and target.last.received)
        endless = _Endless(target.last.transport)
        await harness.until(lambda: endless.paused)
        # Buffers of the operating system hold a few megabytes.
        assert endless.written < 100_000_000
        # The caller goes away, and so does the connection to the server.
        client.close()
        await harness.until(lambda: target.last.lost)


@pytest_twisted.ensureDeferred
async def test_a_server_that_reads_slowly_slows_the_caller_down() -> None:
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        client = raw(harness, "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000000\r\n\r\n")
        await harness.until(lambda: target.connections)
        target.last.transport.pauseProducing()
        client.setblocking(False)
        (caller,) = harness.sites()[0].channels
        sent = 0

        def fill() -> bool:
            nonlocal sent
            with contextlib.suppress(BlockingIOError):
                while True:
                    sent += client.send(b"x" * 65536)
            return caller.transport not in reactor.getReaders()

        await harness.until(fill)
        # Neither the emulator nor the server reads now.
        fill()
        assert sent < 100_000_000
        target.last.transport.resumeProducing()
        await harness.until(lambda: len(target.last.body) == sent)
        client.close()
        await harness.until(lambda: target.last.lost)


@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok"], ids=["head", "body"])
@pytest_twisted.ensureDeferred
async def test_a_caller_that_goes_away_ends_the_request(
    answer: bytes, tls: bool, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(state_dir / "ca.pem"))
    certificate = local_certificate(state_dir, "127.0.0.1") if tls else None
    async with Target(answer, certificate) as target, passing({"/x": target.url}) as harness:
        client = raw(harness, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await harness.until(lambda: target.connections and target.last.received)
        if answer:
            await receive_until(client, b"ok")
        assert not target.last.lost
        client.close()
        await harness.until(lambda: target.last.lost)


@pytest_twisted.ensureDeferred
async def test_a_server_may_answer_before_it_has_the_body() -> None:
    async with Target(b"") as target, passing({"/x": target.url}) as harness:
        client = raw(
            harness,
            "POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        )
        assert await receive_until(client, b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        await harness.until(lambda: target.connections and target.last.received)
        target.last.transport.write(b"HTTP/1.1 413 Large\r\nContent-Length: 2\r\nConnection: close\r\n\r\nno")
        assert (await receive_until(client, b"no")).startswith(b"HTTP/1.1 413 Large\r\n")
        client.close()


@pytest_twisted.ensureDeferred
async def test_an_answer_that_breaks_off_breaks_off_at_the_caller() -> None:
    for head, whole in ((b"Content-Length: 4", b""), (b"Transfer-Encoding: chunked", b"2\r\n")):
        answer = b"HTTP/1.1 200 OK\r\n" + head + b"\r\n\r\n" + whole + b"ok"
        async with Target(answer) as target, passing({"/x": target.url}) as harness:
            client = raw(harness, "GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in await receive_until(client, b"ok" + (b"\r\n" if whole else b""))
            target.last.transport.abortConnection()
            # The connection is closed without the last chunk, or with fewer bytes than announced.
            with contextlib.suppress(ConnectionResetError):
                assert await receive_until(client, None) == b""
            client.close()
