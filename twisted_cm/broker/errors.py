"""The errors of all brokers."""

from __future__ import annotations


class BrokerError(Exception):
    """The base class of a broker's errors. ``args`` hold the values that describe the error."""


class UnknownRuntime(BrokerError):
    """There is no runtime with that id. The argument is the id."""


class UnknownReplica(BrokerError):
    """A runtime has no such replica, or it is gone. The arguments are the ids of the runtime and of the replica."""


class ReplicaExists(BrokerError):
    """A replica with that id is open. The arguments are the ids of the runtime and of the replica."""


class TokenInUse(BrokerError):
    """A replica is to have a token that a runtime or another replica has. The argument is the id of the runtime."""


class UnknownJob(BrokerError):
    """There is no job with that id, or it belongs to another runtime. The argument is the id."""


class NotBound(BrokerError):
    """No active runtime is bound to a deployed app. The arguments are its rid and its branch, or ``None``."""


class JobAlreadyCompleted(BrokerError):
    """The job has finished with another result. The argument is its id."""


class IdempotencyKeyReused(BrokerError):
    """The key of a submission stands for a job that was submitted otherwise. The argument is the job's id."""


class QueueFull(BrokerError):
    """The queue is full. The arguments are the runtime's id, the limit and its unit: ``jobs`` or ``bytes``."""


class BrokerStopped(BrokerError):
    """The broker is shutting down and accepts no more work."""


class BrokerUnavailable(BrokerError):
    """The broker's storage cannot be reached now, or refuses to work. The argument is the reason."""
