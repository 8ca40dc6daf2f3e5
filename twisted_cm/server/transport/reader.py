"""How requests are found in the bytes of a connection: httptools parses them, and this module limits what it keeps."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from httptools import HttpParserCallbackError, HttpParserError, HttpParserUpgrade, HttpRequestParser

from .body import RequestBody
from .head import RequestHead
from .interface import Receiver

#: The most bytes of the head of a request, and of anything else around its body, such as a trailer.
LONGEST_HEAD = 16 * 1024

#: Bytes that each header needs besides its name and its value.
_AROUND_HEADER = len(": \r\n")


@lru_cache(256)
def _key(name: bytes) -> str:
    """Return the name of a header in lower case. The names are nearly always the same few."""
    return name.decode("ascii").lower()


class MalformedRequest(Exception):
    """What has arrived is no request, or its head is too long. Nothing that follows it can be read."""


class RequestReader:
    """Reads the requests of one connection, one after another.

    The methods ``on_...`` are those that httptools calls.

    Attributes:
        unfinished: Whether a part of a head has arrived.
    """

    __slots__ = (
        "_body",
        "_headers",
        "_in_head",
        "_line",
        "_parser",
        "_piece",
        "_receiver",
        "_unaccounted",
        "_upgrading",
        "_url",
    )

    def __init__(self, receiver: Receiver) -> None:
        """Read nothing yet.

        Args:
            receiver: Is called with each head, and makes the body that follows it.
        """
        self._receiver = receiver
        self._parser: Any = HttpRequestParser(self)
        self._line = self._url = b""
        self._headers: dict[str, list[bytes]] = {}
        self._in_head = False
        self._upgrading = False
        # The body that is being received, and what has arrived of a chunk of it and was not delivered.
        self._body: RequestBody | None = None
        self._piece = b""
        # The bytes since something was complete that is counted elsewhere: a head, or a piece of a body.
        self._unaccounted = 0

    @property
    def unfinished(self) -> bool:
        return self._in_head or self._unaccounted > 0

    def read(self, data: bytes) -> None:
        """Read the next bytes, and call the receiver with what is complete.

        Raises:
            MalformedRequest: This and all that follows is no HTTP.
        """
        self._unaccounted += len(data)
        while data:
            data = self._parse(data)
        if len(self._piece) > 1:
            # Whether the last byte ends its chunk shows with the next one. It waits, since an end is told with it.
            piece, self._piece = self._piece[:-1], self._piece[-1:]
            self._deliver(piece, False)
        if self._unaccounted > LONGEST_HEAD:
            raise MalformedRequest

    def _parse(self, data: bytes) -> bytes:
        """Parse bytes; return those that have to be parsed again."""
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade as upgrade:
            # httptools stops behind a head that offers another protocol, and leaves out the body.
            (end,) = upgrade.args
            if not self._upgrading:
                # After CONNECT, no HTTP follows.
                return b""
            self._upgrading = False
            self._parser = HttpRequestParser(self)
            return self._head_without_upgrade() + data[end:]
        except HttpParserCallbackError as error:
            if isinstance(error.__context__, MalformedRequest):
                raise error.__context__ from None
            raise
        except HttpParserError:
            raise MalformedRequest from None
        return b""

    def _head_without_upgrade(self) -> bytes:
        """Return the head of a request as if it offered no other protocol."""
        lines = [self._line]
        lines += [
            b"%b: %b" % (name.encode("ascii"), value)
            for name, values in self._headers.items()
            if name != "upgrade"
            for value in values
        ]
        return b"\r\n".join(lines) + b"\r\n\r\n"

    def stop(self) -> None:
        """Read nothing more. The parser refers to this object, which would keep both."""
        self._parser = None

    # What httptools calls

    def on_message_begin(self) -> None:
        self._in_head = True
        self._url = b""
        self._headers = {}

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        # Trailers are not kept.
        if self._in_head:
            key = _key(name)
            if key in self._headers:
                self._headers[key].append(value)
            else:
                self._headers[key] = [value]

    def on_headers_complete(self) -> None:
        parser, headers = self._parser, self._headers
        self._in_head = False
        if self._unaccounted > LONGEST_HEAD and self._head_size() > LONGEST_HEAD:
            raise MalformedRequest
        self._unaccounted = 0
        method, version = parser.get_method(), parser.get_http_version()
        if version not in ("1.1", "1.0"):
            raise MalformedRequest
        if parser.should_upgrade() and method != b"CONNECT":
            self._upgrading = True
            self._line = b"%b %b HTTP/%b" % (method, self._url, version.encode("ascii"))
            return
        length: int | None = 0
        if "transfer-encoding" in headers:
            if [value.strip().lower() for value in headers["transfer-encoding"]] != [b"chunked"]:
                raise MalformedRequest
            length = None
        elif "content-length" in headers:
            length = int(headers["content-length"][0])
        persistent = version == "1.1" and parser.should_keep_alive() and method != b"CONNECT"
        head = RequestHead(method, self._url, version == "1.1", headers, length, persistent)
        self._body = self._receiver.head_received(head)

    def _head_size(self) -> int:
        return len(self._url) + sum(
            len(name) + len(value) + _AROUND_HEADER for name, values in self._headers.items() for value in values
        )

    def on_body(self, data: bytes) -> None:
        self._unaccounted = 0
        assert self._body is not None
        if self._body.length is None:
            self._piece += data
        else:
            self._body.deliver(data)

    def on_chunk_complete(self) -> None:
        # The last chunk is empty.
        if self._piece:
            piece, self._piece = self._piece, b""
            self._deliver(piece, True)

    def _deliver(self, piece: bytes, chunk_ends: bool) -> None:
        assert self._body is not None
        self._body.deliver(piece, chunk_ends)

    def on_message_complete(self) -> None:
        if self._body is not None and not self._upgrading:
            self._unaccounted = 0
            self._body = None
            self._receiver.body_received()
