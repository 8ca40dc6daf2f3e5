"""What the processes of modules write, as the server keeps and shows it."""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable
from typing import TypeAlias

from attrs import frozen
from twisted.logger import Logger

#: How many lines are kept for each runtime: the last ones.
LINES_KEPT = 1000


@frozen
class OutputLine:
    """A line that a module wrote, or that the supervisor has to say of it.

    Attributes:
        written_at: Milliseconds since the epoch.
        replica_id: The replica whose process wrote it; ``None`` if the supervisor did.
        text: The line, without its line break.
    """

    runtime_id: str
    replica_id: str | None
    written_at: int
    text: str


Reader: TypeAlias = Callable[[OutputLine], None]


class ModuleOutput:
    """The last lines of each runtime, and who reads the next ones."""

    _log = Logger()

    def __init__(self) -> None:
        self._lines: defaultdict[str, deque[OutputLine]] = defaultdict(lambda: deque(maxlen=LINES_KEPT))
        self._readers: list[Reader] = []

    def write(self, line: OutputLine) -> None:
        """Keep a line, and pass it to all readers."""
        self._lines[line.runtime_id].append(line)
        for reader in list(self._readers):
            try:
                reader(line)
            except Exception as error:
                # The module and the other readers are not to blame.
                self._readers.remove(reader)
                self._log.warn("what modules write can no longer be shown: {error}", error=error)

    def last(self, runtime_id: str, count: int = LINES_KEPT) -> list[OutputLine]:
        """Return the last lines of a runtime."""
        lines = self._lines.get(runtime_id, ())
        return list(lines)[-count:] if count else []

    def read(self, reader: Reader) -> Callable[[], None]:
        """Pass each line from now on to a reader; return a function that ends this.

        A reader that raises an error gets no more lines.
        """
        self._readers.append(reader)

        def end() -> None:
            if reader in self._readers:
                self._readers.remove(reader)

        return end
