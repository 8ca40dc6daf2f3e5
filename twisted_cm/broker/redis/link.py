"""One connection to a Redis, for commands or for publications.

hiredis writes commands and reads replies: in Python, that takes more time than everything else that a command needs.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from hiredis import Reader, ReplyError, pack_command
from twisted.internet.defer import Deferred, fail
from twisted.internet.error import ConnectionDone
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure


class Link(Protocol):
    """A connection for commands, which Redis answers in order."""

    transport: Any

    def __init__(self, lost: Callable[[Link], None]) -> None:
        """Connect nothing yet.

        Args:
            lost: Called when the connection is lost, before the commands fail that have no reply.
        """
        self._lost = lost
        self._reader = Reader()
        self._unanswered: deque[Deferred[Any]] = deque()
        self._open = True

    def command(self, *args: str | bytes) -> Deferred[Any]:
        """Send a command.

        Returns:
            A Deferred that fires with the reply. It fails with :class:`hiredis.ReplyError` if Redis refuses the
            command, and with :class:`~twisted.internet.error.ConnectionClosed` if the connection is lost before.
        """
        if not self._open:
            return fail(ConnectionDone())
        # An id that a client made up may contain half a surrogate pair.
        encoded = [each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each for each in args]
        self.transport.write(pack_command(tuple(encoded)))  # type: ignore[arg-type]  # It takes any number.
        reply: Deferred[Any] = Deferred()
        self._unanswered.append(reply)
        return reply

    def dataReceived(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            self.received(reply)

    def received(self, reply: Any) -> None:
        """Fire the Deferred of the first command that has no reply yet."""
        waiting = self._unanswered.popleft()
        if isinstance(reply, ReplyError):
            waiting.errback(reply)
        else:
            waiting.callback(reply)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._open = False
        # First: commands that fail may be sent again.
        self._lost(self)
        while self._unanswered:
            self._unanswered.popleft().errback(reason)


class Subscriber(Link):
    """A connection for publications. Its only commands are those that prepare it."""

    def __init__(self, heard: Callable[[bytes], None], lost: Callable[[Link], None]) -> None:
        """Connect nothing yet.

        Args:
            heard: Called with each publication.
            lost: Called when the connection is lost.
        """
        super().__init__(lost)
        self._heard = heard

    def received(self, reply: Any) -> None:
        if isinstance(reply, list) and reply[0] == b"message":
            self._heard(reply[2])
        else:
            super().received(reply)
