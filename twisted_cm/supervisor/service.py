"""The supervisor: starts the modules that the seed has commands for, beside an emulator."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from ..broker.interface import Change, IBroker
from ..config.module_settings import UnusableSettings
from ..config.seed import Seed
from ..model.types import JSONValue
from ..server.module_output import ModuleOutput
from ..service import EmulatorService
from .guard import Guard
from .plan import ModulePlan, make_plans
from .replica import Workplace
from .runtime import SupervisedRuntime
from .watching import FileWatcher


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
        self._watcher = FileWatcher(reactor, self._files_changed) if reload else None
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
        emulator.broker.observe(self._changed)
        for plan in self._plans.values():
            self._add(plan)
        if self._watcher is not None:
            self._watcher.start(each.directory for each in self._plans.values())

    def _add(self, plan: ModulePlan) -> None:
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
        changed = list(paths)
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

    def describe(self, runtime_id: str) -> JSONValue:
        """Return how the processes of a runtime are, as JSON; ``None`` if no processes are started for it."""
        runtime = self._runtimes.get(runtime_id)
        return None if runtime is None else runtime.describe()

    def restart(self, runtime_id: str) -> bool:
        """Replace the processes of a runtime by new ones; return ``False`` if none are started for it."""
        runtime = self._runtimes.get(runtime_id)
        if runtime is not None:
            runtime.reload()
        return runtime is not None

    def replace(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Replace one process, whose job took too long, once its other jobs have ended."""
        if runtime_id in self._runtimes:
            self._runtimes[runtime_id].replace(replica_id, reason)

    async def remember_schemas(self, broker: IBroker) -> None:
        """Note the schemas of the runtimes, which a reset is about to remove."""
        for runtime in self._runtimes.values():
            await runtime.remember_schemas()

    async def reset(self, broker: IBroker) -> None:
        """Open the replicas again that a reset has closed, and give their runtimes the schemas that they had."""
        for runtime in self._runtimes.values():
            await runtime.rejoin()

    def reseed(self, seed: Seed) -> None:
        """Start and end modules as another seed says. Those whose part of the seed has changed are replaced."""
        try:
            plans = make_plans(seed, self._base, os.environ)
        except UnusableSettings as error:
            for problem in str(error).splitlines():
                self._log.error("modules not reloaded: {problem}", problem=problem)
            return
        self._plans = plans
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

    def __init__(self, emulator: EmulatorService, supervisor: Supervisor) -> None:
        self.emulator = emulator
        self.supervisor = supervisor

    def startService(self) -> None:
        """Start the emulator, then the modules."""
        super().startService()  # type: ignore[no-untyped-call]
        self.emulator.startService()
        self.supervisor.startService()

    def stopService(self) -> Deferred[Any]:
        """End the modules, then stop the emulator."""
        super().stopService()  # type: ignore[no-untyped-call]
        stopping = self.supervisor.stopService()
        return stopping.addBoth(lambda _: self.emulator.stopService())
