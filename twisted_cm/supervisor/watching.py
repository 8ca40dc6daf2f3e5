"""When do the files of a module change?"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from threading import Event
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from twisted.logger import Logger

#: The ends of the names of files that a module is made from. A file with another name may be one that it writes.
SOURCES = (
    *(".py", ".pyi", ".js", ".mjs", ".cjs", ".ts", ".mts", ".tsx", ".jsx"),
    *(".java", ".kt", ".scala", ".class", ".jar", ".go", ".rs", ".rb", ".sh"),
    *(".toml", ".yaml", ".yml", ".env", ".sql"),
)

#: Milliseconds after which a thread that watches looks whether it should end.
_LOOK = 200


class FileWatcher:
    """Watches directories in a thread."""

    _log = Logger()

    def __init__(self, reactor: Any, changed: Callable[[set[Path]], None]) -> None:
        """Watch nothing yet.

        Args:
            reactor: Runs ``changed``, and has the threads.
            changed: Called with the files that have changed.
        """
        self._reactor = reactor
        self._changed = changed
        self._stop = Event()
        self._watching: Deferred[None] | None = None

    def start(self, directories: Iterable[Path]) -> None:
        """Watch directories, and those in them."""
        wanted = sorted(set(directories))
        if not wanted:
            return
        # Few servers watch files. The import takes so long that in the thread, the first changes would be missed.
        from watchfiles import DefaultFilter, watch

        # It leaves out directories such as .git and node_modules.
        by_default = DefaultFilter()
        changes = watch(
            *wanted,
            watch_filter=lambda change, path: path.endswith(SOURCES) and by_default(change, path),
            stop_event=self._stop,
            rust_timeout=_LOOK,
            debounce=_LOOK,
            raise_interrupt=False,
        )
        self._watching = deferToThreadPool(self._reactor, self._reactor.getThreadPool(), self._pass_on, changes)
        self._watching.addErrback(
            lambda failure: self._log.error(
                "cannot watch files: {reason}; modules are not reloaded", reason=failure.getErrorMessage()
            )
        )

    def _pass_on(self, changes: Iterable[set[tuple[Any, str]]]) -> None:
        for each in changes:
            self._reactor.callFromThread(self._changed, {Path(path) for _, path in each})

    def stop(self) -> None:
        """Watch no longer."""
        self._stop.set()
