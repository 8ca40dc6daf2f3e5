"""
An HTTP client of the emulator, on treq, for the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import treq
from attrs import define, field
from treq.client import HTTPClient
from twisted.internet.interfaces import IReactorTime
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS, HTTPConnectionPool
from twisted.web.http_headers import Headers

from .jobs import JSONValue


class ServerError(Exception):
    """
    An answer that is not a success (contract section 4).

    @ivar status: the HTTP status.
    @ivar error: the kind, such as C{job_failed}.
    @ivar job_id: the job it is about, if the answer names one.
    """

    def __init__(self, status: int, error: str, description: str, job_id: str | None = None) -> None:
        super().__init__(description)
        self.status = status
        self.error = error
        self.job_id = job_id


@define(eq=False)
class EmulatorClient:
    """
    Requests to one emulator.

    @ivar url: its base URL, http or https.
    @ivar token: the bearer or admin token to send, if any.
    @ivar ca_certificate: in PEM, what an https server is verified with besides the system's own authorities.
    """

    reactor: IReactorTime
    url: str
    token: str | None = field(default=None, repr=False)
    ca_certificate: str | None = None
    _http: HTTPClient = field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        trust = platformTrust()
        if self.ca_certificate is not None:
            trust = trustRootFromCertificates([Certificate.loadPEM(self.ca_certificate.encode("ascii"))])
        self.url = self.url.rstrip("/")
        pool = HTTPConnectionPool(self.reactor, persistent=False)
        self._http = HTTPClient(Agent(self.reactor, BrowserLikePolicyForHTTPS(trust), connectTimeout=10, pool=pool))

    async def request(
        self,
        method: str,
        path: str,
        body: JSONValue = None,
        headers: Mapping[str, str] | None = None,
    ) -> Any:
        """
        @param path: the absolute path, percent-encoded.
        @param body: sent as JSON, unless it is L{None}.
        @return: the answer, its body unread.
        @raise ServerError: the answer is not a success.
        """
        sent = dict(headers or {})
        if self.token is not None:
            sent["Authorization"] = f"Bearer {self.token}"
        options: dict[str, Any] = {} if body is None else {"json": body}
        response = await self._http.request(
            method,
            self.url + path,
            headers=Headers({name: [value] for name, value in sent.items()}),
            unbuffered=True,
            **options,
        )
        if response.code >= 400:
            raise _server_error(response.code, await treq.content(response))
        return response

    async def request_json(
        self, method: str, path: str, body: JSONValue = None, headers: Mapping[str, str] | None = None
    ) -> JSONValue:
        """
        @return: the answer's body, as JSON.
        @raise ServerError: as with L{request}.
        """
        return json.loads(await treq.content(await self.request(method, path, body, headers)))

    async def stream(self, method: str, path: str, body: JSONValue, write: Callable[[bytes], None]) -> None:
        """
        Write an answer's body as it arrives.

        @raise ServerError: as with L{request}.
        @raise twisted.web.client.ResponseFailed: the answer broke off.
        """
        await treq.collect(await self.request(method, path, body), write)


def _server_error(status: int, content: bytes) -> ServerError:
    try:
        answer = json.loads(content)
        return ServerError(
            status, answer["error"], answer["error_description"], answer.get("parameters", {}).get("jobId")
        )
    except (ValueError, KeyError, TypeError, AttributeError):
        return ServerError(status, "unknown", f"The server answered {status}; is it an emulator of compute modules?")
