"""Metrics of one emulator, for Prometheus.

If the emulator has several processes, they count in files that they share, with the multiprocess mode of
``prometheus_client``. The files outlive a process that is killed, so each step of a job is counted once.

No label has a value that a client can choose. Labels are the values of :class:`JobSource` and :class:`JobState`, and
the names of errors, so the number of time series does not depend on what runs in the emulator.
"""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

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
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from . import __version__
from .broker.interface import BrokerLoad, Change
from .model.jobs import JobSource, JobState

#: Upper bounds of the buckets for times, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
#: Upper bounds of the buckets for the sizes of results, in bytes.
BYTES = (256, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024**2, 16 * 1024**2, 64 * 1024**2, 256 * 1024**2)


# The label that names a process. It has the names of SharedMetrics, which are no process ids.
_LABELS = {"pid": "worker"}

#: The variable that names the directory of the files of ``prometheus_client``.
_DIRECTORY = "PROMETHEUS_MULTIPROC_DIR"

# What a gauge shows of several processes: the sum over those that run, or what the last one has found that looked.
_SUM: Any = "livesum"
_LAST: Any = "mostrecent"


class _Registry(CollectorRegistry):
    """A registry without the ``_created`` series, which would double the number of series and which nothing here reads.

    ``prometheus_client`` can also switch them off, but only for the whole process. Tests that use the emulator may have
    metrics of their own.
    """

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [
                sample._replace(labels={_LABELS.get(name, name): value for name, value in sample.labels.items()})
                for sample in metric.samples
                if not sample.name.endswith("_created")
            ]
            yield metric


class SharedMetrics:
    """The files in which the processes of one emulator count together.

    From the moment that one is made, each metric of this process is kept in a file, whoever makes it. So it is only for
    processes that run an emulator and nothing else.

    Attributes:
        directory: Has the files.
    """

    def __init__(self, directory: Path, name: str) -> None:
        """Count in files of this process.

        Args:
            directory: Where all processes have their files.
            name: The name of this process. A process that is started in place of another one has the same name and
                continues its counters.
        """
        self.directory = directory
        values.ValueClass = values.MultiProcessValue(lambda: name)
        # Read when the first metric of a kind is made. Processes that this one starts must not write to the files.
        os.environ[_DIRECTORY] = str(directory)

    def made(self) -> None:
        """Note that the metrics of this process have been made."""
        os.environ.pop(_DIRECTORY, None)

    def forget(self, name: str) -> None:
        """Forget what a process that has ended had open. What it has counted stays."""
        mark_process_dead(name, str(self.directory))


class Metrics:
    """The metrics of one emulator, in a registry of their own."""

    def __init__(self, connections: Callable[[], int], shared: SharedMetrics | None = None) -> None:
        """Create all metrics, each counter at 0.

        Args:
            connections: Returns the number of open connections.
            shared: The files of all processes of this emulator; ``None`` if it has one process.
        """
        registry = _Registry()
        self._connections = connections
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
        self._open_connections = Gauge(
            "twisted_cm_open_connections", "Open connections of clients.", registry=registry, multiprocess_mode=_SUM
        )
        # By the fields of BrokerLoad.
        self._load = {
            field: Gauge(f"twisted_cm_{name}", text, registry=registry, multiprocess_mode=mode)
            for field, name, text, mode in (
                ("runtimes", "runtimes", "Runtimes.", _LAST),
                ("connected", "connected_runtimes", "Runtimes of which a replica is responsive or busy.", _LAST),
                ("queued", "queued_jobs", "Jobs that wait for a poll.", _LAST),
                ("running", "running_jobs", "Jobs that are dispatched and not finished.", _LAST),
                ("parked_polls", "parked_polls", "Polls that wait for a job.", _SUM),
                ("parked_callers", "parked_callers", "Callers that wait for a job to end.", _SUM),
            )
        }
        self._process = ProcessCollector(registry=None)
        self._of_process: dict[str, Gauge] = {}
        if shared is None:
            registry.register(self._process)
        else:
            self._count_process()
            shared.made()
            registry = _Registry()
            MultiProcessCollector(registry, str(shared.directory))
        build = Info("twisted_cm_build", "Versions of the emulator and of Python.", registry=registry)
        build.info({"version": __version__, "python": platform.python_version()})
        self._registry = registry
        self._shared = shared

    def _count_process(self) -> None:
        """Set the metrics of this process, each with a label that says which process it is."""
        for family in self._process.collect():
            for sample in family.samples:
                gauge = self._of_process.get(sample.name)
                if gauge is None:
                    gauge = self._of_process[sample.name] = Gauge(
                        sample.name, family.documentation, registry=None, multiprocess_mode="liveall"
                    )
                gauge.set(sample.value)

    def changed(self, change: Change) -> None:
        """Count a step of a job.

        This is an observer for :meth:`IBroker.observe`. It hears only of steps that are taken through this process:
        other processes that share the broker count the others.
        """
        if change.missed:
            self._gaps.inc()
        job = change.job
        if job is None:
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

    def update(self, load: BrokerLoad) -> None:
        """Set what this process has open now. Metrics that several processes share need this from time to time.

        Args:
            load: The broker's load now.
        """
        self._open_connections.set(self._connections())
        for field, gauge in self._load.items():
            gauge.set(getattr(load, field))
        if self._shared is not None:
            self._count_process()

    def exposition(self, load: BrokerLoad) -> tuple[bytes, str]:
        """Return all metrics in Prometheus' text format, and the content type.

        Args:
            load: The broker's load now.
        """
        self.update(load)
        return generate_latest(self._registry), CONTENT_TYPE_LATEST
