"""A worker process: serves the sockets that the parent has bound. The parent runs :func:`main`."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import sys
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import connectionDone
from twisted.internet.task import LoopingCall
from twisted.logger import Logger, LogLevel
from twisted.protocols.amp import AMP
from twisted.python.failure import Failure

from ..broker.interface import BrokerError
from ..config.seed import Seed
from ..logs import begin_log
from ..metrics import SharedMetrics
from ..model.types import JSONValue
from ..server.module_output import ModuleOutput
from ..service import EmulatorService
from .messages import CHANNEL, ChangeSeed, Channel, Describe, Restart, ShowOutput, Stop, WorkerSetup, read_line, seed_of
from .sockets import InheritedListeners

#: Seconds between updates of what this worker has open, for the metrics.
METRICS_INTERVAL = 1.0


class WorkerService(EmulatorService):
    """The emulator in a worker. The parent says where it listens, and warns about the seed."""

    def _say_where(self) -> None:
        pass

    def _warn_about(self, seed: Seed) -> None:
        pass


class RemoteSupervision:
    """The supervisor of the parent, which starts the modules.

    Attributes:
        output: What the modules write.
    """

    def __init__(self, parent: AMP, runtime_ids: Iterable[str]) -> None:
        """Ask nothing yet.

        Args:
            parent: The channel to the parent.
            runtime_ids: The runtimes whose modules it starts.
        """
        self.output = ModuleOutput()
        self._parent = parent
        self._runtime_ids = frozenset(runtime_ids)

    def describe(self, runtime_id: str) -> Deferred[JSONValue]:
        """Return how the processes of a runtime are, as JSON; ``None`` if no processes are started for it."""
        if runtime_id not in self._runtime_ids:
            return succeed(None)
        asked: Deferred[Any] = self._parent.callRemote(Describe, runtime_id=runtime_id)
        # If the parent has gone, so has the module, and this worker goes, too.
        return asked.addCallbacks(lambda answer: json.loads(answer["described"]), lambda _: None)

    def restart(self, runtime_id: str) -> Deferred[bool]:
        """Replace the processes of a runtime by new ones; return ``False`` if none are started for it."""
        if runtime_id not in self._runtime_ids:
            return succeed(False)
        asked: Deferred[Any] = self._parent.callRemote(Restart, runtime_id=runtime_id)
        return asked.addCallbacks(lambda answer: bool(answer["done"]), lambda _: False)

    def replace(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Do nothing: the parent hears of the job, too."""

    def reseed(self, seed: Seed) -> None:
        """Take note of the modules that the parent starts as another seed says."""
        self._runtime_ids = frozenset(each.runtime_id for each in seed.runtimes if each.process is not None)


class _Worker(AMP):
    """The worker's end of the channel."""

    _log = Logger()

    def __init__(self, reactor: Any, make_service: Any, runtime_ids: Iterable[str]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reactor = reactor
        self._parts: list[bytes] = []
        self.service: WorkerService = make_service()
        self.supervision = self.service.supervision = RemoteSupervision(self, runtime_ids)

    @ShowOutput.responder
    def show_output(self, line: str) -> dict[str, Any]:
        self.supervision.output.write(read_line(line))
        return {}

    @ChangeSeed.responder
    def change_seed(self, part: bytes, last: bool) -> dict[str, Any]:
        self._parts.append(part)
        if last:
            seed, self._parts = seed_of(self._parts), []
            listening = self.service.when_listening()
            listening.addCallback(lambda _: Deferred.fromCoroutine(self.service.reseed(seed)))
            listening.addErrback(lambda failure: self._log.failure("seed not reloaded", failure))
        return {}

    @Stop.responder
    def stop(self, grace: float) -> dict[str, Any]:
        self.service.shutdown_grace = grace
        self._stop_reactor()
        return {}

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)  # type: ignore[no-untyped-call]
        # The parent has gone.
        self._stop_reactor()

    def _stop_reactor(self) -> None:
        with suppress(ReactorNotRunning):
            self._reactor.stop()


def read_setup() -> WorkerSetup:
    """Return the setup that the parent writes to standard input."""
    number, settings, sockets, supervised, metrics, log_format, named = pickle.load(sys.stdin.buffer)
    levels = tuple((namespace, LogLevel.levelWithName(name)) for namespace, name in named)
    return WorkerSetup(number, settings, sockets, supervised, metrics, log_format, levels)


def _start(updating: LoopingCall) -> None:
    updating.start(METRICS_INTERVAL)


def main() -> None:
    """Be a worker until the parent says stop, or has gone."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    # The parent reads the seed.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    setup = read_setup()
    begin_log(sys.stderr, setup.log_format, setup.log_levels, setup.number)
    metrics = SharedMetrics(Path(setup.metrics), str(setup.number))
    sockets = [socket.socket(fileno=CHANNEL + 1 + number) for number in range(setup.sockets)]
    for each in sockets:
        each.set_inheritable(False)
    make_listeners = partial(InheritedListeners, sockets)

    def make_service() -> WorkerService:
        return WorkerService(reactor, setup.settings, make_listeners, metrics)

    worker = _Worker(reactor, make_service, setup.supervised)
    service = worker.service
    reactor.adoptStreamConnection(CHANNEL, socket.AF_UNIX, Channel(worker))
    os.close(CHANNEL)

    async def update_metrics() -> None:
        with suppress(BrokerError):
            service.metrics.update(await service.broker.load())

    updating = LoopingCall(lambda: Deferred.fromCoroutine(update_metrics()))
    # It goes on until the reactor ends.
    service.when_listening().addCallback(lambda _: _start(updating))
    service.startService()
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    reactor.run()
