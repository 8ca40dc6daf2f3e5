"""
What is counted, and how Prometheus reads it.

Counting is adding to plain integers as the broker tells of changes, from the
start and with nothing imported for it; C{prometheus_client} is imported when
somebody asks for the first time.  Each emulator counts for itself.

No label has a value that a client can choose: they are the words of
L{JobSource} and L{JobState} and the names of errors, so that the number of time
series does not depend on what runs here.
"""

from __future__ import annotations

import platform
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric

from . import __version__
from .broker.interface import BrokerLoad, Change
from .model.jobs import JobSource, JobState

#: Upper bounds of the buckets that times are counted in, in seconds.
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


#: Upper bounds of the buckets that results are counted in, in bytes.
BYTES = (256, 1024, 16 * 1024, 64 * 1024, 256 * 1024, 1024**2, 16 * 1024**2, 64 * 1024**2, 256 * 1024**2)


class Distribution:
    """
    How often which values came, by buckets.

    @ivar total: the sum of all values.
    """

    def __init__(self, bounds: Iterable[float]) -> None:
        """
        @param bounds: the upper bound of each bucket but the last, which has none.
        """
        self._bounds = tuple(bounds)
        self._counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def add(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        """
        @return: for each upper bound, how many values were not above it.
        """
        bounds = (*map(float, self._bounds), float("inf"))
        return [
            ("+Inf" if bound == float("inf") else str(bound), count)
            for bound, count in zip(bounds, accumulate(self._counts), strict=True)
        ]


class Metrics:
    """
    The counts of one emulator.

    @ivar errors: how many error answers there were, by the error's name.
    """

    def __init__(self, connections: Callable[[], int]) -> None:
        """
        @param connections: how many connections are open.
        """
        self.errors: Counter[str] = Counter()
        self._connections = connections
        self._submitted: Counter[JobSource] = Counter()
        self._finished: Counter[tuple[JobSource, JobState]] = Counter()
        self._queued_again = 0
        self._dispatch = Distribution(SECONDS)
        self._run = Distribution(SECONDS)
        self._results = Distribution(BYTES)
        self._load: BrokerLoad | None = None
        self._registry: CollectorRegistry | None = None

    def changed(self, change: Change) -> None:
        """Count a step of a job; for L{twisted_cm.broker.IBroker.observe}."""
        job = change.job
        if job is None:
            return
        if job.state is JobState.QUEUED:
            if job.attempts:
                self._queued_again += 1
            else:
                self._submitted[job.submission.source] += 1
        elif job.state is JobState.RUNNING:
            if job.attempts == 1 and job.started_at is not None:
                self._dispatch.add((job.started_at - job.queued_at) / 1000)
        else:
            self._finished[job.submission.source, job.state] += 1
            if job.started_at is not None and job.completed_at is not None:
                self._run.add((job.completed_at - job.started_at) / 1000)
            if job.state is JobState.SUCCEEDED and job.result is not None:
                self._results.add(job.result.size)

    def exposition(self, load: BrokerLoad) -> tuple[bytes, str]:
        """
        @param load: the broker's load now.
        @return: everything, as Prometheus reads it, and its content type.
        """
        # It would make every start slower.
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, ProcessCollector, generate_latest

        if self._registry is None:
            self._registry = CollectorRegistry()
            self._registry.register(self)
            ProcessCollector(registry=self._registry)
        self._load = load
        return generate_latest(self._registry), CONTENT_TYPE_LATEST

    def collect(self) -> Iterator[Metric]:
        """
        @return: what is counted; called by a registry of C{prometheus_client}.
        """
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
            InfoMetricFamily,
        )

        build = {"version": __version__, "python": platform.python_version()}
        yield InfoMetricFamily("twisted_cm_build", "Which emulator this is.", build)
        submitted = CounterMetricFamily(
            "twisted_cm_jobs_submitted", "Jobs that were queued, by the door they came in by.", labels=["source"]
        )
        finished = CounterMetricFamily(
            "twisted_cm_jobs_finished", "Jobs that have ended, by how.", labels=["source", "state"]
        )
        for source in JobSource:
            submitted.add_metric([source.value], self._submitted[source])
            for state in JobState:
                if state.finished:
                    finished.add_metric([source.value, state.value], self._finished[source, state])
        yield submitted
        yield finished
        yield CounterMetricFamily(
            "twisted_cm_jobs_queued_again",
            "Jobs that went back to their queue: the poller vanished, or the lease ran out.",
            self._queued_again,
        )
        for name, text, distribution in (
            ("job_dispatch_seconds", "From submission to the first poll that was handed the job.", self._dispatch),
            ("job_run_seconds", "From the last dispatch to the end.", self._run),
            ("result_size_bytes", "Results of jobs that succeeded.", self._results),
        ):
            yield HistogramMetricFamily(f"twisted_cm_{name}", text, distribution.buckets(), distribution.total)
        errors = CounterMetricFamily(
            "twisted_cm_error_answers", "Requests that were answered with an error, by its name.", labels=["error"]
        )
        for error, count in sorted(self.errors.items()):
            errors.add_metric([error], count)
        yield errors
        yield GaugeMetricFamily("twisted_cm_open_connections", "Connections of clients.", self._connections())
        load = self._load
        assert load is not None
        for name, text, now in (
            ("runtimes", "Runtimes that there are.", load.runtimes),
            ("connected_runtimes", "Runtimes that have polled.", load.connected),
            ("queued_jobs", "Jobs that wait for a poll.", load.queued),
            ("running_jobs", "Jobs that are handed out and have not ended.", load.running),
            ("parked_polls", "Polls that wait for a job.", load.parked_polls),
            ("parked_callers", "Callers that wait for a job's end.", load.parked_callers),
        ):
            yield GaugeMetricFamily(f"twisted_cm_{name}", text, now)
