"""Metrics of one emulator, for Prometheus.

No label has a value that a client can choose. Labels are the values of :class:`JobSource` and :class:`JobState`, and
the names of errors, so the number of time series does not depend on what runs in the emulator.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    Metric,
    ProcessCollector,
    generate_latest,
)

from . import __version__
from .broker.interface import BrokerLoad, Change
from .model.jobs import JobSource, JobState

#: Upper bounds of the buckets for times, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: Upper bounds of the buckets for the sizes of results, in bytes.
BYTES = (256, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024**2, 16 * 1024**2, 64 * 1024**2, 256 * 1024**2)


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which would double the number of series and which nothing here reads.

    ``prometheus_client`` can also switch them off, but only for the whole process. Tests that use the emulator may have
    metrics of their own.
    """

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


class Metrics:
    """The metrics of one emulator, in a registry of their own."""

    def __init__(self, connections: Callable[[], int]) -> None:
        """Create all metrics, each counter at 0.

        Args:
            connections: Returns the number of open connections.
        """
        registry = self._registry = _Registry()
        build = Info("twisted_cm_build", "Versions of the emulator and of Python.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})
        submitted = Counter("twisted_cm_jobs_submitted", "Submitted jobs.", ["source"], registry=registry)
        finished = Counter("twisted_cm_jobs_finished", "Finished jobs.", ["source", "state"], registry=registry)
        # Each change of a job counts. To look up the counter of its labels each time would cost more than to count.
        self._submitted = {source: submitted.labels(source.value) for source in JobSource}
        self._finished = {
            (source, state): finished.labels(source.value, state.value)
            for source in JobSource
            for state in JobState
            if state.finished
        }
        raised = Counter(
            "twisted_cm_jobs_raised", "Succeeded jobs whose functions raised.", ["source"], registry=registry
        )
        self._raised = {source: raised.labels(source.value) for source in JobSource}
        self._queued_again = Counter(
            "twisted_cm_jobs_queued_again",
            "Jobs that were queued again because their poller vanished or their lease ran out.",
            registry=registry,
        )
        self._dispatch = Histogram(
            "twisted_cm_job_dispatch_seconds",
            "Time from the submission of a job to its first dispatch.",
            buckets=SECONDS,
            registry=registry,
        )
        self._run = Histogram(
            "twisted_cm_job_run_seconds",
            "Time from the last dispatch of a job to its end.",
            buckets=SECONDS,
            registry=registry,
        )
        self._results = Histogram(
            "twisted_cm_result_size_bytes", "Size of the results of succeeded jobs.", buckets=BYTES, registry=registry
        )
        self._gaps = Counter(
            "twisted_cm_observation_gaps",
            "Times that the connection to the broker was lost, so that steps of jobs may not be counted.",
            registry=registry,
        )
        self._errors = Counter(
            "twisted_cm_error_answers", "Requests answered with an error.", ["error"], registry=registry
        )
        open_connections = Gauge("twisted_cm_open_connections", "Open connections of clients.", registry=registry)
        open_connections.set_function(connections)
        # By the fields of BrokerLoad.
        self._load = {
            field: Gauge(f"twisted_cm_{name}", text, registry=registry)
            for field, name, text in (
                ("runtimes", "runtimes", "Runtimes."),
                ("connected", "connected_runtimes", "Runtimes of which a replica is responsive or busy."),
                ("queued", "queued_jobs", "Jobs that wait for a poll."),
                ("running", "running_jobs", "Jobs that are dispatched and not finished."),
                ("parked_polls", "parked_polls", "Polls that wait for a job."),
                ("parked_callers", "parked_callers", "Callers that wait for a job to end."),
            )
        }
        ProcessCollector(registry=registry)

    def changed(self, change: Change) -> None:
        """Count a step of a job that was taken through this process. Observers of other processes count the others.

        This is an observer for :meth:`IBroker.observe`.
        """
        if change.missed:
            self._gaps.inc()
        job = change.job
        if job is None or not change.here:
            return
        if job.state is JobState.QUEUED:
            if job.attempts:
                self._queued_again.inc()
            else:
                self._submitted[job.submission.source].inc()
        elif job.state is JobState.RUNNING:
            if job.attempts == 1 and job.started_at is not None:
                self._dispatch.observe((job.started_at - job.queued_at) / 1000)
        else:
            self._finished[job.submission.source, job.state].inc()
            if job.raised is not None:
                self._raised[job.submission.source].inc()
            if job.started_at is not None and job.completed_at is not None:
                self._run.observe((job.completed_at - job.started_at) / 1000)
            if job.state is JobState.SUCCEEDED and job.result is not None:
                self._results.observe(job.result.size)

    def count_error(self, error: str) -> None:
        """Count an error answer by the error's name."""
        self._errors.labels(error).inc()

    def exposition(self, load: BrokerLoad) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and the content type.

        Args:
            load: The broker's load now.
        """
        for field, gauge in self._load.items():
            gauge.set(getattr(load, field))
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
