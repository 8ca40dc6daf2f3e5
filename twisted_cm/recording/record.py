"""Append each job that ends to a file."""

from __future__ import annotations

import errno
import fcntl
import json
import os
from base64 import b64encode
from collections import deque
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater
from twisted.logger import Logger

from ..broker.interface import Change, IBroker
from ..broker.results import CHUNK
from ..model.jobs import Job, JobResult
from ..model.types import JSONValue
from .mask import mask_query, mask_text

#: The largest result, in bytes, that is recorded itself; of a larger one its size and SHA-256 are.
RESULT_LIMIT = 1024 * 1024


class CannotRecord(Exception):
    """The file cannot be written to; the message says why."""


class Recorder:
    """
    Appends each job that ends to a file, in the order in which they do.

    A line is there whole or not at all, and when the write has returned.  If it
    cannot be written, that is logged once, until one can be again; jobs do not
    care.
    """

    _log = Logger()

    def __init__(self, reactor: IReactorTime, path: Path) -> None:
        """
        @param path: made if it is not there, readable by this user only; else it must be a recording.
        @raise CannotRecord: it cannot be written, or is something else.
        """
        self.path = path
        self._reactor = reactor
        self._waiting: deque[Job] = deque()
        self._writing: Deferred[None] = succeed(None)
        self._busy = False
        self._missed = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CannotRecord(
                f"cannot record to {path}: {error.strerror}; choose another file with --record"
            ) from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            problem = None if self._fits() else "it is no recording that could be continued"
        except BlockingIOError:
            problem = "another emulator records to it"
        except OSError as error:
            problem = str(error.strerror)
        if problem is not None:
            os.close(self._file)
            raise CannotRecord(f"cannot record to {path}: {problem}; choose another file with --record")

    def _fits(self) -> bool:
        size = os.fstat(self._file).st_size
        return not size or (
            os.pread(self._file, 13, 0) == b'{"recording":' and os.pread(self._file, 1, size - 1) == b"\n"
        )

    def start(self, broker: IBroker) -> None:
        """Record what ends from now on; to be called once."""
        broker.observe(self._changed)

    def _changed(self, change: Change) -> None:
        if change.job is None or not change.job.state.finished:
            return
        self._waiting.append(change.job)
        if not self._busy:
            self._busy = True
            self._writing = Deferred.fromCoroutine(self._write_waiting())

    async def _write_waiting(self) -> None:
        while self._waiting:
            job = self._waiting.popleft()
            try:
                self._append(await self._line(job))
            except RecursionError:
                self._log.warn("job {job_id} is not recorded: it is nested too deeply", job_id=job.job_id)
            except Exception:
                self._log.failure("job {job_id} is not recorded", job_id=job.job_id)
        self._busy = False

    async def _line(self, job: Job) -> bytes:
        submission = job.submission
        record = {
            "recording": 1,
            "job_id": job.job_id,
            "function": submission.query_type,
            "query": mask_query(submission.query),
            "state": job.state.value,
            "result": None if job.result is None else await self._result(job.result),
            "message": job.error_message,
            "runtime": job.runtime_id,
            "deployed_app_rid": submission.deployed_app_rid,
            "branch": submission.branch,
            "queued_at": job.queued_at,
            "started_at": job.started_at,
            "completed_at": job.completed_at,
            "attempts": job.attempts,
        }
        # ASCII, so that there are no other ends of lines in it.
        return json.dumps(record, separators=(",", ":")).encode("ascii") + b"\n"

    async def _result(self, result: JobResult) -> JSONValue:
        if result.size > RESULT_LIMIT:
            digest = sha256()
            offset = 0
            while chunk := await result.read(offset, CHUNK):
                digest.update(chunk)
                offset += len(chunk)
                # Others have their turn: a result may be as large as one likes.
                await deferLater(self._reactor, 0)
            return {"bytes": offset, "sha256": digest.hexdigest()}
        content = await result.read(0, result.size)
        try:
            return {"text": mask_text(content.decode("utf-8"))}
        except UnicodeDecodeError:
            return {"base64": b64encode(content).decode("ascii")}

    def _append(self, line: bytes) -> None:
        size = os.fstat(self._file).st_size
        try:
            if os.write(self._file, line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            # What is no file has no size.
            with suppress(OSError):
                os.ftruncate(self._file, size)
            if not self._missed:
                self._log.error(
                    "cannot record to {path}: {reason}; jobs go on, and are missing there from now on",
                    path=self.path,
                    reason=error.strerror,
                )
            self._missed += 1
            return
        if self._missed:
            self._log.warn("recording to {path} again; {count} jobs are missing", path=self.path, count=self._missed)
            self._missed = 0

    def stop(self) -> Deferred[None]:
        """
        To be called when the broker has stopped.

        @return: fires when all that had ended by then is in the file, and it is closed.
        """
        return self._writing.addBoth(lambda _: os.close(self._file))
