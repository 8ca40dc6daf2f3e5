"""
How it runs: the emulator as an L{IService}, and the listeners it is made of.

Sockets are bound when the service is made, not when it starts, so that a port
in use is known before a daemon detaches or a privilege is dropped.
"""

from __future__ import annotations

import ipaddress
import os
import resource
import select
import signal
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

from attrs import Factory, evolve, field, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import (
    IListeningPort,
    IProtocolFactory,
    IReactorFromThreads,
    IReactorTime,
    IReadDescriptor,
)
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory
from twisted.python.failure import Failure
from zope.interface import implementer

from .broker import BrokerError, IBroker, MemoryBroker
from .credentials import DEVELOPMENT_TOKEN, Credentials, ITokenStore, MemoryTokens
from .faults import FaultBook, IFaultBook
from .http.app import emulator_site, sidecar_site
from .http.browsers import BrowserGuard
from .http.context import Addresses, Context, Limits
from .http.site import EmulatorSite
from .metrics import Metrics
from .recording import CannotRecord, Recorder
from .seed import InvalidSeed, Seed, Sidecar, read_seed
from .tls import ServerCertificate

DEFAULT_PORT = 4000
DEFAULT_TLS_PORT = 4443

#: Seconds that connections may take to end at shutdown before they are cut off.
SHUTDOWN_GRACE = 4.0

#: Seconds that the broker may take to say that it is there before the emulator counts as not ready.
PING_TIMEOUT = 2.0

_BACKLOG = 4096

#: How many files a server should be able to open: each party that parks has a connection, and each is a file.
_WANTED_FILES = 8192

_log = Logger()


class CannotStart(Exception):
    """The service cannot be made; the message says what to do."""


@frozen
class Settings:
    """
    Everything that a service is made from.

    @ivar listen: whether to listen at all; L{False} for an emulator that is used through its C{site} alone.
    @ivar interface: the address to listen on.
    @ivar port: for plain HTTP; 0 picks a free one.
    @ivar tls_port: for HTTPS; 0 picks a free one.
    @ivar certificate: for HTTPS; L{None} for no TLS listener at all.
    @ivar allowed_hosts: names that clients may call it by on loopback, beside localhost and addresses.
    @ivar cors_origins: the origins of web pages that may call it.
    @ivar record: the file that each job is appended to when it ends, or L{None}.
    @ivar broker: the URL of the Redis to share with other emulators; L{None} to keep everything in this process.
    @ivar base_url: what session URIs are built on, in place of what a request came in with.
    """

    seed: Seed = Factory(Seed)
    listen: bool = True
    interface: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    tls_port: int = DEFAULT_TLS_PORT
    certificate: ServerCertificate | None = None
    admin_token: str | None = field(default=None, repr=False)
    base_url: str | None = None
    limits: Limits = Factory(Limits)
    sidecars: tuple[Sidecar, ...] = ()
    allowed_hosts: tuple[str, ...] = ()
    cors_origins: tuple[str, ...] = ()
    record: Path | None = None
    broker: str | None = field(default=None, repr=False)


def limits_of(
    seed: Seed, poll_timeout: float | None = None, sync_timeout: float | None = None, max_body: int | None = None
) -> Limits:
    """
    @return: the limits that are given, or else the seed's, or else the default ones.
    """
    default = Limits()
    return Limits(
        next(each for each in (poll_timeout, seed.poll_timeout, default.poll_timeout) if each is not None),
        next(each for each in (sync_timeout, seed.sync_timeout, default.sync_timeout) if each is not None),
        default.max_body if max_body is None else max_body,
    )


def is_loopback(interface: str) -> bool:
    """
    @return: whether an address to listen on can be reached from this machine only.
    """
    if interface == "localhost":
        return True
    try:
        return ipaddress.ip_address(interface).is_loopback
    except ValueError:
        return False


