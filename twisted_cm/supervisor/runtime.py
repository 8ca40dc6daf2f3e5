"""The processes of one runtime: how many there are, and what happens when one ends."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..broker.interface import (
    REPLICA_STOPPED,
    BrokerError,
    Change,
    ReplicaExists,
    RuntimeSnapshot,
    TokenInUse,
    UnknownReplica,
    UnknownRuntime,
)
from ..broker.timers import cancel_timer
from ..model.jobs import JobState
from ..model.types import JSONValue
from ..server.module_output import OutputLine
from .pauses import CRASHES, LONGEST_PAUSE, Crashes
from .plan import ProcessPlan
from .replica import CannotStartModule, SupervisedReplica, Workplace
from .scaler import Scaler

#: Seconds for which changes are gathered before the runtime is looked at.
_GATHER = 0.05

#: How a process ended that never started, because its replica could not be opened.
_UNREACHABLE = "has no replica, because the broker cannot be reached"

#: Why replicas end.
REPLACED = "The module was replaced by a new process."
STOPPED = "The module was stopped, because the emulator stops."


class SupervisedRuntime:
    """Keeps the processes of one runtime running.

    Attributes:
        plan: What is started.
        crash_looping: Whether processes ended so often that none is started any more.
    """

    _log = Logger()

    def __init__(self, workplace: Workplace, plan: ProcessPlan) -> None:
        """Start nothing yet."""
        self.plan = plan
        self.crash_looping = False
        self._workplace = workplace
        self._scaler = Scaler(plan.scaling)
        # Those that take jobs; those that will replace them; those that end.
        self._replicas: list[SupervisedReplica] = []
        self._fresh: list[SupervisedReplica] = []
        self._leaving: list[SupervisedReplica] = []
        self._crashes = Crashes()
        self._starts = 0
        self._error: str | None = None
        self._wanted_since: float | None = None
        self._cold_start: float | None = None
        self._missed = False
        self._stopped = True
        self._restart: IDelayedCall | None = None
        self._next_look: IDelayedCall | None = None
        self._looking = False

    # What people see

    def describe(self) -> JSONValue:
        """Return how the processes are, as JSON."""
        return {
            "command": list(self.plan.command),
            "state": self._state(),
            "wanted_replicas": self._scaler.wanted,
            "starts": self._starts,
            "error": self._error,
            "cold_start_ms": None if self._cold_start is None else round(self._cold_start * 1000),
        }

    def _state(self) -> str:
        if self._stopped:
            return "stopped"
        if self.crash_looping:
            return "crash looping"
        if any(each.connected for each in self._replicas):
            return "running"
        if self._replicas:
            return "starting"
        return "scaled to zero" if self._scaler.wanted == 0 else "waiting"

    def _say(self, text: str, **fields: Any) -> None:
        """Log a message, and show it among the lines that the module writes."""
        message = text.format(**fields)
        self._log.info("runtime {runtime_id}: {message}", runtime_id=self.plan.runtime_id, message=message)
        self._show(message)

    def _complain(self, message: str) -> None:
        self._error = message
        first = message.splitlines()[0]
        self._log.error("runtime {runtime_id}: {message}", runtime_id=self.plan.runtime_id, message=first)
        self._show(first)

    def _show(self, message: str) -> None:
        now = int(self._workplace.reactor.seconds() * 1000)
        self._workplace.output.write(OutputLine(self.plan.runtime_id, None, now, message))

    # Start and stop

    def start(self) -> None:
        """Start the processes."""
        self._stopped = False
        self._fill()

    def stop(self, reason: str = STOPPED) -> Deferred[Any]:
        """End all processes; return a Deferred that fires when they have ended."""
        self._stopped = True
        cancel_timer(self._restart)
        cancel_timer(self._next_look)
        everyone = [*self._replicas, *self._fresh, *self._leaving]
        ending = [each.ended for each in everyone]
        for each in everyone:
            each.stop(reason)
        return DeferredList([_copy(each) for each in ending])

    def _fill(self) -> None:
        """Start the processes that are missing, and end those that are too many."""
        if self._stopped or self.crash_looping or self._fresh:
            return
        while len(self._replicas) < self._scaler.wanted and self._may_start():
            self._launch(self._replicas)
        # Idle ones first, and of these the ones that were started last.
        spare = sorted(self._replicas, key=lambda each: (len(each.job_ids), -each.since))
        for replica in spare[: max(len(self._replicas) - self._scaler.wanted, 0)]:
            self._say("scaled down to {count} replicas", count=self._scaler.wanted)
            self._replicas.remove(replica)
            self._retire(replica)

    def _may_start(self) -> bool:
        return not self.crash_looping and (self._restart is None or not self._restart.active())

    def _launch(self, members: list[SupervisedReplica]) -> None:
        """Start a process as one of ``members``. If it fails at once, it is not among them when this returns."""
        replica = SupervisedReplica(self._workplace, self.plan)
        self._starts += 1
        members.append(replica)
        replica.ended.addCallback(lambda how: self._process_ended(replica, how))
        Deferred.fromCoroutine(replica.start()).addErrback(self._not_started, replica)

    def _not_started(self, failure: Failure, replica: SupervisedReplica) -> None:
        if failure.check(BrokerError):
            how = _UNREACHABLE
        elif failure.check(CannotStartModule):
            how = failure.getErrorMessage()
        else:
            self._log.failure(
                "runtime {runtime_id}: the module cannot be started", failure, runtime_id=self.plan.runtime_id
            )
            how = f"cannot be started: {type(failure.value).__name__}: {failure.getErrorMessage()}"
        replica.ended.callback(how)

    def _process_ended(self, replica: SupervisedReplica, how: str) -> str:
        if replica in self._leaving:
            self._leaving.remove(replica)
        elif replica in self._fresh:
            self._fresh.remove(replica)
            if not self._stopped:
                self._give_up_reload(how)
        elif replica in self._replicas:
            self._replicas.remove(replica)
            if not self._stopped:
                self._crashed(how)
        return how

    def _crashed(self, how: str) -> None:
        if how == _UNREACHABLE:
            self._complain(f"the module {how}; trying again in {LONGEST_PAUSE:g} s, or when it can")
            self._start_again(LONGEST_PAUSE)
            return
        pause = self._crashes.pause_after(self._workplace.reactor.seconds())
        if self._crashes.looping:
            self.crash_looping = True
            self._complain(
                f"crash looping: the module ended {CRASHES} times within a minute, the last time it {how}."
                f" Change one of its files, or say: twisted-cm restart {self.plan.runtime_id}"
            )
            return
        self._complain(f"the module {how}; starting it again in {pause:g} s")
        self._start_again(pause)

    def _start_again(self, pause: float) -> None:
        cancel_timer(self._restart)
        if not self._stopped:
            self._restart = self._workplace.reactor.callLater(pause, self._fill)

    def _retire(self, replica: SupervisedReplica) -> None:
        """Let a process end when it has finished the jobs that it runs."""
        self._leaving.append(replica)
        self._look_soon(0)

    # Reload

    def reload(self, plan: ProcessPlan | None = None) -> None:
        """Replace all processes by new ones, once these are connected.

        Args:
            plan: What is started from now on; ``None`` for the same as before.
        """
        if plan is not None and plan != self.plan:
            self.plan = plan
            self._scaler.change(plan.scaling)
        self._crashes.clear()
        self.crash_looping = False
        cancel_timer(self._restart)
        self._retire_fresh()
        if not self._replicas or self._stopped:
            self._fill()
            return
        starting = self._fresh
        for _ in range(max(self._scaler.wanted, 1)):
            self._launch(starting)
            if self._fresh is not starting:
                # It failed at once, and the reload was given up.
                return

    def _retire_fresh(self) -> None:
        # They may run jobs already.
        fresh, self._fresh = self._fresh, []
        for replica in fresh:
            self._retire(replica)

    def _give_up_reload(self, how: str) -> None:
        """Keep the old processes, since a new one has ended before all were connected."""
        self._retire_fresh()
        self._complain(f"the changed module does not start: it {how}; the old one stays")
        self._fill()

    def _finish_reload(self) -> None:
        old, self._replicas, self._fresh = self._replicas, self._fresh, []
        self._error = None
        self._say("reloaded")
        for replica in old:
            self._retire(replica)

    def replace(self, replica_id: str, reason: str) -> None:
        """Replace a process by a new one, once its other jobs have ended."""
        for members in () if self._stopped else (self._replicas, self._fresh):
            for replica in members:
                if replica.replica_id == replica_id:
                    self._say("{reason} Its process is replaced.", reason=reason)
                    members.remove(replica)
                    self._retire(replica)
                    self._launch(members)
                    return

    # Changes of the runtime

    def changed(self, change: Change) -> None:
        """Take a change from :meth:`~twisted_cm.broker.interface.IBroker.observe`."""
        job = change.job
        if job is not None:
            for replica in (*self._replicas, *self._fresh, *self._leaving):
                replica.job_changed(job)
            if job.state is JobState.QUEUED and self._scaler.wanted == 0 and self._wanted_since is None:
                self._wanted_since = self._workplace.reactor.seconds()
        if change.missed:
            self._missed = True
            if self._error is not None and _UNREACHABLE in self._error:
                self._start_again(0)
        self._look_soon()

    def _look_soon(self, seconds: float = _GATHER) -> None:
        if self._stopped:
            return
        pending = self._next_look
        now = self._workplace.reactor.seconds()
        if pending is not None and pending.active():
            if pending.getTime() <= now + seconds:
                return
            pending.cancel()
        self._next_look = self._workplace.reactor.callLater(seconds, self._begin_look)

    def _begin_look(self) -> None:
        if self._looking:
            self._look_soon()
            return
        self._looking = True
        looking: Deferred[None] = Deferred.fromCoroutine(self._look())

        def end(result: Any) -> Any:
            self._looking = False
            return result

        # When the broker can be reached again, observers are told to look again.
        looking.addBoth(end).addErrback(lambda failure: failure.trap(BrokerError))

    async def _look(self) -> None:
        await self._drain()
        # One that is drained while the snapshot is read may have got a job before.
        drained = [each for each in self._leaving if each.drained]
        missed, self._missed = self._missed, False
        snapshot = await self._workplace.broker.snapshot(self.plan.runtime_id)
        if self._stopped:
            return
        if missed:
            self._forget_ended_jobs(snapshot)
        await self._look_at_replicas(snapshot)
        if self._fresh and all(each.connected for each in self._fresh):
            self._finish_reload()
        self._end_idle(drained, snapshot)
        before = self._scaler.wanted
        wait = self._scaler.look(
            self._workplace.reactor.seconds(),
            snapshot.running,
            snapshot.queued,
            len(self._replicas) * self.plan.limit,
        )
        if self._scaler.wanted > before:
            self._say("scaled up to {count} replicas", count=self._scaler.wanted)
        self._fill()
        if wait is not None:
            self._look_soon(max(wait, _GATHER))

    async def _drain(self) -> None:
        for replica in [each for each in self._leaving if not each.drained and not each.stopping]:
            try:
                await replica.drain()
            except (UnknownReplica, UnknownRuntime):
                # A reset has removed it, and its jobs.
                replica.drained = True

    def _forget_ended_jobs(self, snapshot: RuntimeSnapshot) -> None:
        """Let lines belong no longer to jobs whose ends were missed."""
        jobs = {job_id for each in snapshot.replicas for job_id in each.job_ids}
        for replica in (*self._replicas, *self._fresh, *self._leaving):
            for job_id in replica.job_ids:
                if job_id not in jobs:
                    replica.job_ended(job_id)

    async def _look_at_replicas(self, snapshot: RuntimeSnapshot) -> None:
        known = {each.replica.replica_id: each.replica for each in snapshot.replicas}
        for replica in (*self._replicas, *self._fresh):
            found = known.get(replica.replica_id)
            if found is None:
                # It is about to be opened, or a reset of its runtime has removed it.
                if replica.opened:
                    await self._rejoin(replica)
            elif found.gone:
                if not replica.stopping and not replica.ended.called:
                    self._say("replica {replica_id} was deleted; its process ends", replica_id=replica.replica_id)
                    members = self._replicas if replica in self._replicas else self._fresh
                    members.remove(replica)
                    self._leaving.append(replica)
                    replica.stop(REPLICA_STOPPED)
                    if members is self._fresh:
                        self._launch(members)
            elif found.last_poll_at is not None and not replica.connected:
                replica.connected = True
                self._connected(replica)

    def _connected(self, replica: SupervisedReplica) -> None:
        now = self._workplace.reactor.seconds()
        took = now - replica.since
        if self._wanted_since is not None:
            self._cold_start, self._wanted_since = now - self._wanted_since, None
            self._say("cold start: connected {took:.2f} s after the first job", took=self._cold_start)
        else:
            self._say("connected, {took:.2f} s after the start", took=took)
        if not self._fresh:
            self._error = None

    def _end_idle(self, drained: list[SupervisedReplica], snapshot: RuntimeSnapshot) -> None:
        """End the processes that get no more jobs and have none."""
        busy = {each.replica.replica_id for each in snapshot.replicas if each.job_ids}
        for replica in drained:
            if replica.replica_id not in busy:
                replica.stop(REPLACED)

    async def _rejoin(self, replica: SupervisedReplica) -> None:
        """Open a replica again that a reset of its runtime has removed, while its process polls."""
        # The reset of the emulator may have done so already.
        with suppress(ReplicaExists, TokenInUse):
            await replica.open()


def _copy(waited: Deferred[str]) -> Deferred[None]:
    """Return a Deferred that fires when another one has fired."""
    copied: Deferred[None] = Deferred()

    def fire(result: str) -> str:
        copied.callback(None)
        return result

    waited.addCallback(fire)
    return copied
