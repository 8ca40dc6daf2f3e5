"""The client side of requests that are passed on: how they get to a server, and why some do not."""

from __future__ import annotations

from typing import Any

from OpenSSL.SSL import Error as TLSError
from service_identity import VerificationError
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionRefusedError, DNSLookupError, TimeoutError
from twisted.web.client import Agent, RequestGenerationFailed
from twisted.web.http_headers import Headers
from twisted.web.iweb import IResponse

from ...client.connections import CONNECT_TIMEOUT
from ...client.errors import AnswerLost, CannotConnect, UntrustedServer
from ...client.failures import meaning
from ...model.proxies import Proxy
from .. import errors
from ..transport.body import BodyLost
from ..transport.request import EmulatorRequest
from .connection import AnsweringPool
from .patience import ANSWER_TIMEOUT, Patience
from .streams import PassedBody


class Sender:
    """Sends requests to other servers, each over a connection of its own, and follows no redirects."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        self._pool = AnsweringPool(reactor)
        self._agent = Agent(reactor, connectTimeout=CONNECT_TIMEOUT, pool=self._pool)

    async def send(self, request: EmulatorRequest, proxy: Proxy, uri: bytes, headers: Headers) -> IResponse:
        """Pass a request on, its body at the server's pace; return the answer, whose body is still to be read.

        Raises:
            ApiError: 502 if there is no answer, 400 if the request cannot be passed on.
        """
        patience = Patience(self._reactor)
        body = None if request.body.length == 0 else PassedBody(request, patience)
        try:
            asking: Deferred[Any] = self._agent.request(request.method, uri, headers, body)
        except ValueError:
            raise errors.invalid_request(
                "The request has a method or a path with characters that are not allowed there."
            ) from None
        patience.watch(asking)
        patience.start()
        try:
            response: IResponse = await asking
        except Exception as error:
            if patience.expired:
                raise errors.bad_gateway(proxy.prefix, f"did not answer within {ANSWER_TIMEOUT:g} seconds") from None
            raise _refusal(error, proxy) from None
        finally:
            patience.stop()
        return response

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()


def _refusal(error: Exception, proxy: Proxy) -> Exception:
    """Return the exception to raise for a request that has no answer."""
    found = meaning(error, proxy.url)
    if isinstance(found, CancelledError | BodyLost | errors.ApiError):
        return found
    return errors.bad_gateway(proxy.prefix, _what_failed(error, found))


def _what_failed(error: Exception, found: Exception) -> str:
    reasons = [each.value for each in getattr(error, "reasons", None) or ()]
    if isinstance(found, UntrustedServer) or any(isinstance(each, TLSError | VerificationError) for each in reasons):
        return "has no certificate that is trusted"
    if isinstance(error, DNSLookupError):
        return "has a name that cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "refused the connection"
    if isinstance(error, TimeoutError):
        return f"could not be connected to within {CONNECT_TIMEOUT:g} seconds"
    if isinstance(found, CannotConnect):
        return "cannot be reached"
    if isinstance(error, RequestGenerationFailed):
        return "did not get the whole request"
    if isinstance(found, AnswerLost):
        return "closed the connection before it answered"
    return "did not answer in HTTP"
