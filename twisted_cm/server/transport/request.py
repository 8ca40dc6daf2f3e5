"""A request and its answer, as routes see them."""

from __future__ import annotations

import io
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall
from twisted.python.failure import Failure
from twisted.web.http import RESPONSES, parse_qs
from twisted.web.server import Request

from ...broker.timers import cancel_timer
from ...model.types import JSONValue
from ..errors import ApiError, invalid_request
from ..json_body import parse_json, to_json
from .body import RequestBody
from .interface import RequestConnection, ServingSite
from .pieces import write_pieces

#: Seconds that a client may go on sending the body of a request that has been answered.
LINGER = 5.0

#: The most bytes of a JSON body that is read as a whole. Submissions may be longer: their queries are not read.
LONGEST_JSON = 1024 * 1024

#: The most bytes of an answer that are written at once, even if the client takes them slowly.
ANSWERED_AT_ONCE = 1024 * 1024


class EmulatorRequest(Request):
    """A request of the emulator.

    Attributes:
        body: The body. ``content`` of the base class stays empty.
        answering: The route at work. It is canceled when the client disconnects.
        gone: Whether the client has disconnected.
    """

    # Twisted names concrete classes; the protocols say what a request needs of them.
    channel: RequestConnection[EmulatorRequest]  # type: ignore[assignment]
    site: ServingSite[EmulatorRequest]  # type: ignore[assignment]
    body: RequestBody
    answering: Deferred[Any] | None = None
    gone = False
    _begun = False
    _expects_continue = False
    _answered = False
    _linger: IDelayedCall | None = None
    _delivered: Deferred[bool] | None = None

    # What the channel calls

    def gotLength(self, length: int | None) -> None:
        self.content = io.BytesIO()
        self.body = RequestBody(length, self.channel.transport)
        expected = self.requestHeaders.getRawHeaders(b"Expect")
        if expected and expected[0].lower() == b"100-continue":
            # Without the header, Twisted does not send 100. The body does, when a route claims it.
            self.requestHeaders.removeHeader(b"Expect")
            self._expects_continue = True

    def handleContentChunk(self, data: bytes) -> None:
        self.body.deliver(data, self.channel.at_chunk_end)

    def begin(self, command: bytes, path: bytes, version: bytes) -> None:
        """Route the request, once its headers have arrived."""
        self._begun = True
        self.method, self.uri, self.clientproto = command, path, version
        self.path, _, query = path.partition(b"?")
        self.body.expects_continue = self._expects_continue and version == b"HTTP/1.1" and not self.body.ended
        self.args = parse_qs(query, True) if query else {}
        self.process()

    def process(self) -> None:
        """Pass the request to the resource, its path still percent-encoded: each route decodes its own ids."""
        self.site = self.channel.site
        self.setHeader(b"Date", self.site.date())
        self._read_absolute_target()
        if not self.path.startswith(b"/") or not self.path.isascii():
            self.write(self.error(invalid_request("The request target is not the path of a URI.")))
            self.finish()
        elif self.site.guard.admit(self):
            self.site.resource.render(self)

    def _read_absolute_target(self) -> None:
        """Read a target such as ``http://host/path`` as ``/path`` of that host (RFC 9112, section 3.2.2)."""
        scheme, found, rest = self.path.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            return
        host, _, path = rest.partition(b"/")
        hosts = self.requestHeaders.getRawHeaders(b"Host")
        # A request with no Host header, or with two, is refused later.
        if host and hosts is not None and len(hosts) == 1:
            self.requestHeaders.setRawHeaders(b"Host", [host])
            self.path = b"/" + path

    def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
        self.body.end()
        if not self._begun:
            self.begin(command, path, version)
        elif self._answered:
            self._finish()

    def connectionLost(self, reason: Failure) -> None:
        self.gone = True
        cancel_timer(self._linger)
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        if self.answering is not None:
            self.answering.cancel()
        if self.content is not None:
            # The headers had arrived, so there is a body.
            self.body.lost()
        self._report_delivery(False)

    # What routes call

    def delivered(self) -> Deferred[bool]:
        """Return a Deferred that fires after :meth:`finish` with whether the answer has left.

        True: the operating system has all of it. False: the connection was lost before.
        """
        if self.gone:
            return succeed(False)
        self._delivered = Deferred()
        return self._delivered

    def _report_delivery(self, delivered: bool) -> None:
        if self._delivered is not None:
            waiting, self._delivered = self._delivered, None
            waiting.callback(delivered)

    def finish(self) -> None:
        """Complete the answer. If the body is still arriving, discard it for up to :data:`LINGER` seconds."""
        # The base class forgets the channel of a request that is finished.
        channel = self.channel
        if self.body.ended or self.gone:
            self._finish()
        else:
            if not self.startedWriting:
                self.write(b"")
            self._answered = True
            self.body.discard()
            self._linger = self.site.reactor.callLater(LINGER, channel.transport.abortConnection)
        if self._delivered is not None:
            channel.when_flushed(self._report_delivery)

    def _finish(self) -> None:
        cancel_timer(self._linger)
        super().finish()  # type: ignore[no-untyped-call]

    def take_your_time(self) -> None:
        """Allow the body to pause for any time. Routes call it for a body that a runtime produces as it works."""
        self.channel.allow_slow_body(self.body.length)

    def break_off(self) -> None:
        """End an answer that has begun so that the client sees that it is incomplete.

        What has been written still arrives, but not the last chunk, or not as many bytes as announced.
        """
        if self.chunked:
            self.channel.loseConnection()
        else:
            self.channel.abort_when_flushed()

    # What routes answer with

    def json(self, value: JSONValue, status: int = 200) -> bytes:
        """Return ``value`` as the body of an answer, with its headers set."""
        return self.answer(to_json(value), "application/json", status)

    def answer(self, body: bytes, content_type: str, status: int = 200) -> bytes:
        """Return ``body``, with the headers of the answer set."""
        self.setResponseCode(status, None if status in RESPONSES else HTTPStatus(status).phrase.encode("ascii"))
        if self.body.expects_continue:
            # The client has not sent the body, and must not send another request in its place.
            self.responseHeaders.setRawHeaders(b"Connection", [b"close"])
        self.responseHeaders.setRawHeaders(b"Content-Type", [content_type.encode("ascii", "replace")])
        self.responseHeaders.setRawHeaders(b"Content-Length", [b"%d" % len(body)])
        return body

    def no_content(self) -> bytes:
        """Return the empty body of a 204."""
        self.setResponseCode(204)
        return b""

    def error(self, error: ApiError) -> bytes:
        """Return the body of an error answer, with its headers set."""
        # The route did not wait, so it applied no preference.
        self.responseHeaders.removeHeader("Preference-Applied")
        for name, value in error.headers.items():
            self.setHeader(name, value)
        self.site.count_error(error.error)
        return self.answer(error.body(), "application/json", error.status)

    async def answer_in_parts(self, parts: Sequence[bytes], content_type: str, status: int = 200) -> bytes:
        """Answer with bytes that are in several parts; write a long answer at the client's pace.

        Returns:
            What is left to write.
        """
        size = sum(map(len, parts))
        if size <= ANSWERED_AT_ONCE:
            return self.answer(b"".join(parts), content_type, status)
        self.answer(b"", content_type, status)
        self.setHeader(b"Content-Length", b"%d" % size)
        await write_pieces(self, parts)
        return b""

    # What the client sent

    async def read_json(self, limit: int) -> JSONValue:
        """Return the body as JSON.

        Args:
            limit: The most bytes to accept.

        Raises:
            ApiError: 400 if the body is not JSON in UTF-8, 413 if it is too large.
        """
        with await self.body.receive(min(limit, LONGEST_JSON)) as received:
            return parse_json(received.read())

    def header(self, name: str) -> str | None:
        """Return a request header as text, the last one if there are several."""
        values = self.requestHeaders.getRawHeaders(name.encode("ascii"))
        return values[-1].decode("utf-8", "replace").strip() if values else None

    def header_values(self, name: str) -> list[str]:
        """Return all values of a request header as text. Bytes that are not UTF-8 are replaced."""
        values = self.requestHeaders.getRawHeaders(name.encode("ascii")) or []
        return [value.decode("utf-8", "replace").strip() for value in values]
