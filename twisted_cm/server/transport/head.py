"""The head of a request."""

from __future__ import annotations

from typing import NamedTuple


class RequestHead(NamedTuple):
    """What the head of a request says.

    Attributes:
        method: The method.
        uri: The target, as it was sent.
        is_1_1: Whether the version is HTTP/1.1 and not HTTP/1.0.
        headers: The values of each header, by its name in lower case.
        length: The bytes of the body; ``None`` for chunked encoding.
        persistent: Whether the client may send another request on the connection.
    """

    method: bytes
    uri: bytes
    is_1_1: bool
    headers: dict[str, list[bytes]]
    length: int | None
    persistent: bool
