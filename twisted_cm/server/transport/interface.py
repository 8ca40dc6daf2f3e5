"""What requests, connections and sites need of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IAddress, IPushProducer, IReactorTime

from .body import RequestBody
from .head import RequestHead
from .incoming import Incoming

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


class Guard(Protocol[RequestT_contra]):
    """Checks each request before it is routed."""

    def admit(self, request: RequestT_contra, /) -> bool:
        """Return whether the request may be routed. If not, the guard has answered it."""


class Answerer(Protocol[RequestT_contra]):
    """Answers requests."""

    def answer(self, request: RequestT_contra, /) -> None:
        """Answer a request, now or later."""


class Answering(Protocol):
    """What is at work on the answer to a request."""

    def cancel(self) -> None:
        """Stop, because the client has disconnected."""


class ServingSite(Protocol[RequestT_contra]):
    """What connections and requests need of their site.

    Attributes:
        idle_timeout: Seconds that an idle connection stays open.
        head_timeout: Seconds within which the head of a request must arrive, from its first byte.
        body_timeout: Seconds within which the body of a request must arrive.
        close_timeout: Seconds within which a client must receive part of what is left when its connection closes.
        stall_timeout: Seconds within which a client must receive part of an answer.
    """

    idle_timeout: float
    head_timeout: float
    body_timeout: float
    close_timeout: float
    stall_timeout: float

    @property
    def reactor(self) -> IReactorTime: ...

    @property
    def answerer(self) -> Answerer[RequestT_contra]:
        """What answers every request that the guard admits."""

    @property
    def guard(self) -> Guard[RequestT_contra]: ...

    @property
    def count_error(self) -> Callable[[str], None]:
        """What to call with the name of each error that is answered."""

    def date(self) -> bytes:
        """Return the value of the ``Date`` header."""

    def joined(self, channel: Any, /) -> None:
        """Record a new connection."""

    def left(self, channel: Any, /) -> None:
        """Forget a connection that is lost."""


class Receiver(Protocol):
    """Receives the requests that a :class:`.RequestReader` finds."""

    def head_received(self, head: RequestHead, /) -> RequestBody:
        """Receive the head of a request; return what takes its body."""

    def body_received(self) -> None:
        """Receive the end of the body that the last head announced."""


class RequestConnection(Protocol[RequestT_contra]):
    """What a request needs of its connection."""

    @property
    def incoming(self) -> Incoming:
        """What the connection receives, to be paused and resumed."""

    @property
    def site(self) -> ServingSite[RequestT_contra]: ...

    @property
    def host(self) -> IAddress:
        """The address of this side."""

    @property
    def is_secure(self) -> bool:
        """Whether the connection uses TLS."""

    @property
    def persistent(self) -> bool:
        """Whether the connection stays open after the current request."""

    def write(self, data: bytes, unless_arrived: bool = False) -> None:
        """Send bytes to the client: see :meth:`.Sender.write`."""

    @property
    def all_sent(self) -> bool:
        """Whether it is certain that the operating system has everything that was written."""

    def request_done(self) -> None:
        """Go on to the next request."""

    def register(self, producer: IPushProducer) -> None:
        """Let the client's pace pause and resume a producer of the current answer."""

    def unregister(self) -> None:
        """Forget the producer."""

    def allow_slow_body(self, length: int | None) -> None:
        """Lift the time limits on the body of the current request."""

    def when_flushed(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` once with whether everything written so far reached the operating system."""

    def abort_when_flushed(self) -> None:
        """Abort the connection once the operating system has what was written so far."""

    def abort(self) -> None:
        """Close the connection at once."""

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent."""
