"""
How it runs: the emulator as an L{IService}, and the listeners it is made of.

Sockets are bound when the service is made, not when it starts, so that a port
in use is known before a daemon detaches or a privilege is dropped.
"""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import urlsplit

import click
from attrs import evolve, frozen
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, succeed
from twisted.internet.interfaces import IListeningPort, IProtocolFactory, IReactorFromThreads, IReactorTime
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from .broker.faults import FaultBook, IFaultBook
from .broker.interface import BrokerError, IBroker
from .broker.memory import MemoryBroker
from .broker.tokens import ITokenStore, MemoryTokens
from .config.options import ServerOptions, certificate_of, sidecars_of
from .config.seed import Seed, read_seed
from .config.seed_file import InvalidSeed
from .config.settings import DEFAULT_PORT, Settings, limits_of
from .config.tls import CertificateError
from .listeners import CannotStart, bind, is_loopback, refuse_more, url_of
from .metrics import Metrics
from .model.addresses import Addresses
from .model.tokens import DEVELOPMENT_TOKEN
from .recording.record import CannotRecord, Recorder
from .server.app import emulator_site, sidecar_site
from .server.browsers import BrowserGuard
from .server.context import Context
from .server.credentials import Credentials
from .server.transport.site import EmulatorSite

#: Seconds that connections may take to end at shutdown before they are cut off.
SHUTDOWN_GRACE = 4.0


#: Seconds that the broker may take to say that it is there before the emulator counts as not ready.
PING_TIMEOUT = 2.0


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
        from .broker.redis.address import InvalidAddress, parse_address
        from .broker.redis.broker import RedisBroker
        from .broker.redis.faults import RedisFaults
        from .broker.redis.node import RedisNode
        from .broker.redis.tokens import RedisTokens
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
        listener = bind(interface, port, option)
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
            http=url_of("http", interface, plain),
            https=url_of("https", interface, tls),
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
            refuse_more(listener, port)
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


def make_service(reactor: IReactorTime, options: ServerOptions) -> EmulatorService:
    """
    Make the service that the options describe, its sockets bound.

    @raise click.ClickException: it cannot be made; the message says what to do.
    """
    try:
        seed = read_seed(options.seed) if options.seed is not None else Seed()
        return EmulatorService(
            reactor,
            Settings(
                seed=seed,
                interface=options.interface,
                port=next(port for port in (options.port, seed.port, DEFAULT_PORT) if port is not None),
                tls_port=options.tls_port,
                certificate=certificate_of(options),
                broker=options.broker or seed.broker,
                admin_token=options.admin_token or None,
                base_url=options.base_url,
                allowed_hosts=options.allowed_hosts,
                cors_origins=options.cors_origins,
                record=options.record,
                limits=limits_of(seed, options.poll_timeout, options.sync_timeout, options.max_body),
                sidecars=sidecars_of(options, seed),
            ),
        )
    except (InvalidSeed, CertificateError, CannotStart) as error:
        raise click.ClickException(str(error)) from None