def raise_file_limit() -> None:
    """Let this process open as many files as it may, and say so if they are few."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
            soft = hard
        except (ValueError, OSError):
            # Some systems have a limit below what they say is the limit.
            pass
    if soft != resource.RLIM_INFINITY and soft < _WANTED_FILES:
        _log.warn(
            "only {limit} files may be open, and each connection is one; raise that with ulimit -Hn {wanted}",
            limit=soft,
            wanted=_WANTED_FILES,
        )


def _bind(interface: str, port: int, option: str) -> socket.socket:
    """Bind and listen; C{option} is what the user would change."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            interface, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise CannotStart(f"cannot listen on {interface}: {error}; choose another address with --interface") from None
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(_BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise CannotStart(
            f"cannot listen on {interface} port {port}: {error.strerror}; choose another port with {option},"
            " 0 for any that is free"
        ) from None
    return listener


def _refuse_more(listener: socket.socket, port: Any) -> None:
    """
    Take in whoever has connected already, and refuse everybody else at once.

    A port that is told to stop still has its socket for a turn of the reactor,
    in which clients could connect and never be answered.
    """
    waiting = select.poll()
    waiting.register(listener, select.POLLIN)
    for _ in range(_BACKLOG):
        if not waiting.poll(0):
            break
        port.doRead()
    # Where this is not known, the socket is closed a turn later.
    with suppress(OSError):
        listener.shutdown(socket.SHUT_RDWR)


def _port_of(listener: socket.socket) -> int:
    port: int = listener.getsockname()[1]
    return port


def _url(scheme: str, interface: str, listener: socket.socket | None) -> str | None:
    if listener is None:
        return None
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(interface, interface)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{_port_of(listener)}"


#: A site, and the sockets to serve it on.
_Listener: TypeAlias = tuple[EmulatorSite, socket.socket | None, socket.socket | None]


@frozen
class _SidecarSockets:
    runtime_id: str
    plain: socket.socket | None
    tls: socket.socket | None


def _parts(reactor: IReactorTime, settings: Settings) -> tuple[IBroker, IFaultBook, ITokenStore]:
    """What the emulators that share a Redis have in common, or what one has for itself."""
    seed = settings.seed
    if settings.broker is None:
        return (
            MemoryBroker(reactor, seed.registry(), seed.job_limits),
            FaultBook(seed.faults),
            MemoryTokens(reactor.seconds),
        )
    try:
        from .redis.broker import RedisBroker
        from .redis.node import InvalidAddress, RedisNode, parse_address
        from .redis.stores import RedisFaults, RedisTokens
    except ModuleNotFoundError as error:
        raise CannotStart(
            f"a broker on Redis needs {error.name}; install it with: pip install 'twisted-cm[redis]'"
        ) from None
    try:
        node = RedisNode(reactor, parse_address(settings.broker))
    except InvalidAddress as error:
        raise CannotStart(f"{error}; change it with --broker") from None
    return (
        RedisBroker(node, seed.registry(), seed.job_limits),
        RedisFaults(node, seed.faults),
        RedisTokens(node),
    )


class SeedReloader(Service):
    """Reads the seed file again on SIGHUP; a bad one changes nothing and is said in the log."""

    _log = Logger()

    def __init__(self, reactor: IReactorFromThreads, service: EmulatorService, path: Path | None) -> None:
        """
        @param path: the seed file, or L{None} where there is none.
        """
        self._reactor = reactor
        self._service = service
        # A daemon has another working directory.
        self._path = None if path is None else path.absolute()

    def startService(self) -> None:
        """Listen to SIGHUP, where there is one."""
        super().startService()  # type: ignore[no-untyped-call]
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))

    def reload(self) -> Deferred[None]:
        """
        @return: fires when the seed has taken effect, or was refused.
        """
        if self._path is None:
            self._log.warn("SIGHUP: there is no seed file to read; name one with --seed")
            return succeed(None)
        try:
            seed = read_seed(self._path)
        except InvalidSeed as error:
            for problem in error.problems:
                self._log.error("seed not reloaded: {problem}", problem=problem)
            return succeed(None)
        reseeded: Deferred[None] = Deferred.fromCoroutine(self._service.reseed(seed))
        return reseeded.addErrback(lambda failure: self._log.failure("seed not reloaded", failure))


@implementer(IReadDescriptor)
class StopWithStdin:
    """Stops the reactor when standard input ends; what comes before its end means nothing."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        reactor.addReader(self)

    def fileno(self) -> int:
        """See L{IReadDescriptor}."""
        return 0

    def logPrefix(self) -> str:
        """See L{IReadDescriptor}."""
        return "stdin"

    def doRead(self) -> None:
        """See L{IReadDescriptor}."""
        with suppress(InterruptedError, BlockingIOError):
            if not os.read(0, 65536):
                self._reactor.removeReader(self)
                self._reactor.stop()

    def connectionLost(self, reason: Failure) -> None:
        """See L{IReadDescriptor}: its other side is gone, or the reactor has stopped for another reason."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()


