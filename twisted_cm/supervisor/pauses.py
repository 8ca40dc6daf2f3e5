"""How long to wait before a process that has ended is started again."""

from __future__ import annotations

from collections import deque

#: Seconds before a process is started again, after the first of several ends.
FIRST_PAUSE = 0.5

#: The longest of these pauses, in seconds.
LONGEST_PAUSE = 30.0

#: A process that ends so often within a minute is crash looping.
CRASHES = 5
_MINUTE = 60.0


class Crashes:
    """The last times at which a process has ended that should have run on.

    Attributes:
        looping: Whether it has ended too often within a minute.
    """

    def __init__(self) -> None:
        self.looping = False
        self._ends: deque[float] = deque(maxlen=CRASHES)

    def pause_after(self, now: float) -> float:
        """Take an end of the process, and return the seconds to wait before it is started again.

        Each end within a minute doubles the pause.

        Args:
            now: When the process has ended, in seconds.
        """
        self._ends.append(now)
        recent = sum(now - each <= _MINUTE for each in self._ends)
        self.looping = recent >= CRASHES
        return min(FIRST_PAUSE * 2.0 ** (recent - 1), LONGEST_PAUSE)

    def clear(self) -> None:
        """Forget all ends."""
        self._ends.clear()
        self.looping = False
