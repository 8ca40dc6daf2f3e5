"""How long requests park, how large they may be, and how many jobs are kept."""

from __future__ import annotations

from attrs import frozen


@frozen
class Limits:
    """
    How long requests park and how large they may be.

    @ivar poll_timeout: seconds that a job poll parks.
    @ivar sync_timeout: seconds that a synchronous caller parks.
    @ivar max_body: the most bytes of a request body, results included.
    """

    poll_timeout: float = 2.0
    sync_timeout: float = 30.0
    max_body: int = 64 * 1024 * 1024


@frozen
class JobLimits:
    """
    How long jobs may run unheard of, and how many are kept.

    @ivar lease: seconds that a dispatched job may go without a word from its
        runtime before it is queued again; L{None} for as long as it likes.
    @ivar max_attempts: how many times a job is dispatched before it fails for want of a result.
    @ivar queue_depth: the most jobs that wait for one runtime.
    @ivar queue_bytes: the most bytes of the queries of all jobs that are not finished.
    @ivar retained_jobs: the most finished jobs that are kept.
    @ivar retained_bytes: the most bytes of their queries and results; the last finished job is kept however large.
    @ivar retained_seconds: how long a finished job is kept.
    """

    lease: float | None = None
    max_attempts: int = 3
    queue_depth: int = 10_000
    queue_bytes: int = 1024 * 1024 * 1024
    retained_jobs: int = 10_000
    retained_bytes: int = 256 * 1024 * 1024
    retained_seconds: float = 3600.0
