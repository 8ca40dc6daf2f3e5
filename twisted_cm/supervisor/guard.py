"""Clean up what a process leaves behind, however it ends.

:class:`Guard` runs this file as a script, in a Python without site packages: ``guard.py DIRECTORY...``. On standard
input, the script reads a line ``+GROUP`` for each process group that has started, and ``-GROUP`` for each that has
ended. When its input ends, the process that it guards is gone. It then kills the process groups that are left, and
removes the directories.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress


def main(lines: Iterable[str], directories: Sequence[str]) -> None:
    """Read lines until they end, then kill every process group that has not ended, and remove the directories."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # Ctrl-C and the end of a terminal are for the guarded process, which ends this one in the end.
        signal.signal(number, signal.SIG_IGN)
    groups: set[int] = set()
    for line in lines:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(group, signal.SIGKILL)
    for directory in directories:
        shutil.rmtree(directory, ignore_errors=True)


class Guard:
    """Runs this file for the current process, and tells it of process groups."""

    def __init__(self, *directories: str) -> None:
        """Start nothing yet.

        Args:
            directories: What to remove when this process has ended, or when the guard is closed.
        """
        self._directories = directories
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the guard, if it does not run. From then on it removes the directories.

        Raises:
            OSError: The system cannot start a process.
        """
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, *self._directories],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
                bufsize=0,
            )

    def add(self, group: int) -> None:
        """Kill a process group if this process ends.

        Raises:
            OSError: The system cannot start the guard, which starts with the first group.
        """
        self.start()
        self._tell(f"+{group}\n")

    def remove(self, group: int) -> None:
        """Forget a process group that has ended."""
        self._tell(f"-{group}\n")

    def _tell(self, line: str) -> None:
        if self._process is not None and self._process.stdin is not None:
            # Somebody may have killed the guard. On Linux, the modules themselves still end with this process.
            with suppress(BrokenPipeError):
                self._process.stdin.write(line.encode("ascii"))

    def close(self) -> None:
        """End the guard."""
        process, self._process = self._process, None
        if process is not None:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


if __name__ == "__main__":
    main(sys.stdin, sys.argv[1:])
