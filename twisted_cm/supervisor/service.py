"""The supervisor: starts the modules that the seed has commands for, beside an emulator."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click
from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from ..broker.interface import Change
from ..config.module_settings import UnusableSettings
from ..config.options import ServerOptions
from ..config.seed import Seed
from ..config.settings import Settings
from ..config.state_dir import default_state_dir
from ..model.types import JSONValue
from ..server.module_output import ModuleOutput, OutputLine
from ..service import SHUTDOWN_GRACE, EmulatorService, SeedReloader, make_service
from .guard import Guard
from .plan import ProcessPlan, make_plans
from .replica import Workplace
from .runtime import SupervisedRuntime
from .watching import FileWatcher

#: Seconds that connections may take to end, even if the modules have used up the time that a stop may take.
_LEAST_GRACE = 0.5


class Supervisor(Service):
    """Starts, watches, scales and ends the processes of modules.

    It is the :class:`~twisted_cm.server.supervision.Supervision` of the emulator.

    Attributes:
        output: What the modules write.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, emulator: EmulatorService, base: Path, state_dir: Path, reload: bool = False
    ) -> None:
        """Make a supervisor for the seed of an emulator, which has not started.

        Args:
            reactor: Spawns the processes.
            emulator: The emulator.
            base: The directory that the directories in the seed are relative to.
            state_dir: The directory for the files of replicas.
            reload: Whether to replace a module when one of its files changes.

        Raises:
            UnusableSettings: The seed refers to variables or directories that are not there.
        """
        self.output = ModuleOutput()
        self._reactor = reactor
        self._emulator = emulator
        self._base = base
        self._state_dir = state_dir
        self._plans = make_plans(emulator.settings.seed, base, os.environ)
        self._runtimes: dict[str, SupervisedRuntime] = {}
        self._guard = Guard()
        self._reload = reload
        self._watcher: FileWatcher | None = None
        self._observing = False
        emulator.supervision = self

    @property
    def runtime_ids(self) -> list[str]:
        """The runtimes whose modules it starts."""
        return list(self._plans)

    def startService(self) -> None:
        """Start the modules as soon as the emulator listens."""
        super().startService()  # type: ignore[no-untyped-call]
        self._emulator.when_listening().addCallback(lambda _: self._begin())

    def _begin(self) -> None:
        if not self.running:
            return
        emulator = self._emulator
        sidecars = {
            runtime_id: int(each.http.rpartition(":")[2])
            for runtime_id, each in emulator.sidecar_addresses.items()
            if each.http is not None
        }
        self._workplace = Workplace(
            self._reactor,
            emulator.broker,
            emulator.addresses,
            sidecars,
            self._state_dir,
            self.output,
            self._guard,
        )
        for plan in self._plans.values():
            self._add(plan)
        self._watch()

    def _watch(self) -> None:
        """Watch the directories of all modules, in place of those that were watched before."""
        if self._watcher is not None:
            self._watcher.stop()
        if self._reload:
            self._watcher = FileWatcher(self._reactor, self._files_changed)
            self._watcher.start(each.directory for each in self._plans.values())

    def _add(self, plan: ProcessPlan) -> None:
        if not self._observing:
            # Not before there is a module: on Redis, each step of a job at another node costs this one a message.
            self._observing = True
            self._emulator.broker.observe(self._changed)
        runtime = self._runtimes[plan.runtime_id] = SupervisedRuntime(self._workplace, plan)
        runtime.start()

    def stopService(self) -> Deferred[Any]:
        """End all processes.

        Returns:
            A Deferred that fires when they have ended.
        """
        super().stopService()  # type: ignore[no-untyped-call]
        if self._watcher is not None:
            self._watcher.stop()
        stopping = DeferredList([each.stop() for each in self._runtimes.values()])
        return stopping.addCallback(lambda _: self._guard.close())

    def _changed(self, change: Change) -> None:
        if change.missed:
            for runtime in self._runtimes.values():
                runtime.changed(change)
        elif change.runtime_id in self._runtimes:
            self._runtimes[change.runtime_id].changed(change)

    def _files_changed(self, paths: Iterable[Path]) -> None:
        own = self._state_dir.resolve()
        changed = [path for path in paths if not path.resolve().is_relative_to(own)]
        for runtime in self._runtimes.values():
            directory = runtime.plan.directory.resolve()
            found = sorted(path for path in changed if path.resolve().is_relative_to(directory))
            if found and self.running:
                self._log.info(
                    "runtime {runtime_id}: {path} changed, reloading",
                    runtime_id=runtime.plan.runtime_id,
                    path=found[0].resolve().relative_to(directory),
                )
                runtime.reload()

    # What the emulator asks

    def describe(self, runtime_id: str) -> Deferred[JSONValue]:
        """Return how the processes of a runtime are, as JSON; ``None`` if no processes are started for it."""
        runtime = self._runtimes.get(runtime_id)
        return succeed(None if runtime is None else runtime.describe())

    def restart(self, runtime_id: str) -> Deferred[bool]:
        """Replace the processes of a runtime by new ones; return ``False`` if none are started for it."""
        runtime = self._runtimes.get(runtime_id)
        if runtime is not None:
            runtime.reload()
        return succeed(runtime is not None)

    def replace(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Replace one process, whose job took too long, once its other jobs have ended."""
        runtime = self._runtimes.get(runtime_id)
        if runtime is not None:
            # Not while the broker tells of the end of the job.
            self._reactor.callLater(0, runtime.replace, replica_id, reason)

    def reseed(self, seed: Seed) -> None:
        """Start and end modules as another seed says. Those whose part of the seed has changed are replaced."""
        try:
            plans = make_plans(seed, self._base, os.environ)
        except UnusableSettings as error:
            for problem in str(error).splitlines():
                self._log.error("modules not reloaded: {problem}", problem=problem)
            return
        former, self._plans = self._plans, plans
        if {each.directory for each in former.values()} != {each.directory for each in plans.values()}:
            self._watch()
        for runtime_id in self._runtimes.keys() - plans.keys():
            self._runtimes.pop(runtime_id).stop("The module was stopped, because the seed has no command for it.")
        for runtime_id, plan in plans.items():
            runtime = self._runtimes.get(runtime_id)
            if runtime is None:
                self._add(plan)
            elif runtime.plan != plan or runtime.crash_looping:
                runtime.reload(plan)


class SupervisedEmulator(Service):
    """An emulator and its supervisor: the modules start after the emulator, and end before it."""

    def __init__(self, reactor: Any, emulator: EmulatorService, supervisor: Supervisor, reloader: SeedReloader) -> None:
        self.emulator = emulator
        self.supervisor = supervisor
        self._reactor = reactor
        self._reloader = reloader

    def startService(self) -> None:
        """Start the emulator, then the modules."""
        super().startService()  # type: ignore[no-untyped-call]
        self.emulator.startService()
        self.supervisor.startService()
        self._reloader.startService()

    def stopService(self) -> Deferred[Any]:
        """End the modules, then stop the emulator."""
        super().stopService()  # type: ignore[no-untyped-call]
        seconds = self._reactor.seconds
        began = seconds()

        def stop_emulator(_: object) -> Deferred[None]:
            # Modules and connections share the time that a stop may take.
            self.emulator.shutdown_grace = max(SHUTDOWN_GRACE - (seconds() - began), _LEAST_GRACE)
            return self.emulator.stopService()

        return self.supervisor.stopService().addBoth(stop_emulator)


def supervise(
    reactor: Any,
    options: ServerOptions,
    adapt: Callable[[Seed], Seed] = lambda seed: seed,
    reload: bool = False,
    service: Callable[[IReactorTime, Settings], EmulatorService] = EmulatorService,
) -> SupervisedEmulator:
    """Make an emulator that starts the modules of its seed, its sockets bound. SIGHUP makes it read the seed again.

    Args:
        reactor: The reactor.
        options: The options of the emulator.
        adapt: Changes each seed that is read.
        reload: Whether to replace a module when one of its files changes.
        service: Makes the emulator from its settings.

    Raises:
        click.ClickException: It cannot be made; the message says what to do.
    """
    emulator = make_service(reactor, options, adapt, service)
    base = Path.cwd() if options.seed is None else options.seed.absolute().parent
    try:
        supervisor = Supervisor(reactor, emulator, base, options.state_dir or default_state_dir(), reload)
    except UnusableSettings as error:
        raise click.ClickException(f"{options.seed or 'the command'}: {error}") from None
    return SupervisedEmulator(reactor, emulator, supervisor, SeedReloader(reactor, emulator, options.seed, adapt))


_module_log = Logger(namespace="twisted_cm.module")


def log_line(line: OutputLine) -> None:
    """Log a line that a module wrote; those of the supervisor itself are in the log already."""
    if line.replica_id is not None:
        _module_log.info("{runtime_id}: {text}", runtime_id=line.runtime_id, text=line.text)
