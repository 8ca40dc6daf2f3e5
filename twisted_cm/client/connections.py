"""
Requests to one emulator and their answers: connections, what a failure means, and what is sent again.
"""

from __future__ import annotations

import enum
import json
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping
from typing import Any, TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL.SSL import Error as TLSError
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.error import ConnectError, ConnectingCancelledError, ConnectionClosed, DNSLookupError
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    Agent,
    BrowserLikePolicyForHTTPS,
    HTTPConnectionPool,
    RequestGenerationFailed,
    RequestTransmissionFailed,
    ResponseFailed,
)
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent

from ..model.types import JSONValue
from .errors import (
    AnswerLost,
    ApiError,
    CannotConnect,
    ComputeModulesError,
    TimedOut,
    UntrustedServer,
    api_error,
    no_emulator,
)
from .streams import Body
from .uploads import IteratedBody

T = TypeVar("T")


#: Seconds that a connection may take to be made.
_CONNECT_TIMEOUT = 10.0


#: Seconds that an idle connection is kept: fewer than the emulator keeps it, so that it is not closed under a request.
_IDLE_TIMEOUT = 30


class Repeat(enum.Enum):
    """When a request that failed may be sent again."""

    #: Only if it was never sent.
    UNSENT = enum.auto()
    #: Also if the server refused it for now: 429 or 503 with C{Retry-After}, and no job made of it.
    REFUSED = enum.auto()
    #: Also if its answer was lost: a second time changes nothing.
    ALWAYS = enum.auto()


@frozen
class Retries:
    """
    How often a request is sent again, where that is safe, and after how long.

    The time between doubles, and is shortened by up to a half at random, so that clients which
    lost the same server do not come back as one.  Where the server asks for a longer time, that counts.

    @ivar attempts: how many times a request is sent at most, the first one included.
    @ivar initial: seconds before the second.
    @ivar maximum: the most seconds between two; where a server asks for more, its error is raised.
    """

    attempts: int = 5
    initial: float = 0.1
    maximum: float = 5.0

    def delay(self, failures: int) -> float:
        """
        @param failures: how many attempts have failed.
        @return: seconds until the next.
        """
        seconds: float = min(self.maximum, self.initial * 2 ** (failures - 1))
        return seconds * random.uniform(0.5, 1)


@frozen
class Answer:
    """
    An answer that is a success, its body whole.

    @ivar job_id: what its C{X-Job-Id} header says.
    """

    status: int
    content: bytes = field(repr=False)
    job_id: str | None


class _Pool(HTTPConnectionPool):
    """
    Persistent connections that can all be closed, busy ones too.

    It sends nothing again by itself: which requests may be is not a matter of their method here.
    """

    cachedConnectionTimeout = _IDLE_TIMEOUT
    retryAutomatically = False

    def __init__(self, reactor: Any) -> None:
        super().__init__(reactor)  # type: ignore[no-untyped-call]
        self._lost: dict[Any, Deferred[None]] = {}

    def getConnection(self, key: Any, endpoint: IStreamClientEndpoint) -> Deferred[Any]:
        """See L{HTTPConnectionPool}."""
        return super().getConnection(key, endpoint).addCallback(self._note)

    def _note(self, connection: Any) -> Any:
        if connection not in self._lost:
            lost = self._lost[connection] = Deferred()
            tell = connection.connectionLost

            def connection_lost(reason: Failure) -> None:
                tell(reason)
                del self._lost[connection]
                lost.callback(None)

            connection.connectionLost = connection_lost
        return connection

    async def close(self) -> None:
        """Close every connection; returns when none is left."""
        closing = [self.closeCachedConnections(), *self._lost.values()]
        for connection in list(self._lost):
            connection.transport.abortConnection()
        await DeferredList(closing)


