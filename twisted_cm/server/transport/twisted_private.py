"""The private attributes of Twisted that the emulator relies on, each with its reason.

No other module of the server touches one. ``tests/server/test_twisted_private.py`` fails by the name of the attribute
when a release of Twisted removes or changes it.
"""

from __future__ import annotations

from typing import NamedTuple

from twisted.logger import Logger
from twisted.web.http import HTTPChannel


class PrivateAttribute(NamedTuple):
    """An attribute that Twisted may change without notice.

    Attributes:
        owner: The class of Twisted whose instances have it.
        name: Its name.
        reason: Why the public interface is not enough.
    """

    owner: type
    name: str
    reason: str


PRIVATE_ATTRIBUTES = (
    PrivateAttribute(
        HTTPChannel,
        "_respondToBadRequestAndDisconnect",
        "HTTPChannel calls it for any malformed request and writes a 400, even after another answer has begun:"
        " a client would take the 400 for the answer to its next request.",
    ),
    PrivateAttribute(
        HTTPChannel,
        "_dataBuffer",
        "HTTPChannel keeps pipelined requests there without a limit while an answer is held back."
        " Nothing public tells how much it keeps.",
    ),
    PrivateAttribute(
        HTTPChannel,
        "_log",
        "HTTPChannel logs each connection that times out, at level info. Clients leave idle connections open all the"
        " time, and the lines hide the others.",
    ),
    PrivateAttribute(
        HTTPChannel,
        "_transferDecoder",
        "A module ends each value that it streams with a chunk of its own. The decoder of chunked encoding passes on"
        " the bytes of a chunk in any number of pieces; only its state says whether a piece is the last one.",
    ),
)


class _DebugLogger(Logger):
    """A logger that logs at level ``debug`` what it is to log at level ``info``."""

    def info(self, format: str | None = None, **fields: object) -> None:
        self.debug(format, **fields)


class OpenHTTPChannel(HTTPChannel):
    """An ``HTTPChannel`` with a public interface to what it hides."""

    _log = _DebugLogger()

    def refuse(self) -> None:
        """Answer 400 to what is not HTTP, and close the connection."""
        super()._respondToBadRequestAndDisconnect()  # type: ignore[no-untyped-call]

    def _respondToBadRequestAndDisconnect(self) -> None:
        self.refuse()

    @property
    def at_chunk_end(self) -> bool:
        """Whether the piece of a body that is being received ends a chunk of chunked encoding."""
        # A body of known length has a decoder without states.
        return getattr(self._transferDecoder, "state", None) == "CRLF"

    @property
    def bytes_ahead(self) -> int:
        """The number of bytes kept of requests that follow the current one."""
        return sum(map(len, self._dataBuffer))
