"""Test the connection to a Redis, over a transport in memory."""

from __future__ import annotations

from typing import Any

import pytest
from hiredis import ReplyError
from twisted.internet.error import ConnectionClosed, ConnectionDone
from twisted.internet.task import Clock
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from twisted_cm.broker.redis.link import SOON, Link


def connected(clock: Clock | None = None) -> Link:
    """Return a link with a transport."""
    link = Link(clock or Clock(), lambda notice: None, lambda link: None)
    link.makeConnection(StringTransport())
    return link


def test_the_commands_of_a_turn_are_sent_together() -> None:
    clock = Clock()
    link = connected(clock)
    for words, soon in ((("ECHO", "one"), False), (("ECHO", "two"), True), (("PING",), False)):
        link.command(*words, soon=soon)
    assert link.transport.value() == b""
    clock.advance(0)
    assert (
        link.transport.value()
        == b"*2\r\n$4\r\nECHO\r\n$3\r\none\r\n*2\r\n$4\r\nECHO\r\n$3\r\ntwo\r\n*1\r\n$4\r\nPING\r\n"
    )
    link.transport.clear()
    link.command("ECHO", "three", soon=True)
    clock.advance(SOON / 2)
    assert link.transport.value() == b""
    clock.advance(SOON / 2)
    assert link.transport.value() == b"*2\r\n$4\r\nECHO\r\n$5\r\nthree\r\n"


def test_replies_go_to_the_commands_in_order() -> None:
    link = connected()
    results: list[Any] = []
    for word in ("one", "two", "three"):
        link.command("ECHO", word).addBoth(results.append)
    link.dataReceived(b"$3\r\none\r\n-ERR no\r\n$5\r\nth")
    assert results[0] == b"one"
    assert results[1].check(ReplyError)
    assert len(results) == 2
    link.dataReceived(b"ree\r\n")
    assert results[2] == b"three"


@pytest.mark.parametrize("reason", [ConnectionDone(), TypeError("a notice that cannot be read")])
def test_however_a_connection_is_lost_its_commands_fail_as_if_it_was_closed(reason: Exception) -> None:
    """What waits for a command goes on only with an error that it expects."""
    link = connected()
    lost: list[Failure] = []
    for _ in range(2):
        link.command("PING").addErrback(lost.append)
    link.connectionLost(Failure(reason))
    assert [bool(each.check(ConnectionClosed)) for each in lost] == [True, True]