class Connections:
    """
    Requests to one emulator.

    @ivar url: its base URL, with no slash at its end.
    """

    def __init__(
        self,
        url: str,
        reactor: Any = None,
        ca_certificate: str | None = None,
        agent: IAgent | None = None,
        retries: Retries | None = None,
    ) -> None:
        """
        @param reactor: time and sockets; L{None} for the installed one.
        @param ca_certificate: in PEM, what an https server is verified with; L{None} for what the system trusts.
        @param agent: takes the place of connections of its own.
        @raise ValueError: C{url} is no http or https URL, or C{ca_certificate} holds no certificate.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url} is no URL; it must start with http:// or https://")
        if reactor is None:
            from twisted.internet import reactor as installed

            reactor = installed
        self.url = url.rstrip("/")
        self._reactor = reactor
        self._retries = retries
        self._running: set[Deferred[Any]] = set()
        self._pool: _Pool | None = None
        if agent is None:
            self._pool = _Pool(reactor)
            policy = BrowserLikePolicyForHTTPS(_trust(ca_certificate))
            agent = Agent(reactor, policy, connectTimeout=_CONNECT_TIMEOUT, pool=self._pool)
        self._http = HTTPClient(agent)

    async def close(self) -> None:
        """Cancel what still runs and close every connection; returns when none is left."""
        for running in list(self._running):
            running.cancel()
        if self._pool is not None:
            await self._pool.close()

    async def within(self, timeout: float | None, work: Awaitable[T]) -> T:
        """
        @param timeout: seconds that C{work} may take.
        @raise TimedOut: it took longer, and was canceled.
        """

        async def run() -> T:
            return await work

        running: Deferred[T] = Deferred.fromCoroutine(run())
        self._running.add(running)
        expired: list[bool] = []

        def expire() -> None:
            expired.append(True)
            running.cancel()

        timer = None if timeout is None else self._reactor.callLater(max(timeout, 0), expire)
        try:
            return await running
        except CancelledError:
            if not expired:
                raise
            raise TimedOut(f"There was no answer within {timeout:g} seconds.") from None
        finally:
            self._running.discard(running)
            if timer is not None and timer.active():
                timer.cancel()

    def stream_within(self, timeout: float | None) -> Callable[[Awaitable[Any]], Awaitable[Any]]:
        """
        @return: awaits each of several things, which may take C{timeout} seconds together from the first on.
        """
        deadline: float | None = None

        def within(work: Awaitable[Any]) -> Awaitable[Any]:
            nonlocal deadline
            if timeout is None:
                return self.within(None, work)
            if deadline is None:
                deadline = self._reactor.seconds() + timeout
            return self.within(deadline - self._reactor.seconds(), work)

        return within

    async def open(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | IteratedBody | None = None,
        repeat: Repeat = Repeat.REFUSED,
    ) -> Body:
        """
        @param path: the absolute path, percent-encoded.
        @return: the body of an answer that is a success, yet to be read.
        @raise ComputeModulesError: there is none.
        """

        async def once() -> Body:
            return (await self._open(method, path, headers, body))[1]

        return await self._repeat(once, repeat)

    async def request(
        self,
        method: str,
        path: str,
        headers: Mapping[str, str],
        body: bytes | IteratedBody | None = None,
        repeat: Repeat = Repeat.REFUSED,
        timeout: float | None = None,
    ) -> Answer:
        """
        @param path: the absolute path, percent-encoded.
        @param timeout: seconds for all of it, repetitions included.
        @return: an answer that is a success.
        @raise ComputeModulesError: there is none.
        """

        async def once() -> Answer:
            status, content = await self._open(method, path, headers, body)
            return Answer(status, await content.read(), content.job_id)

        return await self.within(timeout, self._repeat(once, repeat))

    async def _open(
        self, method: str, path: str, headers: Mapping[str, str], body: bytes | IteratedBody | None
    ) -> tuple[int, Body]:
        try:
            response = await self._http.request(
                method,
                self.url + path,
                headers=Headers({name: [value] for name, value in headers.items()}),
                data=body,
                allow_redirects=False,
                unbuffered=True,
            )
        except Exception as error:
            raise _meaning(error, self.url) from error
        finally:
            if isinstance(body, IteratedBody):
                body.answered()
        content = Body(response)
        if response.code >= 300:
            retry_after = response.headers.getRawHeaders("Retry-After", [None])[0]
            raise api_error(response.code, await content.read(), content.job_id, retry_after)
        return response.code, content

    async def _repeat(self, attempt: Callable[[], Coroutine[Any, Any, T]], repeat: Repeat) -> T:
        failures = 0
        while True:
            try:
                return await attempt()
            except ComputeModulesError as error:
                failures += 1
                delay = self._delay(error, failures, repeat)
                if delay is None:
                    raise
            await deferLater(self._reactor, delay)

    def _delay(self, error: ComputeModulesError, failures: int, repeat: Repeat) -> float | None:
        """Seconds until the request is sent again, or L{None} if it is not."""
        if self._retries is None or failures >= self._retries.attempts or isinstance(error, UntrustedServer):
            return None
        if isinstance(error, CannotConnect) or (isinstance(error, AnswerLost) and repeat is Repeat.ALWAYS):
            return self._retries.delay(failures)
        if not isinstance(error, ApiError) or error.status not in (429, 503) or error.retry_after is None:
            return None
        # A caller that was parked when the server shut down is refused too, but its job is there.
        refused = repeat is Repeat.ALWAYS or (repeat is Repeat.REFUSED and error.job_id is None)
        if not refused or error.retry_after > self._retries.maximum:
            return None
        return max(error.retry_after, self._retries.delay(failures))


def understand(answer: Answer, parse: Callable[[JSONValue], T]) -> T:
    """
    @param parse: makes a record of the answer's JSON.
    @raise ApiError: the answer is no emulator's.
    """
    try:
        return parse(json.loads(answer.content))
    except (ValueError, LookupError, TypeError, AttributeError):
        raise no_emulator(answer.status) from None


def _trust(ca_certificate: str | None) -> Any:
    if ca_certificate is None:
        return platformTrust()
    certificates = x509.load_pem_x509_certificates(ca_certificate.encode("ascii"))
    return trustRootFromCertificates([Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in certificates])


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and those that it was made from."""
    yield error
    for reason in getattr(error, "reasons", None) or ():
        yield from _causes(reason.value)


def _meaning(error: Exception, url: str) -> Exception:
    """What a request that failed is to be raised as."""
    causes = list(_causes(error))
    reason = str(causes[-1]).rstrip(".") or type(causes[-1]).__name__
    if any(isinstance(each, CancelledError | ConnectingCancelledError) for each in causes):
        return CancelledError()
    if isinstance(error, RequestGenerationFailed) and isinstance(causes[-1], Exception):
        return causes[-1]
    if any(isinstance(each, TLSError) for each in causes):
        return UntrustedServer(f"{url} cannot be trusted: {reason}")
    if isinstance(error, ConnectError | DNSLookupError | RequestNotSent):
        return CannotConnect(f"{url} cannot be reached: {reason}")
    if isinstance(error, RequestTransmissionFailed | ResponseFailed | ConnectionClosed):
        return AnswerLost(f"The connection to {url} was lost before its answer: {reason}")
    return error
