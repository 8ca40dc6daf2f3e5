"""What all clients have in common."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from types import TracebackType
from typing import Any, TypeVar

from typing_extensions import Self, Unpack

from ..model.finite import finite
from ..model.types import JSONValue
from .connections import Answer, ConnectionOptions, Connections, Request
from .retries import Repeat

T = TypeVar("T")


class Client:
    """A client of one emulator.

    Close it with :meth:`close`, or use it in an ``async with`` statement.
    """

    def __init__(self, connections: Connections, headers: dict[str, str]) -> None:
        """Make a client that sends ``headers``, which authenticate it, with every request."""
        self._connections = connections
        self._headers = headers

    @property
    def url(self) -> str:
        """The emulator's base URL."""
        return self._connections.url

    @property
    def reactor(self) -> Any:
        """The source of time and sockets."""
        return self._connections.reactor

    async def close(self) -> None:
        """Cancel every request and close every connection; return when all are closed."""
        await self._connections.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _request(
        self,
        method: str,
        path: str,
        body: JSONValue = None,
        repeat: Repeat = Repeat.REFUSED,
        wait: float | None = None,
    ) -> Request:
        """Return a request of this client.

        Args:
            body: Sent as JSON, unless it is ``None``.
            wait: Seconds that the emulator may park the request, rounded up to whole seconds.
        """
        headers = dict(self._headers)
        if wait is not None:
            finite("wait", wait)
            headers["Prefer"] = f"wait={math.ceil(wait)}"
        if body is None:
            return Request(method, path, headers, None, repeat)
        return json_request(method, path, headers, body, repeat)

    async def _send(
        self, method: str, path: str, body: JSONValue = None, repeat: Repeat = Repeat.REFUSED, wait: float | None = None
    ) -> Answer:
        return await self._connections.send(self._request(method, path, body, repeat, wait))

    async def _get(self, path: str, parse: Callable[[JSONValue], T], wait: float | None = None) -> T:
        """Return what ``parse`` makes of an answer's JSON. Reading changes nothing, so it is always repeated."""
        return (await self._send("GET", path, None, Repeat.ALWAYS, wait)).parse(parse)


class BearerClient(Client):
    """A client that authenticates with a bearer token. :class:`ComputeModules` describes its arguments."""

    def __init__(self, url: str, token: str | None = None, **options: Unpack[ConnectionOptions]) -> None:
        super().__init__(Connections(url, **options), bearer(token))


def bearer(token: str | None) -> dict[str, str]:
    """Return the header for a bearer token; no header for ``None``."""
    return {} if token is None else {"Authorization": f"Bearer {token}"}


def json_request(
    method: str, path: str, headers: dict[str, str], body: JSONValue, repeat: Repeat = Repeat.REFUSED
) -> Request:
    """Return a request with a JSON body."""
    return Request(method, path, {**headers, "Content-Type": "application/json"}, json.dumps(body).encode(), repeat)
