"""Test how requests are found in the bytes of a connection, without a connection."""

from __future__ import annotations

import pytest
from attrs import define, field

from twisted_cm.server.transport.body import RequestBody
from twisted_cm.server.transport.head import RequestHead
from twisted_cm.server.transport.reader import LONGEST_HEAD, MalformedRequest, RequestReader

HEAD = b"POST /path?x HTTP/1.1\r\nHost: localhost\r\n"


class Body(RequestBody):
    """A body that notes what is delivered."""

    def __init__(self, length: int | None) -> None:
        super().__init__(length, None)
        self.pieces: list[tuple[bytes, bool]] = []

    def deliver(self, data: bytes, chunk_ends: bool = False) -> None:
        self.pieces.append((data, chunk_ends))


@define
class Recorder:
    """Notes what a reader finds."""

    heads: list[RequestHead] = field(factory=list)
    bodies: list[Body] = field(factory=list)
    ended: int = 0

    def head_received(self, head: RequestHead) -> RequestBody:
        self.heads.append(head)
        self.bodies.append(Body(head.length))
        return self.bodies[-1]

    def body_received(self) -> None:
        self.ended += 1

    @property
    def content(self) -> list[bytes]:
        return [b"".join(data for data, _ in body.pieces) for body in self.bodies]


def read(*pieces: bytes) -> Recorder:
    """Read pieces, one after the other."""
    recorder = Recorder()
    reader = RequestReader(recorder)
    for piece in pieces:
        reader.read(piece)
    return recorder


def test_a_request_is_the_same_in_any_pieces() -> None:
    sent = HEAD + b"X: a\r\nx:  b \r\nContent-Length: 4\r\n\r\nbody"
    whole = read(sent)
    assert whole.heads == [
        (b"POST", b"/path?x", True, {"host": [b"localhost"], "x": [b"a", b"b "], "content-length": [b"4"]}, 4, True)
    ]
    assert read(*(sent[at : at + 1] for at in range(len(sent)))).heads == whole.heads
    for found in (whole, read(sent[:20], sent[20:])):
        assert (found.content, found.ended) == ([b"body"], 1)


def test_requests_in_one_piece_are_read_one_after_another() -> None:
    found = read((HEAD + b"Content-Length: 2\r\n\r\nab" + b"GET / HTTP/1.1\r\n\r\n") * 3)
    assert [head[0] for head in found.heads] == [b"POST", b"GET"] * 3
    assert found.content == [b"ab", b""] * 3
    assert found.ended == 6


@pytest.mark.parametrize(
    ("sent", "persistent"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", True),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\n\r\n", False),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
        (b"CONNECT localhost:80 HTTP/1.1\r\n\r\n", False),
    ],
)
def test_a_connection_stays_open_unless_the_client_or_its_version_says_otherwise(sent: bytes, persistent: bool) -> None:
    assert read(sent).heads[0].persistent is persistent


@pytest.mark.parametrize("size", [0, 4])
def test_an_offer_of_another_protocol_is_declined(size: int) -> None:
    """The HTTP client of the JDK offers HTTP/2 with its first request, and sends the body of that request at once."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c\r\n"
    sent = HEAD + offer + b"Content-Length: %d\r\n\r\n" % size + b"x" * size + b"GET /next HTTP/1.1\r\n\r\n"
    for found in (read(sent), read(*(sent[at : at + 1] for at in range(len(sent))))):
        assert [head[:2] for head in found.heads] == [(b"POST", b"/path?x"), (b"GET", b"/next")]
        assert found.heads[0].persistent
        assert found.content == [b"x" * size, b""]
        assert found.ended == 2


def test_the_end_of_a_chunk_is_told_with_its_last_byte() -> None:
    found = read(
        HEAD + b"Transfer-Encoding: Chunked\r\n\r\n4\r\nab",
        b"cd",
        b"\r\n2;x=y\r\nef\r\n1\r\ng",
        b"\r\n0\r\nTrailer: z\r\n\r\n",
    )
    # The last byte waits for the line break after its chunk.
    assert found.bodies[0].pieces == [(b"a", False), (b"bc", False), (b"d", True), (b"ef", True), (b"g", True)]
    assert found.ended == 1
    assert "trailer" not in found.heads[0].headers


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/2.0\r\n\r\n",
        b"GET / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        HEAD + b"X: " + b"x" * LONGEST_HEAD + b"\r\n\r\n",
        HEAD + b"A:\r\n" * LONGEST_HEAD + b"\r\n",
        b"\r\n" * LONGEST_HEAD,
    ],
    ids=["version", "encoding", "two lengths", "long header", "many headers", "line ends"],
)
def test_what_is_no_request_or_too_long_is_refused_in_any_pieces(sent: bytes) -> None:
    for size in (len(sent), 1000):
        with pytest.raises(MalformedRequest):
            read(*(sent[at : at + size] for at in range(0, len(sent), size)))


@pytest.mark.parametrize(
    "sent", [b"0\r\n" + b"X: y\r\n" * LONGEST_HEAD, b"0" * 2 * LONGEST_HEAD, b"1;" + b"x" * 2 * LONGEST_HEAD]
)
def test_what_is_around_a_body_is_refused_when_it_goes_on_and_on(sent: bytes) -> None:
    with pytest.raises(MalformedRequest):
        read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *(sent[at : at + 1000] for at in range(0, len(sent), 1000)))


def test_a_long_body_and_many_small_chunks_are_no_long_head() -> None:
    body = b"1\r\nx\r\n" * 100_000
    found = read(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
    assert found.content == [b"x" * 100_000]
    found = read(HEAD + b"Content-Length: 1000000\r\n\r\n", *[b"x" * 1000] * 1000)
    assert found.content == [b"x" * 1_000_000]
    assert found.ended == 1


def test_an_unfinished_head_is_known() -> None:
    reader = RequestReader(Recorder())
    assert not reader.unfinished
    for piece in (b"\r\n", b"GET", b" / HTTP/1.1\r\nHost:"):
        reader.read(piece)
        assert reader.unfinished
    reader.read(b" x\r\n\r\n")
    assert not reader.unfinished
    reader.read(b"\r\n")
    assert reader.unfinished
