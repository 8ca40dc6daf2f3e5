"""A request and its answer, as routes see them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from http import HTTPStatus
from typing import Any

from twisted.internet.interfaces import IAddress, IConsumer, IDelayedCall
from twisted.web.http import parse_qs
from zope.interface import implementer

from ...broker.timers import cancel_timer
from ...model.types import JSONValue
from ..errors import ApiError, invalid_request
from ..json_body import parse_json, to_json
from .body import RequestBody
from .head import RequestHead
from .interface import Answering, RequestConnection, ServingSite
from .pieces import write_pieces

#: Seconds that a client may go on sending the body of a request that has been answered.
LINGER = 5.0

#: The most bytes of a JSON body that is read as a whole. Submissions may be longer: their queries are not read.
LONGEST_JSON = 1024 * 1024

#: The most bytes of an answer that are written at once, even if the client takes them slowly.
ANSWERED_AT_ONCE = 1024 * 1024

#: The reason phrases, by status.
_PHRASES = {status.value: status.phrase.encode("ascii") for status in HTTPStatus}

#: The statuses of answers that have no body (RFC 9110, section 6.4.1).
_WITHOUT_BODY = frozenset({204, 304})


@implementer(IConsumer)
class EmulatorRequest:
    """A request of the emulator.

    Attributes:
        method: The method.
        uri: The target, as it was sent.
        path: The path of the target, still percent-encoded: each route decodes its own ids.
        is_1_1: Whether the client speaks HTTP/1.1 and not HTTP/1.0.
        headers: The values of each header, by its name in lower case.
        persistent: Whether the client may send another request on the connection.
        body: The body.
        code: The status of the answer.
        answer_headers: The values of each header of the answer, by its name.
        startedWriting: Whether a part of the answer has been written.
        answering: The route at work. It is canceled when the client disconnects.
        gone: Whether the client has disconnected.
    """

    # Each parked caller has one.
    __slots__ = (
        "_answered",
        "_channel",
        "_chunked",
        "_linger",
        "_phrase",
        "_report",
        "_silent",
        "answer_headers",
        "answering",
        "body",
        "code",
        "gone",
        "headers",
        "is_1_1",
        "method",
        "path",
        "persistent",
        "startedWriting",
        "uri",
    )

    def __init__(self, channel: RequestConnection[EmulatorRequest], head: RequestHead) -> None:
        self._channel = channel
        self.method, self.uri, self.is_1_1, self.headers, length, self.persistent = head
        self.path = head.uri.partition(b"?")[0]
        self.body = RequestBody(length, channel)
        self.code = 200
        self.answer_headers: dict[bytes, list[bytes]] = {}
        self.startedWriting = False
        self.answering: Answering | None = None
        self.gone = False
        self._phrase: bytes | None = None
        self._chunked = False
        # Whether the answer has no body, though something may be written.
        self._silent = False
        self._answered = False
        self._linger: IDelayedCall | None = None
        self._report: Callable[[bool], None] | None = None

    @property
    def site(self) -> ServingSite[EmulatorRequest]:
        """The site of the listener."""
        return self._channel.site

    # What the channel calls

    def process(self) -> None:
        """Pass the request on to what answers it. Its body may still be arriving."""
        body = self.body
        if not body.ended and self.is_1_1 and (self.header("Expect") or "").lower() == "100-continue":
            # The client waits for an answer before it sends the body, which asks for it when a route claims it.
            body.expects_continue = not body.received
        site = self._channel.site
        if not self.path.startswith(b"/"):
            self._read_absolute_target()
        if not self.path.startswith(b"/"):
            self.write(self.error(invalid_request("The request target is not the path of a URI.")))
            self.finish()
        elif site.guard.admit(self):
            site.answerer.answer(self)

    def _read_absolute_target(self) -> None:
        """Read a target such as ``http://host/path`` as ``/path`` of that host (RFC 9112, section 3.2.2)."""
        scheme, found, rest = self.path.partition(b"://")
        if not found or scheme.lower() not in (b"http", b"https"):
            return
        host, _, path = rest.partition(b"/")
        # A request with no Host header, or with two, is refused later.
        if host and len(self.headers.get("host", ())) == 1:
            self.headers["host"] = [host]
            self.path = b"/" + path

    def body_ended(self) -> None:
        """Complete the body."""
        self.body.end()
        if self._answered:
            self._finish()

    def connection_lost(self) -> None:
        """Cancel the route, and fail what waits for the body."""
        self.gone = True
        cancel_timer(self._linger)
        if self.answering is not None:
            self.answering.cancel()
        self.body.lost()
        self._report_delivery(False)

    # What routes call

    def when_delivered(self, report: Callable[[bool], None]) -> None:
        """Call ``report`` once, after :meth:`finish`, with whether the answer has left.

        True: the operating system has all of it. False: the connection was lost before.
        """
        if self.gone:
            report(False)
        else:
            self._report = report

    def _report_delivery(self, delivered: bool) -> None:
        report, self._report = self._report, None
        if report is not None:
            report(delivered)

    def setResponseCode(self, code: int, phrase: bytes | None = None) -> None:
        """Set the status of the answer, and its reason phrase if that is another than usual."""
        self.code, self._phrase = code, phrase

    def setHeader(self, name: str, value: str) -> None:
        """Set a header of the answer. Line breaks in its value become spaces."""
        if "\n" in value or "\r" in value:
            value = " ".join(value.splitlines())
        self.answer_headers[name.encode("ascii")] = [value.encode("utf-8")]

    def write(self, data: bytes) -> None:
        """Write a part of the answer, after its head."""
        if self.gone:
            return
        if self.startedWriting:
            head = b""
        else:
            self.startedWriting = True
            head = self._head()
        if self._silent:
            data = b""
        elif self._chunked and data:
            data = b"%x\r\n%b\r\n" % (len(data), data)
        if head or data:
            self._channel.write(head + data, self._report is not None)

    def _head(self) -> bytes:
        """Return the head of the answer, and decide how the client will find its end."""
        headers = self.answer_headers
        if self.method == b"HEAD" or self.code in _WITHOUT_BODY:
            self._silent = True
        elif b"Content-Length" not in headers and self.is_1_1:
            self._chunked = True
            headers[b"Transfer-Encoding"] = [b"chunked"]
        if not self._channel.persistent and self.is_1_1:
            headers[b"Connection"] = [b"close"]
        phrase = _PHRASES.get(self.code, b"") if self._phrase is None else self._phrase
        lines = [b"HTTP/1.%d %d %b" % (self.is_1_1, self.code, phrase)]
        if b"Date" not in headers:
            lines.append(b"Date: " + self._channel.site.date())
        for name, values in headers.items():
            for value in values:
                lines.append(name + b": " + value)
        lines.append(b"\r\n")
        return b"\r\n".join(lines)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        self.write(b"".join(data))

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        self._channel.register(producer)

    def unregisterProducer(self) -> None:
        self._channel.unregister()

    def finish(self) -> None:
        """Complete the answer. If the body is still arriving, discard it for up to :data:`LINGER` seconds."""
        channel = self._channel
        if not self.startedWriting:
            self.write(b"")
        if self.body.ended or self.gone:
            self._finish()
        else:
            self._answered = True
            self.body.discard()
            self._linger = self.site.reactor.callLater(LINGER, channel.abort)
        if self._report is not None:
            channel.when_flushed(self._report_delivery)

    def _finish(self) -> None:
        if self._linger is not None:
            cancel_timer(self._linger)
        if self.gone:
            return
        if self._chunked:
            self._channel.write(b"0\r\n\r\n")
        if self._report is not None and self._channel.all_sent:
            # Before the next answer, and before the connection closes.
            self._report_delivery(True)
        self._channel.request_done()

    def take_your_time(self) -> None:
        """Allow the body to pause for any time. Routes call it for a body that a runtime produces as it works."""
        self._channel.allow_slow_body(self.body.length)

    def break_off(self) -> None:
        """End an answer that has begun so that the client sees that it is incomplete.

        What has been written still arrives, but not the last chunk, or not as many bytes as announced.
        """
        if self._chunked:
            self._channel.loseConnection()
        else:
            self._channel.abort_when_flushed()

    # What routes answer with

    def json(self, value: JSONValue, status: int = 200) -> bytes:
        """Return ``value`` as the body of an answer, with its headers set."""
        return self.answer(to_json(value), "application/json", status)

    def answer(self, body: bytes, content_type: str, status: int = 200) -> bytes:
        """Return ``body``, with the headers of the answer set."""
        self.code, self._phrase = status, None
        if self.body.expects_continue:
            # The client has not sent the body, and must not send another request in its place.
            self.answer_headers[b"Connection"] = [b"close"]
        self.answer_headers[b"Content-Type"] = [content_type.encode("ascii", "replace")]
        self.answer_headers[b"Content-Length"] = [b"%d" % len(body)]
        return body

    def no_content(self) -> bytes:
        """Return the empty body of a 204."""
        self.code, self._phrase = 204, None
        return b""

    def error(self, error: ApiError) -> bytes:
        """Return the body of an error answer, with its headers set."""
        # The route did not wait, so it applied no preference.
        self.answer_headers.pop(b"Preference-Applied", None)
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
        self.answer_headers[b"Content-Length"] = [b"%d" % size]
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

    @property
    def args(self) -> dict[bytes, list[bytes]]:
        """The parameters of the query string."""
        found: dict[bytes, list[bytes]] = parse_qs(self.uri.partition(b"?")[2], True)
        return found

    @property
    def host(self) -> IAddress:
        """The address to which the client is connected."""
        return self._channel.host

    @property
    def is_secure(self) -> bool:
        """Whether the request came over TLS."""
        return self._channel.is_secure

    def header(self, name: str) -> str | None:
        """Return a request header as text, the last one if there are several."""
        values = self.headers.get(name.lower())
        return values[-1].decode("utf-8", "replace").strip() if values else None

    def header_values(self, name: str) -> list[str]:
        """Return all values of a request header as text. Bytes that are not UTF-8 are replaced."""
        return [value.decode("utf-8", "replace").strip() for value in self.headers.get(name.lower(), ())]
