"""Requests that block."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import closing
from http.client import HTTPConnection
from urllib.parse import urlsplit

from ..client.errors import api_error
from ..model.types import JSONValue


class BlockingServer:
    """Requests to one server, each on a connection of its own, past any proxy."""

    def __init__(self, url: str, headers: Mapping[str, str]) -> None:
        self.address = urlsplit(url).netloc
        self.headers = dict(headers)

    def request(self, method: str, path: str, body: bytes | Iterator[bytes] | None = None, **headers: str) -> bytes:
        """
        @param body: an iterator is streamed.
        @raise twisted_cm.client.ApiError: the answer is not a success.
        """
        with closing(HTTPConnection(self.address)) as connection:
            return self.exchange(connection, method, path, body, **headers)

    def exchange(
        self,
        connection: HTTPConnection,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        **headers: str,
    ) -> bytes:
        """The same on a connection that is there."""
        connection.request(method, path, body, {**self.headers, **headers})
        answer = connection.getresponse()
        content = answer.read()
        if answer.status >= 300:
            raise api_error(answer.status, content, answer.getheader("X-Job-Id"), answer.getheader("Retry-After"))
        return content

    def ask(self, method: str, path: str, body: JSONValue = None, **headers: str) -> JSONValue:
        """
        @param body: sent as JSON, unless it is L{None}.
        @return: the answer, which is JSON or empty.
        """
        content = self.request(method, path, None if body is None else json.dumps(body).encode(), **headers)
        return json.loads(content) if content else None
