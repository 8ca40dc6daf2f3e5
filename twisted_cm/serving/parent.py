"""The parent of several worker processes: an emulator that leaves serving to them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from attrs import evolve
from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from ..broker.timers import cancel_timer
from ..config.seed import Seed
from ..config.settings import Settings
from ..logs import Level
from ..metrics import SharedMetrics
from ..service import CannotStart, EmulatorService
from ..supervisor.guard import Guard
from ..supervisor.pauses import Crashes
from .messages import WorkerSetup
from .process import WorkerProcess
from .sockets import KeptListeners


class _Slot:
    """The place of one worker, and its process, if one runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.process: WorkerProcess | None = None
        self.crashes = Crashes()
        self.restart: IDelayedCall | None = None


class ParentService(EmulatorService):
    """The parent: binds the sockets, and starts the workers that serve them.

    It is a node on the same Redis as its workers. What must happen once happens here: it stores the seed, starts the
    modules and records jobs.
    """

    _log = Logger()

    def __init__(
        self, reactor: IReactorTime, settings: Settings, workers: int, log_format: str, log_levels: tuple[Level, ...]
    ) -> None:
        """Bind the sockets; start no worker yet.

        Args:
            workers: How many workers there are.
            log_format: One of :data:`.FORMATS`, for the log of the workers.
            log_levels: The lowest levels that they log.

        Raises:
            CannotStart: There is no Redis, or a reason of :class:`.EmulatorService`.
            CertificateError: The certificate is not usable.
        """
        if settings.broker is None:
            raise CannotStart(
                f"{workers} workers need a Redis that they share; name one with --broker redis://127.0.0.1:6379/0,"
                " or with 'broker' in the seed"
            )
        self._directory = tempfile.TemporaryDirectory(prefix="twisted-cm-metrics-")
        self._shared_metrics = SharedMetrics(Path(self._directory.name), "parent")
        super().__init__(reactor, settings, self._make_listeners, self._shared_metrics)
        try:
            self._kept.share(workers)
        except CannotStart:
            self._kept.close()
            raise
        self._log_format = log_format
        self._log_levels = log_levels
        self._guard = Guard(self._directory.name)
        self._slots = [_Slot(number + 1) for number in range(workers)]

    def _make_listeners(self, *args: Any) -> KeptListeners:
        self._kept = KeptListeners(*args)
        return self._kept

    def startService(self) -> None:
        """Store the seed, then start the workers."""
        # If it cannot be started now, the first worker tries again.
        with suppress(OSError):
            self._guard.start()
        super().startService()
        self.when_listening().addCallback(lambda _: self._start_workers())

    def _start_workers(self) -> None:
        for slot in self._slots:
            self._start(slot)

    def _start(self, slot: _Slot) -> None:
        process = WorkerProcess(self._reactor, self._guard, self.supervision, slot.number)
        output = self.supervision.output
        lines = [line for each in self._seed.runtimes for line in output.last(each.runtime_id)]
        try:
            sockets = self._kept.sockets_of(slot.number)
            process.start(self._setup(slot.number, len(sockets)), sockets, lines)
        except OSError as error:
            self._ended(slot, f"cannot be started: {error}")
            return
        slot.process = process
        process.ended.addCallback(lambda how: self._ended(slot, how))

    def _setup(self, number: int, sockets: int) -> WorkerSetup:
        # The seed may have been reloaded.
        settings = evolve(self.settings, seed=self._seed, record=None, joins=True)
        supervised = frozenset(each.runtime_id for each in self._seed.runtimes if each.process is not None)
        return WorkerSetup(
            number,
            settings,
            sockets,
            supervised,
            self._directory.name,
            self._log_format,
            self._log_levels,
        )

    def _ended(self, slot: _Slot, how: str) -> None:
        slot.process = None
        self._shared_metrics.forget(str(slot.number))
        if any(each.process is not None for each in self._slots):
            self._kept.drop(slot.number)
        if self.running:
            pause = slot.crashes.pause_after(self._reactor.seconds())
            self._log.error(
                "worker {number} {how}; starting it again in {pause:g} s", number=slot.number, how=how, pause=pause
            )
            slot.restart = self._reactor.callLater(pause, self._start, slot)

    async def reseed(self, seed: Seed) -> None:
        """Apply what differs between the current seed and another one, here and in all workers."""
        await super().reseed(seed)
        for slot in self._slots:
            if slot.process is not None:
                slot.process.reseed(seed)

    def stopService(self) -> Deferred[None]:
        """Stop the workers gracefully, then leave the others on the same Redis.

        Returns:
            A Deferred that fires when all has ended, at most a little after ``shutdown_grace``.
        """
        # From now on, no worker is started in place of one that ends.
        self.running = 0
        for slot in self._slots:
            cancel_timer(slot.restart)
        processes = [slot.process for slot in self._slots if slot.process is not None]
        ended = DeferredList([each.ended for each in processes])
        for each in processes:
            each.stop(self.shutdown_grace)
        return ended.addCallback(self._stop_rest)

    def _stop_rest(self, result: Any) -> Deferred[None]:
        def clean_up(result: Any) -> Any:
            self._guard.close()
            self._directory.cleanup()
            return result

        return super().stopService().addBoth(clean_up)


def parent_of(
    workers: int, log_format: str, log_levels: tuple[Level, ...]
) -> Callable[[IReactorTime, Settings], ParentService]:
    """Return a function that makes a :class:`ParentService` from its settings."""
    return lambda reactor, settings: ParentService(reactor, settings, workers, log_format, log_levels)
