"""The emulator as an ``IService``: a broker, and the sites over it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from attrs import evolve
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, TimeoutError, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from .broker.faults import FaultBook, IFaultBook
from .broker.interface import BrokerError, IBroker
from .broker.memory import MemoryBroker
from .broker.tokens import ITokenStore, MemoryTokens
from .config.options import ServerOptions
from .config.seed import Seed, read_seed
from .config.seed_file import InvalidSeed
from .config.settings import Settings
from .config.tls import CertificateError
from .job_lines import JobLines
from .listeners import CannotStart, Listeners, is_loopback
from .metrics import Metrics, SharedMetrics
from .model.jobs import Job
from .model.tokens import DEVELOPMENT_TOKEN, BearerToken
from .recording.record import CannotRecord, Recorder
from .server.app import change_proxies, emulator_site, sidecar_site
from .server.browsers import BrowserGuard
from .server.context import Context
from .server.credentials import Credentials
from .server.held_replicas import HeldReplicas
from .server.job_time_limits import JobTimer
from .server.kept_replicas import reset_keeping
from .server.passing.upstream import Upstream
from .server.queries.catalog import Catalog
from .server.refused_polls import RefusedPolls
from .server.supervision import NoSupervision, Supervision
from .server.transport.site import EmulatorSite
from .server.unchecked_queries import UncheckedQueries
from .server.workers import Workers

__all__ = ["CannotStart", "EmulatorService", "SeedReloader", "Settings", "make_service"]

#: Seconds that the modules, and then the connections, may take to end at shutdown before they are cut off.
SHUTDOWN_GRACE = 4.0

#: Seconds that the broker may take to answer a ping before the emulator counts as not ready.
PING_TIMEOUT = 2.0


class EmulatorService(Service):
    """The emulator: a broker, and the listeners over it.

    Attributes:
        settings: The settings that it was made from.
        broker: The broker.
        faults: The faults that are active.
        metrics: What has been counted since the service was made.
        site: The protocol factory of the main listeners; set once the service has started.
        context: What the routes share; set once the service has started.
        addresses: The addresses at which clients reach it; valid as soon as the service is made.
        sidecar_addresses: The same for each sidecar listener, by runtime id.
        sites: The protocol factories of the main listeners and of each sidecar; empty until the service has started.
        supervision: Starts the processes of modules. Set it before the service starts.
        shutdown_grace: Seconds that connections may take to end at shutdown before they are cut off.
    """

    _log = Logger()
    shutdown_grace = SHUTDOWN_GRACE
    site: EmulatorSite
    context: Context

    def __init__(
        self,
        reactor: IReactorTime,
        settings: Settings,
        make_listeners: Callable[..., Listeners] = Listeners,
        shared_metrics: SharedMetrics | None = None,
    ) -> None:
        """Bind the sockets; nothing is served before the service starts.

        Args:
            make_listeners: Makes the object that has the sockets.
            shared_metrics: The files in which the processes of one emulator count together; ``None`` if this process
                counts alone.

        Raises:
            CannotStart: A port is in use, a listener would be open to the network without an admin token, the broker's
                URL is not valid, or the file to record to cannot be written.
            CertificateError: The certificate is not usable.
        """
        self.settings = settings
        self._reactor = reactor
        self._guarded = guarded = not is_loopback(settings.interface)
        if guarded and settings.admin_token is None:
            raise CannotStart(
                f"{settings.interface} can be reached from other machines; set an admin token with --admin-token or"
                " TWISTED_CM_ADMIN_TOKEN, or listen on 127.0.0.1"
            )
        self._seed = settings.seed
        self._workers = Workers(reactor)
        self._refused_polls = RefusedPolls(reactor)
        self._upstream = Upstream(reactor)
        self._seed_loaded = False
        self._listening: Deferred[None] = Deferred()
        self.supervision: Supervision = NoSupervision()
        self.sites: list[EmulatorSite] = []
        self.broker, self.faults, tokens = _make_stores(reactor, settings)
        self._held_replicas = HeldReplicas(reactor, self.broker)
        self.metrics = Metrics(self.connections, shared_metrics)
        self.broker.observe(self.metrics.changed, only_here=True)
        self._catalog = Catalog(self.broker, settings.seed.queries, settings.seed.ontologies)
        self._job_timer = JobTimer(reactor, self.broker, settings.seed.time_limits, self._job_expired)
        self.broker.observe(JobLines().changed, only_here=True)
        self.credentials = Credentials(
            reactor.seconds,
            self._bearer_tokens(settings.seed),
            settings.admin_token,
            guarded,
            settings.seed.oauth_clients,
            tokens,
            settings.seed.users,
        )
        self._listeners = make_listeners(reactor, settings.certificate, settings.base_url, settings.listen)
        try:
            self._main = self._listeners.bind(settings.interface, settings.port, settings.tls_port)
            self._sidecars = {
                each.runtime_id: self._listeners.bind("127.0.0.1", each.port, each.tls_port, "--sidecar-")
                for each in settings.sidecars
            }
            self._recorder = None if settings.record is None else Recorder(reactor, settings.record)
        except CannotStart:
            self._listeners.close()
            raise
        except CannotRecord as error:
            self._listeners.close()
            raise CannotStart(str(error)) from None
        self.addresses = self._main.addresses
        self.sidecar_addresses = {runtime_id: each.addresses for runtime_id, each in self._sidecars.items()}

    @property
    def development_token(self) -> bool:
        """Whether the development token is valid: on loopback, if the seed names no other way to get in."""
        return self._seed.development_token and not self._guarded

    def _bearer_tokens(self, seed: Seed) -> tuple[BearerToken, ...]:
        return seed.tokens if self._guarded else seed.bearer_tokens

    def connections(self) -> int:
        """Return the number of open connections."""
        return sum(len(site.channels) for site in self.sites)

    def urls(self) -> Iterator[str]:
        """Return the base URL of every listener."""
        for addresses in (self.addresses, *self.sidecar_addresses.values()):
            yield from (url for url in (addresses.http, addresses.https) if url is not None)

    def startService(self) -> None:
        """Start the broker, then serve the sockets that were bound.

        Raises:
            RuntimeError: The service was started before. Its sockets and its broker are used up; make another one.
        """
        if self.sites:
            raise RuntimeError("An EmulatorService can be started once. Make another one.")
        super().startService()  # type: ignore[no-untyped-call]
        context = self.context = Context(
            reactor=self._reactor,
            broker=self.broker,
            credentials=self.credentials,
            limits=self.settings.limits,
            addresses=self.addresses,
            faults=self.faults,
            reset=self.reset,
            guard=self._browser_guard(any_host=self.credentials.guarded),
            metrics=self.metrics,
            readiness=self.readiness,
            validate_queries=self._seed.validate_queries,
            unchecked_queries=UncheckedQueries(),
            refused_polls=self._refused_polls,
            held_replicas=self._held_replicas,
            workers=self._workers,
            started_at=int(self._reactor.seconds() * 1000),
            upstream=self._upstream,
            supervision=self.supervision,
            catalog=self._catalog,
        )
        if self._recorder is not None:
            self._recorder.start(self.broker)
        self.site = emulator_site(context, self._seed.proxies)
        served = [(self._main, self.site)]
        for runtime_id, listener in self._sidecars.items():
            # A sidecar is on loopback, and needs no token, whatever the main listeners do.
            addressed = evolve(context, addresses=listener.addresses, guard=self._browser_guard(only_loopback=True))
            served.append((listener, sidecar_site(addressed, runtime_id)))
        self.sites += [site for _, site in served]
        self._warn_about(self._seed)

        def listen(_: None) -> None:
            # The service may have been stopped while the broker started.
            if not self.running:
                return
            self._seed_loaded = True
            for listener, site in served:
                self._listeners.serve(listener, site)
            self._say_where()
            self._job_timer.start()
            self._listening.callback(None)

        self.broker.start().addCallback(listen)

    def _say_where(self) -> None:
        """Log where the emulator listens."""
        for url in self.urls():
            self._log.info("listening on {url}", url=url)

    def when_listening(self) -> Deferred[None]:
        """Return a Deferred that fires when the sockets are served; it never fires if the service stops before."""
        listening: Deferred[None] = Deferred()
        self._listening.addCallback(listening.callback)
        return listening

    def _job_expired(self, job: Job) -> None:
        if job.replica_id is not None:
            reason = f"Function {job.submission.query_type} ran for longer than its time limit."
            self.supervision.replace(job.runtime_id, job.replica_id, reason)

    def _browser_guard(self, any_host: bool = False, only_loopback: bool = False) -> BrowserGuard:
        hosts = None
        if not any_host:
            base_url = urlsplit(self.settings.base_url or "").hostname
            named = (*self.settings.allowed_hosts, base_url, self.settings.interface)
            hosts = frozenset(name.lower() for name in named if name)
        return BrowserGuard(hosts, frozenset(self.settings.cors_origins), only_loopback)

    def _warn_about(self, seed: Seed) -> None:
        for warning in seed.warnings:
            self._log.warn("seed: {warning}", warning=warning)

    @contextmanager
    def _loading_seed(self) -> Iterator[None]:
        """Count as not ready meanwhile. If the broker refuses, the seed that was in effect stays in effect."""
        loaded, self._seed_loaded = self._seed_loaded, False
        try:
            yield
            loaded = True
        finally:
            self._seed_loaded = loaded

    async def reset(self, keep_replicas: bool = False) -> None:
        """Go back to the seed: its runtimes, bindings and faults, no jobs and no schemas.

        Parked callers and polls are answered. Tokens stay valid. The modules that the emulator has started stay
        connected, and the schemas of their runtimes stay.

        Args:
            keep_replicas: Whether that holds for the modules of all runtimes that the seed has.
        """
        with self._loading_seed():
            await reset_keeping(
                self.broker,
                lambda: self.broker.reset(self._seed.registry()),
                lambda replica: keep_replicas or replica.supervised,
            )
        await self.faults.replace(self._seed.faults)

    async def reseed(self, seed: Seed) -> None:
        """Apply what differs between the current seed and another one.

        Runtimes, deployed apps, tokens, users, OAuth clients, faults and proxies change. Ports, time-outs, limits, the
        broker and sidecars stay as they were at the start.
        """
        with self._loading_seed():
            await self.broker.reseed(seed.registry())
        development_token = self.development_token
        self.credentials.replace(self._bearer_tokens(seed), seed.oauth_clients, seed.users)
        await self.faults.reseed(seed.faults)
        if seed.proxies != self._seed.proxies:
            change_proxies(self.site, self.context, seed.proxies)
        self._seed = seed
        self._job_timer.replace(seed.time_limits)
        self._catalog.replace(seed.queries, seed.ontologies)
        self.supervision.reseed(seed)
        if self.development_token and not development_token:
            self._log.warn("the new seed has no tokens; {token} is valid now", token=DEVELOPMENT_TOKEN)
        self._warn_about(seed)

    async def readiness(self) -> dict[str, bool]:
        """Return whether each part works: ``listening``, ``broker`` and ``seed`` (it has taken effect)."""
        try:
            await self.broker.ping().addTimeout(PING_TIMEOUT, self._reactor)
            broker = True
        except (BrokerError, TimeoutError):
            broker = False
        return {"listening": bool(self.running), "broker": broker, "seed": self._seed_loaded}

    def stopService(self) -> Deferred[None]:
        """Stop listening, answer parked callers and polls, finish answers that have begun, and close.

        Returns:
            A Deferred that fires when every connection is closed, at most a little after ``shutdown_grace``.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        closing = self._listeners.stop()
        stopped = self.broker.stop().addCallback(lambda _: DeferredList(list(self._wind_up())))
        ended = DeferredList([stopped, *closing])
        ended.addCallback(lambda _: Deferred.fromCoroutine(self._upstream.close()))
        return ended.addCallback(lambda _: self.broker.close())

    def _wind_up(self) -> Iterator[Deferred[None]]:
        """Do what is left once the broker has stopped."""
        self._refused_polls.stop()
        self._held_replicas.stop()
        self._job_timer.stop()
        for site in self.sites:
            yield site.drain(self.shutdown_grace)
        if self._recorder is not None:
            yield Deferred.fromCoroutine(self._recorder.stop())
        self._workers.stop()