class EmulatorService(Service):
    """
    The emulator: a broker, and the listeners over it.

    @ivar settings: what it was made from.
    @ivar broker: who waits for whom.
    @ivar metrics: what has been counted since it was made.
    @ivar site: the protocol factory of the main listeners; there once the service has started.
    @ivar context: what the routes share; there once the service has started.
    @ivar addresses: where it is reached; valid as soon as the service is made.
    @ivar sidecar_addresses: the same for each sidecar listener, by runtime id.
    """

    _log = Logger()
    site: EmulatorSite
    context: Context

    def __init__(self, reactor: IReactorTime, settings: Settings) -> None:
        """
        @raise CannotStart: a port is taken, a listener would be open to the
            network without an admin token, the certificate is of no use, or
            the file to record to cannot be written.
        """
        self.settings = settings
        self._reactor = reactor
        guarded = not is_loopback(settings.interface)
        if guarded and settings.admin_token is None:
            raise CannotStart(
                f"{settings.interface} can be reached from other machines; set an admin token with --admin-token or"
                " TWISTED_CM_ADMIN_TOKEN, or listen on 127.0.0.1"
            )
        self._seed = settings.seed
        self.broker, self.faults, tokens = _parts(reactor, settings)
        self._seed_loaded = False
        self.metrics = Metrics(lambda: sum(len(site.channels) for site in self._sites))
        self.broker.observe(self.metrics.changed)
        self.credentials = Credentials(
            reactor.seconds,
            settings.seed.bearer_tokens,
            settings.admin_token,
            guarded,
            settings.seed.oauth_clients,
            tokens,
        )
        self._options = settings.certificate.options() if settings.certificate is not None else None
        self._sockets: list[socket.socket] = []
        try:
            self._plain = self._open(settings.interface, settings.port, "--port")
            self._tls = self._open_tls(settings.interface, settings.tls_port, "--tls-port")
            self._sidecars = [
                _SidecarSockets(
                    sidecar.runtime_id,
                    self._open("127.0.0.1", sidecar.port, "--sidecar-port"),
                    self._open_tls("127.0.0.1", sidecar.tls_port, "--sidecar-tls-port"),
                )
                for sidecar in settings.sidecars
            ]
            self._recorder = None if settings.record is None else Recorder(reactor, settings.record)
        except CannotStart:
            self._close_sockets()
            raise
        except CannotRecord as error:
            self._close_sockets()
            raise CannotStart(str(error)) from None
        self.addresses = self._addresses(settings.interface, self._plain, self._tls)
        self.sidecar_addresses = {
            sidecar.runtime_id: self._addresses("127.0.0.1", sidecar.plain, sidecar.tls) for sidecar in self._sidecars
        }
        self._ports: list[tuple[socket.socket, IListeningPort]] = []
        self._sites: list[EmulatorSite] = []

    def _open(self, interface: str, port: int, option: str) -> socket.socket | None:
        if not self.settings.listen:
            return None
        listener = _bind(interface, port, option)
        self._sockets.append(listener)
        return listener

    def _open_tls(self, interface: str, port: int, option: str) -> socket.socket | None:
        return None if self._options is None else self._open(interface, port, option)

    def _close_sockets(self) -> None:
        for listener in self._sockets:
            listener.close()
        self._sockets.clear()

    def _addresses(self, interface: str, plain: socket.socket | None, tls: socket.socket | None) -> Addresses:
        certificate = self.settings.certificate
        return Addresses(
            http=_url("http", interface, plain),
            https=_url("https", interface, tls),
            ca_certificate=None if certificate is None else certificate.ca_certificate,
            base_url=self.settings.base_url,
        )

    def _browser_guard(self) -> BrowserGuard:
        hosts = None
        if not self.credentials.guarded:
            base_url = urlsplit(self.settings.base_url or "").hostname
            named = (*self.settings.allowed_hosts, base_url, self.settings.interface)
            hosts = frozenset(name.lower() for name in named if name)
        return BrowserGuard(hosts, frozenset(self.settings.cors_origins))

    def startService(self) -> None:
        """Take connections on the sockets that were bound, once it is known whether there is a broker."""
        super().startService()  # type: ignore[no-untyped-call]
        context = self.context = Context(
            reactor=self._reactor,
            broker=self.broker,
            credentials=self.credentials,
            limits=self.settings.limits,
            addresses=self.addresses,
            faults=self.faults,
            reset=self.reset,
            guard=self._browser_guard(),
            metrics=self.metrics,
            readiness=self.readiness,
            validate_queries=self._seed.validate_queries,
            started_at=int(self._reactor.seconds() * 1000),
        )
        if self._recorder is not None:
            self._recorder.start(self.broker)
        self.site = emulator_site(context)
        listeners: list[_Listener] = [(self.site, self._plain, self._tls)]
        for sidecar in self._sidecars:
            addressed = evolve(context, addresses=self.sidecar_addresses[sidecar.runtime_id])
            listeners.append((sidecar_site(addressed, sidecar.runtime_id), sidecar.plain, sidecar.tls))
        self._sites += [site for site, _, _ in listeners]
        for warning in self._seed.warnings:
            self._log.warn("seed: {warning}", warning=warning)
        self.broker.start().addCallback(lambda _: self._listen(listeners))

    def _listen(self, listeners: list[_Listener]) -> None:
        if not self.running:
            return
        self._seed_loaded = True
        for site, plain, tls in listeners:
            self._serve(site, plain, tls)
        for url in self.urls():
            self._log.info("listening on {url}", url=url)

    async def reset(self) -> None:
        """
        Go back to the seed: its runtimes, bindings and faults, no jobs, no
        schemas.  Whoever is parked is answered.  Tokens stay valid.
        """
        self._seed_loaded = False
        await self.broker.reset(self._seed.registry())
        self._seed_loaded = True
        await self.faults.replace(self._seed.faults)

    async def reseed(self, seed: Seed) -> None:
        """
        Make what differs from the seed so far take effect: runtimes, deployed
        apps, tokens, OAuth clients and faults.  Ports, time-outs, limits, the
        broker and sidecars are those of the start.
        """
        self._seed_loaded = False
        await self.broker.reseed(seed.registry())
        self._seed_loaded = True
        self.credentials.replace(seed.bearer_tokens, seed.oauth_clients)
        if seed.development_token and not self._seed.development_token:
            self._log.warn("the seed has no tokens any more, so {token} is valid", token=DEVELOPMENT_TOKEN)
        await self.faults.reseed(seed.faults)
        self._seed = seed
        for warning in seed.warnings:
            self._log.warn("seed: {warning}", warning=warning)

    async def readiness(self) -> dict[str, bool]:
        """
        @return: whether it listens and is not about to stop, whether the
            broker can be used, and whether the seed has taken effect.
        """
        try:
            await self.broker.ping().addTimeout(PING_TIMEOUT, self._reactor)
            broker = True
        except (BrokerError, TimeoutError):
            broker = False
        return {"listening": bool(self.running), "broker": broker, "seed": self._seed_loaded}

    def urls(self) -> Iterator[str]:
        """
        @return: the base URL of every listener.
        """
        for addresses in (self.addresses, *self.sidecar_addresses.values()):
            yield from (url for url in (addresses.http, addresses.https) if url is not None)

    def _serve(self, site: EmulatorSite, plain: socket.socket | None, tls: socket.socket | None) -> None:
        if plain is not None:
            self._adopt(plain, site)
        if tls is not None:
            assert self._options is not None
            self._adopt(tls, TLSMemoryBIOFactory(self._options, False, site, self._reactor))

    def _adopt(self, listener: socket.socket, factory: IProtocolFactory) -> None:
        reactor: Any = self._reactor
        port = reactor.adoptStreamPort(listener.fileno(), listener.family, factory)
        self._ports.append((listener, port))

    def stopService(self) -> Deferred[None]:
        """
        Stop listening, answer whoever is parked, let answers out, and close.

        @return: fires when every connection is closed, within L{SHUTDOWN_GRACE} and a little.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        for listener, port in self._ports:
            _refuse_more(listener, port)
        self._close_sockets()
        closing = [port.stopListening() for _, port in self._ports]
        self._ports = []
        stopped = self.broker.stop().addCallback(lambda _: DeferredList(list(self._wind_up())))
        everything = DeferredList([stopped, *(each for each in closing if each is not None)])
        return everything.addCallback(lambda _: self.broker.close())

    def _wind_up(self) -> Iterator[Deferred[None]]:
        """What is left to do once the broker has stopped."""
        for site in self._sites:
            yield site.drain(SHUTDOWN_GRACE)
        if self._recorder is not None:
            yield self._recorder.stop()
