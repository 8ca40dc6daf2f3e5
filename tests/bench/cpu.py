"""The CPU time of a process."""

from __future__ import annotations

import time


def cpu_of(pid: int) -> float:
    """Return the seconds of a core that all threads of a process have used so far, to the microsecond; Linux only."""
    # What clock_getcpuclockid(3) names; /proc counts in hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)
