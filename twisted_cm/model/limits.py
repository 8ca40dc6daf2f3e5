"""The limits on requests and on jobs."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import Factory, field, frozen

from .finite import finite_field


@frozen
class Limits:
    """How long requests park and how large they may be.

    Attributes:
        poll_timeout: Seconds that a job poll parks.
        sync_timeout: Seconds that a synchronous caller parks.
        max_body: The maximum size of a request body in bytes, results included.
    """

    poll_timeout: float = field(default=2.0, validator=finite_field)
    sync_timeout: float = field(default=30.0, validator=finite_field)
    max_body: int = 64 * 1024 * 1024


@frozen
class JobLimits:
    """How long jobs may run without news, how many may wait, and how many are kept.

    Attributes:
        lease: Seconds that a dispatched job may go without news from its runtime before it is queued again; ``None``
            for no limit.
        max_attempts: How many times a job is dispatched before it fails because no result arrives.
        queue_depth: The maximum number of jobs that wait for one runtime.
        queue_bytes: The maximum size of the queries of all unfinished jobs, in bytes.
        retained_jobs: The maximum number of finished jobs that are kept.
        retained_bytes: The maximum size of their queries and results, in bytes. The last finished job is kept even
            if it is larger.
        retained_seconds: Seconds that a finished job is kept.
    """

    lease: float | None = field(default=None, validator=finite_field)
    max_attempts: int = 3
    queue_depth: int = 10_000
    queue_bytes: int = 1024 * 1024 * 1024
    retained_jobs: int = 10_000
    retained_bytes: int = 256 * 1024 * 1024
    retained_seconds: float = field(default=3600.0, validator=finite_field)


@frozen
class TimeLimits:
    """How long the jobs of a runtime may run, in seconds.

    Attributes:
        default: The limit of functions that have none of their own; ``None`` for no limit.
        functions: The limits of functions, by name.
    """

    default: float | None = None
    functions: Mapping[str, float] = Factory(dict)

    def of(self, function: str) -> float | None:
        """Return the limit of a function."""
        return self.functions.get(function, self.default)
