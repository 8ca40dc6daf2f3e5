"""What an emulator is to the servers that it passes requests on to."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ...model.proxies import Proxy
from ..transport.request import EmulatorRequest

if TYPE_CHECKING:
    from .sender import Sender


class Upstream:
    """The way to other servers, if anything is passed on to one.

    Attributes:
        pseudonym: The name of this emulator in ``Via``. No other process has it.
    """

    def __init__(self, reactor: Any) -> None:
        self.pseudonym = b"twisted-cm-" + secrets.token_hex(8).encode("ascii")
        self._reactor = reactor
        self._sender: Sender | None = None

    def prepare(self) -> Sender:
        """Load what sends requests. An emulator that passes nothing on does without the client's packages."""
        if self._sender is None:
            from .sender import Sender

            self._sender = Sender(self._reactor)
        return self._sender

    async def send(self, request: EmulatorRequest, proxy: Proxy, uri: bytes, headers: Headers) -> IResponse:
        """Pass a request on: see :meth:`.Sender.send`."""
        return await self.prepare().send(request, proxy, uri, headers)

    async def close(self) -> None:
        """Close every connection."""
        if self._sender is not None:
            await self._sender.close()
