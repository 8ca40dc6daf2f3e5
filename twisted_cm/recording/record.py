"""How are jobs recorded?"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
from base64 import b64encode
from collections import OrderedDict, deque
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..broker.interface import BrokerUnavailable, Change, IBroker, UnknownJob
from ..broker.results import CHUNK
from ..model.jobs import Job, JobFilter, JobResult
from ..model.queries import PostedFunction
from ..model.replicas import SUPERVISED_PREFIX
from ..model.types import JSONValue
from .mask import mask_json, mask_text

#: A result with more bytes than this is not recorded; its size and SHA-256 are.
RESULT_LIMIT = 1024 * 1024

#: A job whose query has more bytes than this is not recorded: to mask it would hold up the reactor.
QUERY_LIMIT = 1024 * 1024

#: So many recorded jobs are remembered, to find those that are not recorded after the broker could not be reached.
MOST_REMEMBERED = 20_000

#: Seconds after the end of a job within which what its module wrote is kept, if the emulator has started the module.
OUTPUT_FOLLOWS = 0.2

#: So many jobs are asked for at once.
PAGE = 200


class CannotRecord(Exception):
    """The file cannot be written; the message says why."""


class _Finished(NamedTuple):
    """A job to record, and the schemas of its function, which are read as soon as the job has ended."""

    job: Job
    functions: Deferred[list[PostedFunction]]


class Recorder:
    """Appends each finished job to a file, in the order in which jobs finish.

    Each line is written with one call: it is complete, or it is removed again. A failed write never affects a job.
    The first of several failures is logged, and the first line that can be written after them.

    Attributes:
        path: The file.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, path: Path) -> None:
        """Open the file and lock it.

        Args:
            path: Created if it does not exist, for this user only. An existing file must be a recording.

        Raises:
            CannotRecord: The file cannot be written, is not a recording, or is locked by another emulator.
        """
        self.path = path
        self._reactor = reactor
        # ``None`` stands for the jobs that finished while the broker could not be reached.
        self._waiting: deque[_Finished | None] = deque()
        # The schemas in the file, by runtime and function.
        self._schemas: dict[tuple[str, str], JSONValue] = {}
        # When jobs ended that are recorded or wait for it. Those that ended before ``_since`` are left alone.
        self._recorded: OrderedDict[str, int] = OrderedDict()
        self._since = int(reactor.seconds() * 1000)
        self._writing: Deferred[None] = succeed(None)
        self._busy = False
        self._stopping = False
        self._missed = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotRecord(
                f"cannot record to {path}: {error.strerror}; choose another file with --record"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            problem = None if self._can_continue() else "it is not a recording"
            if problem is None and stat.S_ISREG(os.fstat(self._file).st_mode):
                # An existing file may be readable by others.
                os.fchmod(self._file, 0o600)
        except BlockingIOError:
            problem = "another emulator is recording to it"
        except OSError as error:
            problem = str(error.strerror)
        if problem is not None:
            os.close(self._file)
            raise CannotRecord(f"cannot record to {path}: {problem}; choose another file with --record")

    def _can_continue(self) -> bool:
        size = os.fstat(self._file).st_size
        return not size or (
            os.pread(self._file, 13, 0) == b'{"recording":' and os.pread(self._file, 1, size - 1) == b"\n"
        )

    def start(self, broker: IBroker) -> None:
        """Record the jobs that finish from now on. Call this once."""
        self._broker = broker
        broker.observe(self._changed)

    def _changed(self, change: Change) -> None:
        if not change.missed and (change.job is None or not change.job.state.finished):
            return
        if change.job is None:
            self._waiting.append(None)
        elif change.job.job_id not in self._recorded:
            self._waiting.append(self._finished(change.job))
        if not self._busy:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write_waiting())

    async def _write_waiting(self) -> None:
        while self._waiting:
            finished = self._waiting.popleft()
            if finished is None:
                await self._find_missed()
            else:
                await self._write(*finished)
        self._busy = False

    def _finished(self, job: Job) -> _Finished:
        """Remember a job, and ask for its schema at once: the module may post others before the job is written."""
        self._recorded[job.job_id] = job.completed_at or 0
        if len(self._recorded) > MOST_REMEMBERED:
            _, ended_at = self._recorded.popitem(last=False)
            self._since = max(self._since, ended_at + 1)
        return _Finished(job, self._broker.functions(job.submission.query_type, job.runtime_id))

    async def _find_missed(self) -> None:
        """Record the jobs that finished while the broker could not be reached."""
        try:
            missed = await self._unrecorded()
        except BrokerUnavailable:
            # It will say again that changes were missed.
            return
        self._log.warn(
            "the broker could not be reached; recording {count} jobs that finished meanwhile, without those that it has"
            " forgotten",
            count=len(missed),
        )
        await self._write_missed(missed)

    async def _write_missed(self, missed: list[Job]) -> None:
        for job in missed:
            if job.job_id not in self._recorded:
                await self._write(*self._finished(job))

    async def _unrecorded(self) -> list[Job]:
        """Return the finished jobs that are not recorded, the one that finished first at the start."""
        found: list[Job] = []
        before = None
        while page := await self._broker.jobs(JobFilter(before=before), PAGE):
            before = page[-1].number
            found += [each for each in page if each.state.finished and (each.completed_at or 0) >= self._since]
        unrecorded = [each for each in found if each.job_id not in self._recorded]
        unrecorded.sort(key=lambda each: each.completed_at or 0)
        return unrecorded

    async def _write(self, job: Job, functions: Deferred[list[PostedFunction]]) -> None:
        try:
            schema = self._new_schema(job, await functions)
            if job.submission.size > QUERY_LIMIT:
                self._log.warn(
                    "job {job_id} is not recorded: its query is larger than {limit} bytes",
                    job_id=job.job_id,
                    limit=QUERY_LIMIT,
                )
                return
            if job.replica_id is not None and job.replica_id.startswith(SUPERVISED_PREFIX):
                await self._until_output_is_kept(job)
                job = await self._broker.job(job.job_id)
            elif job.submission.query is None:
                # A broker may leave the query out of a change.
                job = await self._broker.job(job.job_id)
            if self._append(await self._line(job, schema)) and schema is not None:
                self._schemas[job.runtime_id, job.submission.query_type] = schema
        except UnknownJob:
            self._log.warn("job {job_id} is not recorded: it is forgotten already", job_id=job.job_id)
        except BrokerUnavailable:
            # It is found again among the jobs that were missed, when the broker is back.
            self._recorded.pop(job.job_id, None)
        except RecursionError:
            self._log.warn("job {job_id} is not recorded: its query or result is nested too deeply", job_id=job.job_id)
        except Exception:
            self._log.failure("job {job_id} is not recorded", job_id=job.job_id)

    async def _until_output_is_kept(self, job: Job) -> None:
        """Wait a moment for what the module wrote: it is kept after the end of the job is known."""
        left = (job.completed_at or 0) / 1000 + OUTPUT_FOLLOWS - self._reactor.seconds()
        if left > 0 and not self._stopping:
            await deferLater(self._reactor, min(left, OUTPUT_FOLLOWS))

    def _new_schema(self, job: Job, functions: list[PostedFunction]) -> JSONValue:
        """Return the schema of a job's function; ``None`` if the file has it already, or if there is none."""
        schema = functions[0].schema.payload if functions else None
        return schema if schema != self._schemas.get((job.runtime_id, job.submission.query_type)) else None

    async def _line(self, job: Job, schema: JSONValue) -> bytes:
        submission = job.submission
        record = {
            "recording": 1,
            "job_id": job.job_id,
            "function": submission.query_type,
            **({} if schema is None else {"schema": schema}),
            "query": None if submission.query is None else mask_json(submission.query),
            "state": job.state.value,
            "raised": job.raised is not None,
            "result": None if job.result is None else await self._result(job.result),
            "message": job.error_message,
            "runtime": job.runtime_id,
            "deployed_app_rid": submission.deployed_app_rid,
            "branch": submission.branch,
            "queued_at": job.queued_at,
            "started_at": job.started_at,
            "completed_at": job.completed_at,
            "attempts": job.attempts,
            "output": None
            if job.output is None
            else "".join(f"{mask_text(line)}\n" for line in job.output.splitlines()),
        }
        # ASCII has no line separators besides the one at the end.
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"

    async def _result(self, result: JobResult) -> JSONValue:
        if result.size > RESULT_LIMIT:
            digest = sha256()
            offset = 0
            while chunk := await result.read(offset, CHUNK):
                digest.update(chunk)
                offset += len(chunk)
                # A result has no size limit: let the reactor serve others between chunks.
                await deferLater(self._reactor, 0)
            return {"bytes": offset, "sha256": digest.hexdigest()}
        content = await result.read(0, result.size)
        ends = await result.ends(0, result.size)
        noted = {"ends": ends} if ends else {}
        try:
            text = content.decode("utf-8")
        except UnicodeDecodeError:
            return {"base64": b64encode(content).decode("ascii"), **noted}
        masked = mask_text(text)
        # In a text that was changed, the offsets are others.
        return {"text": masked, **(noted if masked == text else {})}

    def _append(self, line: bytes) -> bool:
        """Write a line; return whether that was possible."""
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # A device cannot be truncated.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            if not self._missed:
                self._log.error(
                    "cannot record to {path}: {reason}; jobs continue, but are not recorded until this is fixed",
                    path=self.path,
                    reason=error.strerror,
                )
            self._missed += 1
            return False
        if self._missed:
            self._log.warn("recording to {path} again; {count} jobs are missing", path=self.path, count=self._missed)
            self._missed = 0
        return True

    async def stop(self) -> None:
        """Record the finished jobs that are not recorded yet, and close the file.

        Call this between the stop and the closing of the broker.
        """
        self._stopping = True
        try:
            await self._writing
            # On Redis, a job's caller can know of its end before this observer does.
            await self._write_missed(await self._unrecorded())
        except BrokerUnavailable:
            self._log.warn("the broker cannot be reached; jobs that finished meanwhile are not recorded")
        finally:
            os.close(self._file)
