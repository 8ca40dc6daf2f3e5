"""Which requests are passed on to other servers."""

from __future__ import annotations

from attrs import frozen


@frozen
class Proxy:
    """A prefix of paths, and the server that requests to it are passed on to.

    Attributes:
        prefix: The first segments of the paths, such as ``/stream-proxy``.
        url: The URL of the server, which may have a path of its own.
        all_headers: Whether the server receives all headers of the caller, credentials too, and may set cookies.
    """

    prefix: str
    url: str
    all_headers: bool = False