class SeedReloader(Service):
    """Reads the seed file again on SIGHUP. A seed that is not valid changes nothing, and the log says why."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        service: EmulatorService,
        path: Path | None,
        adapt: Callable[[Seed], Seed] = lambda seed: seed,
    ) -> None:
        """Make a service that reloads the seed of another.

        Args:
            reactor: Runs the reload; signal handlers must not.
            service: The emulator.
            path: The seed file; ``None`` if there is none.
            adapt: Changes each seed that is read.
        """
        self._reactor = reactor
        self._service = service
        self._adapt = adapt
        self._on_terminal = False
        # A daemon changes its working directory.
        self._path = None if path is None else path.absolute()

    def startService(self) -> None:
        """Handle SIGHUP, on systems that have it."""
        super().startService()  # type: ignore[no-untyped-call]
        self._on_terminal = os.isatty(0)
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))

    def _terminal_is_gone(self) -> bool:
        """Return whether the terminal from which the emulator was started has been closed, which sends SIGHUP, too."""
        if not self._on_terminal:
            return False
        try:
            os.tcgetpgrp(0)
        except OSError:
            return True
        return False

    def reload(self) -> Deferred[None]:
        """Read the seed file and apply what has changed.

        Returns:
            A Deferred that fires when the seed has taken effect or was refused.
        """
        if self._terminal_is_gone():
            self._log.info("the terminal was closed")
            self._reactor.stop()
            return succeed(None)
        if self._path is None:
            self._log.warn("SIGHUP: there is no seed file to read; name one with --seed")
            return succeed(None)
        try:
            seed = self._adapt(read_seed(self._path))
        except InvalidSeed as error:
            for problem in error.problems:
                self._log.error("seed not reloaded: {problem}", problem=problem)
            return succeed(None)
        except click.ClickException as error:
            self._log.error("seed not reloaded: {problem}", problem=error.format_message())
            return succeed(None)
        reseeded: Deferred[None] = Deferred.fromCoroutine(self._service.reseed(seed))
        return reseeded.addErrback(lambda failure: self._log.failure("seed not reloaded", failure))


def make_service(
    reactor: IReactorTime,
    options: ServerOptions,
    adapt: Callable[[Seed], Seed] = lambda seed: seed,
    service: Callable[[IReactorTime, Settings], EmulatorService] = EmulatorService,
) -> EmulatorService:
    """Make the service that the options describe, its sockets bound.

    Args:
        reactor: The reactor.
        options: The options.
        adapt: Changes the seed that was read.
        service: Makes the service from its settings.

    Raises:
        click.ClickException: It cannot be made; the message says what to do.
    """
    try:
        settings = options.settings()
        return service(reactor, evolve(settings, seed=adapt(settings.seed)))
    except (InvalidSeed, CertificateError, CannotStart) as error:
        raise click.ClickException(str(error)) from None


def _make_stores(reactor: IReactorTime, settings: Settings) -> tuple[IBroker, IFaultBook, ITokenStore]:
    """Make the broker, the faults and the issued tokens, in memory or on Redis."""
    seed = settings.seed
    if settings.broker is None:
        return (
            MemoryBroker(reactor, seed.registry(), seed.job_limits),
            FaultBook(seed.faults),
            MemoryTokens(reactor.seconds),
        )
    try:
        # The packages that these need are an extra of the distribution.
        from .broker.redis.address import InvalidAddress, parse_address
        from .broker.redis.broker import RedisBroker
        from .broker.redis.faults import RedisFaults
        from .broker.redis.node import RedisNode
        from .broker.redis.tokens import RedisTokens
    except ModuleNotFoundError as error:
        raise CannotStart(f"a broker on Redis needs {error.name}; install it with: pip install hiredis") from None
    try:
        node = RedisNode(reactor, parse_address(settings.broker))
    except InvalidAddress as error:
        raise CannotStart(f"{error}; change it with --broker") from None
    # Without a seed, the emulator joins the others and changes nothing.
    joins = settings.joins or seed == Seed()
    return (
        RedisBroker(node, None if joins else seed.registry(), seed.job_limits),
        RedisFaults(node, None if joins else seed.faults),
        RedisTokens(node),
    )
