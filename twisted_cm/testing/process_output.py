"""Read what a process prints while it runs."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from contextlib import suppress

_CHUNK = 65536

#: Seconds within which the pipe of a process that has exited reaches its end.
_LAST_WORDS = 1.0


class ProcessOutput:
    """The output of a process, and its end.

    Two threads wait for both, so the process never blocks because nobody reads. When it has exited, the other processes
    of its group are killed.

    Attributes:
        process: The process. Only this object waits for it.
        status: The exit status of the process, or ``None`` while it runs.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Begin to read.

        Args:
            process: Its standard output must be a pipe, and it must lead a process group of its own.
        """
        assert process.stdout is not None
        self.process = process
        self._pipe = process.stdout.fileno()
        self._changed = threading.Condition()
        self._content = bytearray()
        self._open = True
        self.status: int | None = None
        self._reader = threading.Thread(target=self._read_to_end, daemon=True)
        self._reader.start()
        threading.Thread(target=self._wait_for_exit, daemon=True).start()

    def content(self) -> bytes:
        """Return everything that the process has written until now."""
        with self._changed:
            self._read_available()
            return bytes(self._content)

    def wait_until(self, reached: Callable[[bytes], bool], timeout: float) -> bool:
        """Wait until a condition on the output holds, or the process has exited.

        Args:
            reached: Takes everything that the process has written.
            timeout: The longest time to wait, in seconds.

        Returns:
            Whether the condition holds.
        """
        with self._changed:
            self._changed.wait_for(lambda: self.status is not None or reached(bytes(self._content)), timeout)
            self._read_available()
            return reached(bytes(self._content))

    def wait_for_exit(self, timeout: float) -> bool:
        """Wait until the process has exited; return whether it has."""
        with self._changed:
            return self._changed.wait_for(lambda: self.status is not None, timeout)

    def kill(self) -> None:
        """Kill the process and its group."""
        # On macOS, a process that has exited cannot get a signal.
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Close the pipe of a process that has exited, unless a child of it still writes to it."""
        self._reader.join(_LAST_WORDS)
        if not self._reader.is_alive():
            assert self.process.stdout is not None
            self.process.stdout.close()

    def _readable(self, timeout: int | None) -> bool:
        poll = select.poll()
        poll.register(self._pipe, select.POLLIN)
        return bool(poll.poll(timeout))

    def _read_available(self) -> None:
        # The caller holds the lock. Bytes that the process has written are in the pipe, whatever the thread does.
        while self._open and self._readable(0):
            chunk = os.read(self._pipe, _CHUNK)
            self._open = bool(chunk)
            self._content += chunk
        self._changed.notify_all()

    def _read_to_end(self) -> None:
        while self._open:
            self._readable(None)
            with self._changed:
                self._read_available()

    def _wait_for_exit(self) -> None:
        if hasattr(os, "waitid"):
            # Until it is waited for, its id belongs to no other process.
            os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
            self.kill()
        status = self.process.wait()
        with self._changed:
            self.status = status
            self._changed.notify_all()
