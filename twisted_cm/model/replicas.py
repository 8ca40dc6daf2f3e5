"""Replicas of runtimes, and the states they are in (contract section 1a)."""

from __future__ import annotations

import secrets

from attrs import define, field, frozen

from .runtimes import new_module_auth_token
from .states import ReplicaState as ReplicaState

#: The replica whose routes are those of the runtime itself. Every runtime has it, and it has no limit.
DEFAULT_REPLICA = "default"

#: How generated ids of replicas begin.
REPLICA_PREFIX = "replica-"

#: How ids of replicas begin whose processes the emulator has started.
SUPERVISED_PREFIX = f"{REPLICA_PREFIX}own-"

#: The limit of a replica that asks for none, which is Foundry's.
DEFAULT_CONCURRENT_TASKS = 1

#: The highest limit that a replica may ask for.
MOST_CONCURRENT_TASKS = 10_000

#: Seconds without a parked poll and without a word after which an idle replica counts as silent. A client polls again
#: as soon as its last poll is answered, so these seconds begin when the last poll ends, and not when it began.
SILENT_AFTER = 10.0

#: The same for a replica that runs a job: a client that does one job at a time does not poll meanwhile. If jobs have a
#: shorter lease, the job leaves the replica when its lease runs out.
SILENT_AT_WORK_AFTER = 300.0

#: How many replicas that are gone are remembered for each runtime: the latest ones.
GONE_KEPT = 20


@frozen
class ModuleIdentity:
    """The replica that a module auth token belongs to."""

    runtime_id: str
    replica_id: str = DEFAULT_REPLICA


@define(eq=False)
class Replica:
    """One replica of a runtime. All times are in milliseconds since the epoch.

    Attributes:
        token: The module auth token of its routes.
        limit: How many unfinished jobs may be on it; ``None`` for no limit, which only the default replica has.
        last_poll_at: When it last began to poll.
        last_heard_at: When something was last heard of it: a poll began or ended, or a word on a job came.
        draining: Whether it gets no more jobs.
        ended_at: When it was closed.
        ended_why: Why it was closed.
    """

    runtime_id: str
    replica_id: str
    token: str = field(repr=False)
    limit: int | None = None
    opened_at: int = 0
    last_poll_at: int | None = None
    last_heard_at: int | None = None
    draining: bool = False
    ended_at: int | None = None
    ended_why: str | None = None

    @property
    def gone(self) -> bool:
        """Whether it was closed."""
        return self.ended_at is not None

    @property
    def supervised(self) -> bool:
        """Whether the emulator has started its process."""
        return self.replica_id.startswith(SUPERVISED_PREFIX)

    def has_room(self, jobs: int) -> bool:
        """Return whether it may get another job while that many unfinished jobs are on it."""
        return not (self.draining or self.gone) and (self.limit is None or jobs < self.limit)

    def state(self, jobs: int, polls: int, now: int) -> ReplicaState:
        """Return the state that it is in.

        Args:
            jobs: How many unfinished jobs are on it.
            polls: How many of its polls are parked.
            now: Milliseconds since the epoch.
        """
        if self.gone:
            return ReplicaState.GONE
        if self.last_poll_at is None:
            return ReplicaState.STARTING
        patience = SILENT_AT_WORK_AFTER if jobs else SILENT_AFTER
        if not polls and now - max(self.last_poll_at, self.last_heard_at or 0) > patience * 1000:
            return ReplicaState.SILENT
        return ReplicaState.RESPONSIVE if self.has_room(jobs) else ReplicaState.BUSY


@frozen
class ReplicaRequest:
    """A request to open a replica (contract section 1a).

    Attributes:
        replica_id: Its id; ``None`` for a generated one.
        limit: How many unfinished jobs may be on it.
        deployed_app_rid: A deployed app to bind to the runtime, or ``None``.
        branch: The branch of the deployed app; ``None`` means ``master``.
        token: The module auth token that it is to have; ``None`` for a generated one. A process that was started with a
            token can join an emulator again that does not know it any more.
    """

    runtime_id: str
    replica_id: str | None = None
    limit: int = DEFAULT_CONCURRENT_TASKS
    deployed_app_rid: str | None = None
    branch: str | None = None
    token: str | None = field(default=None, repr=False)

    def replica(self, now: int) -> Replica:
        """Return the replica to open."""
        replica_id, token = self.replica_id or new_replica_id(), self.token or new_module_auth_token()
        return Replica(self.runtime_id, replica_id, token, self.limit, opened_at=now)


def new_supervised_replica_id() -> str:
    """Return a new id for a replica whose process the emulator starts."""
    return SUPERVISED_PREFIX + secrets.token_hex(6)


def new_replica_id() -> str:
    """Return a new id for a replica."""
    return REPLICA_PREFIX + secrets.token_hex(8)
