"""Reading jobs and runtimes from what Redis returned or published."""

from __future__ import annotations

import json
from collections.abc import Iterable

from attrs import evolve

from ...model.jobs import Attempt, Job, JobSource, JobState, Submission
from ...model.runtimes import FunctionSchema, Runtime
from .node import RedisNode
from .results import Followers, RedisResult
from .values import content, pairs


class JobRecords:
    """Reads jobs. Their results are read from Redis, and followed, on demand."""

    def __init__(self, node: RedisNode, followers: Followers) -> None:
        self._node = node
        self._followers = followers

    def job(self, record: Iterable[bytes | str], query: bytes | str | None = None) -> Job:
        """Read a job.

        Args:
            record: Its fields, as a flat list of names and values.
            query: Its query, if it is known.
        """
        fields = pairs(record)
        meta = json.loads(fields["meta"])
        submission = Submission(
            fields["type"],
            None if query is None else content(query),
            JobSource(meta["source"]),
            meta["deployed_app_rid"],
            meta["branch"],
            meta["submitter"],
            int(fields["size"]),
            fields.get("key"),
        )
        job = Job(fields["id"], fields["runtime"], submission, int(fields["queued_at"]), int(fields["number"]))
        job.state = JobState(fields["state"])
        job.attempts = int(fields["attempts"])
        job.started_at = int(fields["started_at"]) if "started_at" in fields else None
        job.completed_at = int(fields["completed_at"]) if "completed_at" in fields else None
        job.error_message = fields.get("error")
        job.attempt_log = [
            _attempt(fields[f"a{number}"]) for number in range(1, job.attempts + 1) if f"a{number}" in fields
        ]
        if "body" in fields:
            job.result = RedisResult(
                self._node,
                self._followers,
                job.job_id,
                fields.get("content_type"),
                fields["body"],
                int(fields["result_size"]),
                "whole" in fields,
            )
        return job

    def finished_job(self, record: Iterable[bytes | str], data: bytes | str | bool | None) -> Job:
        """Read a job that comes with the bytes of its result, if the result is whole and small."""
        job = self.job(record)
        if isinstance(job.result, RedisResult) and data is not None and not isinstance(data, bool):
            job.result.data = content(data)
        return job


def describe_submission(submission: Submission) -> dict[str, str | None]:
    """Return the part of a submission that is kept as JSON, in the field ``meta`` of the job."""
    return {
        "source": submission.source.value,
        "deployed_app_rid": submission.deployed_app_rid,
        "branch": submission.branch,
        "submitter": submission.submitter,
    }


def _attempt(stored: str) -> Attempt:
    started, _, rest = stored.partition(" ")
    ended, _, outcome = rest.partition(" ")
    return Attempt(int(started), int(ended) if ended else None, outcome or None)


def read_runtime(known: Runtime, process: Iterable[bytes | str], schemas: Iterable[bytes | str]) -> Runtime:
    """Read a runtime.

    Args:
        known: The runtime as the registry has it.
        process: The fields of what its process has done.
        schemas: The schemas that it has posted, as JSON by the names of their functions.
    """
    fields = pairs(process)
    posted_at = fields.get("last_schema_post_at")
    found = {}
    for name, stored in pairs(schemas).items():
        schema = json.loads(stored)
        found[name] = FunctionSchema(name, schema["payload"], tuple(schema["issues"]), schema["posted_at"])
    return evolve(
        known,
        opened_at=int(fields["opened_at"]),
        connected="last_poll_at" in fields,
        last_poll_at=int(fields["last_poll_at"]) if "last_poll_at" in fields else None,
        last_schema_post_at=None if posted_at is None else int(posted_at),
        schemas=None if posted_at is None else found,
    )


def describe_schema(schema: FunctionSchema, now: int) -> dict[str, object]:
    """Return what is kept as JSON of a schema that is posted at ``now``."""
    return {"payload": schema.payload, "issues": schema.issues, "posted_at": now}
