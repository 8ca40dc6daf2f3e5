"""What requests, connections and sites need of each other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from twisted.internet.interfaces import IReactorTime
from twisted.web.resource import IResource

RequestT_contra = TypeVar("RequestT_contra", contravariant=True)


class Guard(Protocol[RequestT_contra]):
    """Checks each request before it is routed."""

    def admit(self, request: RequestT_contra, /) -> bool:
        """Return whether the request may be routed. If not, the guard has answered it."""


class ServingSite(Protocol[RequestT_contra]):
    """What connections and requests need of their site.

    Attributes:
        timeOut: Seconds that an idle connection stays open.
        head_timeout: Seconds within which the headers of a request must arrive, from its first byte.
        body_timeout: Seconds within which the body of a request must arrive.
        close_timeout: Seconds within which a client must receive part of what is left when its connection closes.
        stall_timeout: Seconds within which a client must receive part of an answer.
    """

    timeOut: Any
    head_timeout: float
    body_timeout: float
    close_timeout: float
    stall_timeout: float

    @property
    def reactor(self) -> IReactorTime: ...

    @property
    def resource(self) -> IResource:
        """The resource that answers every request."""

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


class RequestConnection(Protocol[RequestT_contra]):
    """What a request needs of its connection."""

    @property
    def transport(self) -> Any: ...

    @property
    def site(self) -> ServingSite[RequestT_contra]: ...

    @property
    def at_chunk_end(self) -> bool:
        """Whether the piece of a body that is being received ends a chunk of chunked encoding."""

    def allow_slow_body(self, length: int | None) -> None:
        """Lift the time limits on the body of the current request."""

    def when_flushed(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` once with whether everything written so far reached the operating system."""

    def abort_when_flushed(self) -> None:
        """Abort the connection once the operating system has what was written so far."""

    def loseConnection(self) -> None:
        """Close the connection once everything written has been sent."""
