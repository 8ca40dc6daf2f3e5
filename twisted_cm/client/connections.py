"""How requests get to one emulator and their answers back, within a time limit."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from attrs import field, frozen
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.ssl import Certificate, platformTrust, trustRootFromCertificates
from twisted.internet.task import deferLater
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IPolicyForHTTPS
from typing_extensions import TypedDict

from ..model.finite import finite
from ..model.types import JSONValue
from .body import Body
from .errors import ComputeModulesError, TimedOut, api_error, not_an_emulator
from .failures import meaning
from .pool import ConnectionPool
from .retries import DEFAULT_RETRIES, Repeat, Retries
from .uploads import IteratedBody

T = TypeVar("T")

#: Seconds after which an attempt to connect fails.
CONNECT_TIMEOUT = 10.0


class ConnectionOptions(TypedDict, total=False):
    """The keyword arguments that every client takes. All are optional.

    Attributes:
        reactor: The source of time and sockets; the installed reactor by default.
        ca_certificate: The certificate in PEM to verify an https server with; by default, what the system trusts.
        agent: Sends the requests instead of the client's own persistent connections.
        retries: How often a request is repeated if that is safe; ``None`` for never.
    """

    reactor: Any
    ca_certificate: str | None
    agent: IAgent | None
    retries: Retries | None


@frozen
class Request:
    """One request.

    Attributes:
        path: The absolute path, percent-encoded.
        repeat: When it is safe to repeat the request.
    """

    method: str
    path: str
    headers: Mapping[str, str] = field(factory=dict)
    body: bytes | IteratedBody | None = None
    repeat: Repeat = Repeat.REFUSED


@frozen
class Answer:
    """A complete answer that is a success.

    Attributes:
        job_id: The job that the answer's ``X-Job-Id`` header names, or ``None``.
    """

    status: int
    content: bytes = field(repr=False)
    job_id: str | None

    def parse(self, parse: Callable[[JSONValue], T]) -> T:
        """Return what ``parse`` makes of the answer's JSON.

        Raises:
            ApiError: The answer is not JSON of the expected form, so the server is not an emulator.
        """
        try:
            return parse(json.loads(self.content))
        except (ValueError, LookupError, TypeError, AttributeError):
            raise not_an_emulator(self.status) from None


class Connections:
    """Requests to one emulator.

    Attributes:
        url: The emulator's base URL, without a slash at the end.
    """

    def __init__(
        self,
        url: str,
        *,
        reactor: Any = None,
        ca_certificate: str | None = None,
        agent: IAgent | None = None,
        retries: Retries | None = DEFAULT_RETRIES,
    ) -> None:
        """Prepare connections; the first request opens one.

        The keyword arguments are those of :class:`ConnectionOptions`.

        Raises:
            ValueError: ``url`` is not an http or https URL, or ``ca_certificate`` holds no certificate.
        """
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"{url} is not a URL; it must start with http:// or https://")
        if reactor is None:
            # Importing the reactor installs it, so only a client that needs the installed one does.
            from twisted.internet import reactor as installed

            reactor = installed
        self.url = url.rstrip("/")
        self.reactor = reactor
        self._retries = retries
        self._running: set[Deferred[Any]] = set()
        self._pool: ConnectionPool | None = None
        if agent is None:
            self._pool = ConnectionPool(reactor)
            agent = Agent(reactor, https_policy(ca_certificate), connectTimeout=CONNECT_TIMEOUT, pool=self._pool)
        self._http = HTTPClient(agent)

    async def close(self) -> None:
        """Cancel every request and close every connection; return when all are closed."""
        for running in list(self._running):
            running.cancel()
        if self._pool is not None:
            await self._pool.close()

    async def within(self, timeout: float | None, work: Awaitable[T]) -> T:
        """Await ``work``; :meth:`close` cancels it.

        Args:
            timeout: Seconds after which ``work`` is canceled, or ``None`` for no limit.

        Raises:
            TimedOut: The timeout expired.
            ValueError: The timeout is NaN or infinite.
        """
        try:
            finite("timeout", timeout)
        except ValueError:
            if isinstance(work, Coroutine):
                work.close()
            raise

        async def run() -> T:
            return await work

        running: Deferred[T] = Deferred.fromCoroutine(run())
        self._running.add(running)
        expired = False

        def expire() -> None:
            nonlocal expired
            expired = True
            running.cancel()

        timer = None if timeout is None else self.reactor.callLater(max(timeout, 0), expire)
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
        """Return a function that awaits one step of a stream after another.

        Args:
            timeout: Seconds for all steps together, counted from the first, or ``None`` for no limit.
        """
        deadline: float | None = None

        def within(work: Awaitable[Any]) -> Awaitable[Any]:
            nonlocal deadline
            if timeout is None:
                return self.within(None, work)
            if deadline is None:
                deadline = self.reactor.seconds() + timeout
            return self.within(deadline - self.reactor.seconds(), work)

        return within

    async def open(self, request: Request) -> Body:
        """Send a request; return the body of the answer, which the caller reads.

        Raises:
            ComputeModulesError: The request failed, or the answer is not a success.
        """

        async def once() -> Body:
            return (await self._open(request))[1]

        return await self._repeat(once, request.repeat)

    async def send(self, request: Request, timeout: float | None = None) -> Answer:
        """Send a request; return the complete answer.

        Args:
            timeout: Seconds for everything, including repetitions.

        Raises:
            ComputeModulesError: The request failed, or the answer is not a success.
        """

        async def once() -> Answer:
            status, body = await self._open(request)
            return Answer(status, await body.read(), body.job_id)

        return await self.within(timeout, self._repeat(once, request.repeat))

    async def _open(self, request: Request) -> tuple[int, Body]:
        try:
            response = await self._http.request(
                request.method,
                self.url + request.path,
                headers=Headers({name: [value] for name, value in request.headers.items()}),
                data=request.body,
                allow_redirects=False,
                unbuffered=True,
            )
        except Exception as error:
            raise meaning(error, self.url) from error
        finally:
            if isinstance(request.body, IteratedBody):
                request.body.answered()
        body = Body(response)
        if response.code >= 300:
            retry_after = response.headers.getRawHeaders("Retry-After", [None])[0]
            raise api_error(response.code, await body.read(), body.job_id, retry_after)
        return response.code, body

    async def _repeat(self, attempt: Callable[[], Coroutine[Any, Any, T]], repeat: Repeat) -> T:
        failures = 0
        while True:
            try:
                return await attempt()
            except ComputeModulesError as error:
                failures += 1
                delay = None if self._retries is None else self._retries.delay_after(error, failures, repeat)
                if delay is None:
                    raise
            await deferLater(self.reactor, delay)


def https_policy(ca_certificate: str | None) -> IPolicyForHTTPS:
    """Return the policy that verifies https servers.

    Args:
        ca_certificate: One or more certificates in PEM; ``None`` for what the system trusts.

    Raises:
        ValueError: ``ca_certificate`` holds no certificate.
    """
    if ca_certificate is None:
        trust: Any = platformTrust()
    else:
        certificates = x509.load_pem_x509_certificates(ca_certificate.encode("ascii"))
        trust = trustRootFromCertificates(
            [Certificate.loadPEM(each.public_bytes(Encoding.PEM)) for each in certificates]
        )
    policy: IPolicyForHTTPS = BrowserLikePolicyForHTTPS(trust)
    return policy
