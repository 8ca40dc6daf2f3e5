"""Send HTTP requests that block, with nothing but the standard library."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ..client.errors import api_error
from ..model.types import JSONValue


class BlockingServer:
    """One server, as a target of requests that block.

    Requests ignore the proxies that the environment names, because an emulator for tests is on this machine.

    Attributes:
        address: Host and port.
        headers: Headers of each request.
    """

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.address = urlsplit(url).netloc
        self.headers = dict(headers)

    def request(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> bytes:
        """Send a request on a new connection and return the body of the answer.

        Args:
            body: An iterator is streamed.

        Raises:
            ApiError: The status of the answer is 300 or higher.
        """
        with closing(HTTPConnection(self.address)) as connection:
            return self.request_on(connection, method, path, body, **headers)

    def request_on(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        **headers: str,
    ) -> bytes:
        """Send a request as :meth:`request` does, on a connection of the caller."""
        connection.request(method, path, body, {**self.headers, **headers})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise api_error(answer.status, content, answer.getheader("X-Job-Id"), answer.getheader("Retry-After"))
        return content

    def request_json(self, method: str, path: str, body: JSONValue = None, **headers: str) -> JSONValue:
        """Send a JSON body, unless it is ``None``, and return the parsed answer, or ``None`` if that is empty."""
        content = self.request(method, path, None if body is None else json.dumps(body).encode(), **headers)
        return json.loads(content) if content else None
