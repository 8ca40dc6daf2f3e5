"""Test the private attributes of Twisted that the server uses: each exists and does what the server assumes."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
from twisted.internet.testing import StringTransport
from twisted.logger import LogEvent, LogLevel, globalLogPublisher
from twisted.web.http import HTTPFactory, Request

import twisted_cm.server
from twisted_cm.server.transport.twisted_private import PRIVATE_ATTRIBUTES, OpenHTTPChannel, PrivateAttribute


def connected() -> OpenHTTPChannel:
    """Return a channel with a transport."""
    channel = OpenHTTPChannel()
    channel.factory = HTTPFactory()
    channel.makeConnection(StringTransport())
    return channel


@pytest.mark.parametrize("attribute", PRIVATE_ATTRIBUTES, ids=lambda attribute: attribute.name)
def test_twisted_still_has_it(attribute: PrivateAttribute) -> None:
    assert hasattr(attribute.owner(), attribute.name), (
        f"{attribute.owner.__qualname__} has no {attribute.name} any more"
    )


def test_respond_to_bad_request_and_disconnect_is_called_for_a_malformed_request() -> None:
    refused = []

    class Channel(OpenHTTPChannel):
        def refuse(self) -> None:
            refused.append(True)
            super().refuse()

    channel = Channel()
    channel.factory = HTTPFactory()
    channel.makeConnection(StringTransport())
    channel.dataReceived(b"this is not HTTP\r\n\r\n")
    assert refused
    assert channel.transport.value().startswith(b"HTTP/1.1 400 ")


def test_log_takes_the_lines_about_connections_that_time_out() -> None:
    logged = []

    def observe(event: LogEvent) -> None:
        if "iming out client" in event["log_format"]:
            logged.append((event["log_level"], event["log_namespace"]))

    globalLogPublisher.addObserver(observe)
    try:
        channel = connected()
        channel.abortTimeout = None
        channel.timeoutConnection()
        channel.forceAbortClient()
    finally:
        globalLogPublisher.removeObserver(observe)
    namespace = "twisted_cm.server.transport.twisted_private.OpenHTTPChannel"
    assert logged == [(LogLevel.debug, namespace)] * 2


def test_data_buffer_holds_the_requests_behind_the_current_one() -> None:
    channel = connected()
    request = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
    # The first request is never answered: its class does nothing.
    channel.dataReceived(request)
    assert channel.bytes_ahead == 0
    channel.dataReceived(request * 3)
    assert channel.bytes_ahead == len(request) * 3


def test_transfer_decoder_tells_which_piece_ends_a_chunk() -> None:
    received = []

    class Recorder(Request):
        def gotLength(self, length: int | None) -> None:
            pass

        def handleContentChunk(self, data: bytes) -> None:
            received.append((data, channel.at_chunk_end))

        def requestReceived(self, command: bytes, path: bytes, version: bytes) -> None:
            pass

    head = b"POST / HTTP/1.1\r\nHost: localhost\r\n"
    channel = connected()
    channel.requestFactory = Recorder
    for data in (
        head + b"Transfer-Encoding: chunked\r\n\r\n4\r\nab",
        b"cd",
        b"\r\n2\r\nef\r\n1\r\ng",
        b"\r\n0\r\n\r\n",
    ):
        channel.dataReceived(data)
    assert received == [(b"ab", False), (b"cd", True), (b"ef", True), (b"g", True)]
    received.clear()
    channel = connected()
    channel.requestFactory = Recorder
    channel.dataReceived(head + b"Content-Length: 3\r\n\r\nab")
    channel.dataReceived(b"c")
    assert received == [(b"ab", False), (b"c", False)]


def test_no_other_module_of_the_server_uses_a_private_attribute_of_another_object() -> None:
    root = Path(twisted_cm.server.__file__).parent
    for file in root.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if not isinstance(node, ast.Attribute) or not node.attr.startswith("_") or node.attr.startswith("__"):
                continue
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            assert own or file.name == "twisted_private.py", f"{file.relative_to(root)}:{node.lineno}: {node.attr}"
