"""How the body of a request reaches its consumer, whatever happens while its first pieces are written."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from twisted_cm.server.errors import ApiError
from twisted_cm.server.transport.body import BodyLost, RequestBody


class Consumer:
    """Keeps what is written, and does something with the first piece."""

    def __init__(self, act: Callable[[], None]) -> None:
        self.written: list[bytes] = []
        self.registered = False
        self._act = act

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        """Note that the body may write."""
        self.registered = True

    def unregisterProducer(self) -> None:
        """Note that the body no longer writes."""
        self.registered = False

    def write(self, data: bytes) -> None:
        """Keep a piece."""
        self.written.append(data)
        if len(self.written) == 1:
            self._act()


def begun(*pieces: bytes) -> RequestBody:
    """Return a body of which some pieces have arrived."""
    incoming = SimpleNamespace(paused=False, pauseProducing=lambda: None, resumeProducing=lambda: None)
    connection: Any = SimpleNamespace(incoming=incoming, write=lambda data: None)
    body = RequestBody(None, connection)
    for each in pieces:
        body.deliver(each)
    return body


def outcome(piped: Deferred[None]) -> object:
    """Return ``None``, or the type of the failure."""
    ends: list[object] = []
    piped.addCallbacks(ends.append, lambda failure: ends.append(failure.type))
    (end,) = ends
    return end


def test_a_body_that_is_lost_meanwhile_fails() -> None:
    body = begun(b"a", b"b")
    consumer: Any = Consumer(body.lost)
    assert outcome(body.pipe(consumer, 10)) is BodyLost
    assert not consumer.registered


def test_a_body_that_ends_meanwhile_is_complete() -> None:
    body = begun(b"a", b"b")
    consumer: Any = Consumer(body.end)
    assert outcome(body.pipe(consumer, 10)) is None
    assert (consumer.written, consumer.registered) == ([b"a", b"b"], False)


def full() -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(("act", "limit", "error"), [(full, 10, OSError), (lambda: None, 1, ApiError)])
def test_what_is_refused_is_thrown_away(act: Callable[[], None], limit: int, error: type[Exception]) -> None:
    body = begun(b"a", b"b")
    consumer: Any = Consumer(act)
    assert outcome(body.pipe(consumer, limit)) is error
    body.deliver(b"c")
    body.lost()
    assert (consumer.written, consumer.registered) == ([b"a"], False)


def test_a_complete_body_needs_no_producer() -> None:
    body = begun(b"a", b"b")
    body.end()
    consumer: Any = Consumer(lambda: None)
    assert outcome(body.pipe(consumer, 10)) is None
    assert (consumer.written, consumer.registered) == ([b"a", b"b"], False)
