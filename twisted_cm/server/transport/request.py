"""A request and its answer."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import orjson
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.http import parse_qs
from twisted.web.server import Request

from ...model.types import JSONValue
from ..errors import ApiError, invalid_request
from ..json_body import parse_json
from .body import RequestBody
from .timers import cancel_timer

if TYPE_CHECKING:
    from .channel import EmulatorChannel
    from .site import EmulatorSite

#: Bytes that are read at once of a body that is longer than that and may take its time.
BULK = 256 * 1024

#: Seconds that an answered client may go on to send its body before it is cut off.
LINGER = 5.0


class EmulatorRequest(Request):
    """
    A request of the emulator.

    @ivar body: its body; C{content} of the base class stays empty.
    @ivar answering: the route at work; canceled when the client goes away.
    """

    channel: EmulatorChannel
    site: EmulatorSite
    body: RequestBody
    answering: Deferred[Any] | None = None
    _begun = False
    _answered = False
    _linger: IDelayedCall | None = None
    _delivered: Deferred[bool] | None = None

    def gotLength(self, length: int | None) -> None:
        """The headers are there; called by the channel."""
        self.content = io.BytesIO()
        self.body = RequestBody(length, self.channel.transport)

    def handleContentChunk(self, data: bytes) -> None:
        """A part of the body is there; called by the channel."""
        self.body.deliver(data)

    def begin(self, command: bytes, path: bytes, version: bytes) -> None:
        """Route the request; called when its headers are there, before its body is."""
        self._begun = True
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.args = parse_qs(query, True) if query else {}
        self.process()

    def process(self) -> None:
        """Hand the request to the resource; path segments stay percent-encoded, each route decodes its own ids."""
        self.site = self.channel.site
        self.setHeader(b"Date", self.site.date())
        if not self.path.startswith(b"/") or not self.path.isascii():
            self.write(self.error(invalid_request("The request target is not the path of a URI.")))
            self.finish()
        elif self.site.guard.admit(self):
            self.site.resource.render(self)

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        """All of the request is there; called by the channel."""
        self.body.end()
        if not self._begun:
            self.begin(command, path, version)
        elif self._answered:
            self._finish()

    def connectionLost(self, reason: Failure) -> None:
        """The client is gone; called by the channel."""
        cancel_timer(self._linger)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self.answering is not None:
            self.answering.cancel()
        if self.content is not None:
            # Its headers were there.
            self.body.lost()
        self._report_delivery(False)

    @property
    def gone(self) -> bool:
        """Whether nobody is there to be answered."""
        return bool(self._disconnected)

    def delivered(self) -> Deferred[bool]:
        """
        @return: fires after L{finish}: with L{True} once the whole answer has
            been handed to the operating system, with L{False} if the connection
            was lost before that.
        """
        self._delivered = Deferred()
        return self._delivered

    @property
    def awaits_delivery(self) -> bool:
        """Whether somebody wants to know if the answer has left."""
        return self._delivered is not None

    def _report_delivery(self, delivered: bool) -> None:
        if self._delivered is not None:
            waiting, self._delivered = self._delivered, None
            waiting.callback(delivered)

    def finish(self) -> None:
        """The answer is complete; if the request is not, its rest is thrown away first, for a while."""
        if self.body.ended or self._disconnected:
            self._finish()
            return
        if not self.startedWriting:
            self.write(b"")
        self._answered = True
        self.body.discard()
        self._linger = self.site.reactor.callLater(LINGER, self.channel.transport.abortConnection)

    def _finish(self) -> None:
        cancel_timer(self._linger)
        channel = self.channel
        super().finish()  # type: ignore[no-untyped-call]
        if self._delivered is not None:
            channel.when_flushed(self._report_delivery)

    def take_your_time(self) -> None:
        """The body of this request may pause for as long as it likes; one that is large is read in larger pieces."""
        self.channel.setTimeout(None)
        self.channel.end_deadline()
        if self.body.length is not None and self.body.length > BULK:
            self.channel.read_in_bulk()

    def break_off(self) -> None:
        """
        End an answer that has begun so that the client sees that it is not
        whole: what was written still arrives, the terminating chunk never does.
        """
        if self.chunked:
            self.channel.loseConnection()
        else:
            self.channel.abort_when_flushed()

    def write(self, data: bytes) -> None:
        """Send a part of the answer, after its head if it is the first."""
        super().write(data)  # type: ignore[no-untyped-call]
        if not self.gone:
            self.channel.send_head()

    # What routes answer with

    def json(self, value: JSONValue, status: int = 200) -> bytes:
        """
        @return: C{value} as the body of an answer, for a route to return.
        """
        try:
            body = orjson.dumps(value)
        except TypeError:
            # An integer of more than 64 bits, or half a surrogate pair, which JSON can only say escaped.
            body = json.dumps(value).encode("ascii")
        return self.answer(body, "application/json", status)

    def answer(self, body: bytes, content_type: str, status: int = 200) -> bytes:
        """
        @return: C{body}, for a route to return, with its headers set.
        """
        self.setResponseCode(status)
        self.responseHeaders.setRawHeaders(b"Content-Type", [content_type.encode("ascii", "replace")])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    def no_content(self) -> bytes:
        """
        @return: the empty body of a 204.
        """
        self.setResponseCode(204)
        return b""

    def error(self, error: ApiError) -> bytes:
        """
        @return: the body of an error answer.
        """
        # Whatever was preferred, nothing was waited for.
        self.responseHeaders.removeHeader("Preference-Applied")
        for name, value in error.headers.items():
            self.setHeader(name, value)
        self.site.count_error(error.error)
        return self.answer(error.body(), "application/json", error.status)

    async def read_json(self, limit: int) -> JSONValue:
        """
        @param limit: the most bytes to accept.
        @return: the body as JSON.
        @raise ApiError: 400 if it is not JSON in UTF-8, 413 if it is too large.
        """
        return parse_json(await self.body.read(limit))

    def header(self, name: str) -> str | None:
        """
        @return: a request header as text, the last one if it was sent twice.
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"))
        return values[-1].decode("utf-8", "replace").strip() if values else None

    def header_values(self, name: str) -> list[str]:
        """
        @return: a request header as text, each time that it was sent; what is not UTF-8 is replaced.
        """
        values = self.requestHeaders.getRawHeaders(name.encode("ascii")) or []
        return [value.decode("utf-8", "replace").strip() for value in values]
