"""The CPU time of processes."""

from __future__ import annotations

import resource
import subprocess
import time


def cpu_of(pid: int) -> float:
    """Return the seconds of a core that all threads of a process have used so far, to the microsecond; Linux only."""
    # What clock_getcpuclockid(3) names; /proc counts in hundredths of a second.
    return time.clock_gettime(~pid << 3 | 2)


def cpu_of_command(command: list[str]) -> float:
    """Run a command; return the seconds of a core that it has used, in the program and in the kernel."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
