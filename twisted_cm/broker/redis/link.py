"""One connection to a Redis, for commands or for publications.

hiredis writes commands and reads replies: in Python, that takes more time than everything else that a command needs.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import orjson
from hiredis import Reader, ReplyError, pack_command
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionClosed, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure

from ..timers import cancel_timer

#: Seconds that a command waits for another one to be sent with.
SOON = 0.002


class Link(Protocol):
    """A connection for commands, which Redis answers in order."""

    transport: Any

    def __init__(self, clock: IReactorTime, heard: Callable[[list[Any]], None], lost: Callable[[Link], None]) -> None:
        """Connect nothing yet.

        Args:
            clock: The reactor.
            heard: Called with each notice.
            lost: Called when the connection is lost, before the commands fail that have no reply.
        """
        self._clock = clock
        self._heard = heard
        self._lost = lost
        self._reader = Reader()
        # Each with whether the reply of the command comes with notices.
        self._unanswered: deque[tuple[Deferred[Any], bool]] = deque()
        self._open = True
        self._unsent: list[bytes] = []
        # When the unsent commands are sent: at the end of this turn of the reactor, or SOON.
        self._turn: IDelayedCall | None = None
        self._timer: IDelayedCall | None = None

    def command(self, *args: str | bytes, soon: bool = False) -> Deferred[Any]:
        """Send a command, together with all others of this turn of the reactor.

        The functions of the emulator reply with notices. They are heard even if the Deferred is canceled.

        Args:
            args: The words of the command.
            soon: Whether to send it together with the next command, or after :data:`SOON` seconds if there is none.

        Returns:
            A Deferred that fires with the reply. It fails with :class:`hiredis.ReplyError` if Redis refuses the
            command, and with :class:`~twisted.internet.error.ConnectionClosed` if the connection is lost before.
        """
        if not self._open:
            return fail(ConnectionDone())
        self._unsent.append(_pack(args))
        if not soon:
            if self._turn is None:
                self._turn = self._clock.callLater(0, self._send)
        elif self._timer is None:
            self._timer = self._clock.callLater(SOON, self._send_late)
        reply: Deferred[Any] = Deferred()
        self._unanswered.append((reply, args[0] == "FCALL"))
        return reply

    def _send(self) -> None:
        self._turn = None
        unsent, self._unsent = self._unsent, []
        self.transport.writeSequence(unsent)

    def _send_late(self) -> None:
        self._timer = None
        cancel_timer(self._turn)
        self._send()

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self.received(reply)

    def received(self, reply: Any) -> None:
        """Fire the Deferred of the first command that has no reply yet."""
        waiting, has_notices = self._unanswered[0]
        if isinstance(reply, ReplyError):
            self._unanswered.popleft()
            waiting.errback(reply)
            return
        if has_notices:
            reply, notices = reply
            for each in notices:
                self._heard(each)
        self._unanswered.popleft()
        waiting.callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        cancel_timer(self._turn)
        cancel_timer(self._timer)
        if not reason.check(ConnectionClosed):
            # What Redis sent could not be read. Those who wait see a connection that is lost.
            reason = Failure(ConnectionLost())
        # First: commands that fail may be sent again.
        self._lost(self)
        while self._unanswered:
            self._unanswered.popleft()[0].errback(reason)


def _pack(words: Any) -> bytes:
    """Return a command as Redis reads it."""
    try:
        packed: bytes = pack_command(words)
    except UnicodeEncodeError:
        # An id that a client made up may contain half a surrogate pair.
        words = [each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each for each in words]
        packed = pack_command(tuple(words))
    return packed


def _notice(published: bytes) -> Any:
    """Return what a node has published."""
    try:
        return orjson.loads(published)
    except orjson.JSONDecodeError:
        # Bytes of results need not be UTF-8; encoding with surrogateescape restores them.
        return json.loads(published.decode("utf-8", "surrogateescape"))


class Subscriber(Link):
    """A connection for publications. Its only commands are those that prepare it."""

    def received(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            self._heard(_notice(reply[2]))
        else:
            super().received(reply)
