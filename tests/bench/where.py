"""Where the CPU time of a job goes: an emulator under a sampling profiler.

py-spy looks at the emulator's stack 200 times a second. Each sample counts for one part of the work: that of the
deepest frame for which there is a rule in ``RULES``. So a helper of the standard library counts for its caller. A share
of the samples is that share of the CPU of a job, which is measured without the profiler, before and after.

Emulator and callers have a core each, if there are two. Otherwise a caller that is woken would interrupt the emulator,
and the system call that woke it would seem to take long.
"""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path

import click
from attrs import frozen
from beside import ROOT
from callers import Contender, cpu, in_turn
from emulator import Emulator

EVENTS = "Events and timers of the reactor"
READS = "Reads from sockets"
PARSING = "Parsing of requests"
HEADERS = "Headers, and requests as objects"
BODIES = "Bodies"
ROUTING = "Routing"
CREDENTIALS = "Credentials and origins"
ROUTES = "Routes"
JSON = "JSON"
DEFERREDS = "Deferreds and coroutines"
BROKER = "Broker"
OBSERVERS = "Observers: log and metrics"
WRITES = "Writes to sockets"
GARBAGE = "Garbage collection"
OTHERS = "Others"

#: The part that a frame counts for, by patterns of its file and its function. The first rule that fits counts.
RULES = (
    ("*", "gc_collect_main", GARBAGE),
    # System calls. "write" has no rule: the log uses it, and counts for it.
    ("libc.so*", "epoll_*", EVENTS),
    ("libc.so*", "recv*", READS),
    ("libc.so*", "send*", WRITES),
    ("socketmodule.c", "sock_recv*", READS),
    ("socketmodule.c", "sock_send*", WRITES),
    # Extension modules
    ("*httptools*", "*", PARSING),
    ("*orjson*", "*", JSON),
    ("*msgspec*", "*", JSON),
    # Twisted
    ("twisted/internet/tcp.py", "*[rR]ead*", READS),
    ("twisted/internet/tcp.py", "*dataReceived", READS),
    ("twisted/internet/tcp.py", "*getPeer", HEADERS),
    ("twisted/internet/tcp.py", "*getHost", HEADERS),
    ("twisted/internet/tcp.py", "*", WRITES),
    ("twisted/internet/abstract.py", "*", WRITES),
    ("twisted/internet/_newtls.py", "*", WRITES),
    ("twisted/internet/address.py", "*", HEADERS),
    ("twisted/internet/defer.py", "*", DEFERREDS),
    ("twisted/internet/*", "*", EVENTS),
    ("twisted/logger/*", "*", OBSERVERS),
    ("twisted/python/log.py", "*", EVENTS),
    ("twisted/python/context.py", "*", EVENTS),
    ("twisted/protocols/policies.py", "*", EVENTS),
    # Other packages
    ("klein/*", "*", ROUTING),
    ("werkzeug/routing/*", "*", ROUTING),
    ("werkzeug/datastructures/auth.py", "*", CREDENTIALS),
    ("werkzeug/*", "*", HEADERS),
    ("prometheus_client/*", "*", OBSERVERS),
    # This package
    ("twisted_cm/server/transport/channel.py", "*write*", WRITES),
    ("twisted_cm/server/transport/channel.py", "*", PARSING),
    ("twisted_cm/server/transport/reader.py", "*", PARSING),
    ("twisted_cm/server/transport/request.py", "*", HEADERS),
    ("twisted_cm/server/transport/site.py", "*", HEADERS),
    ("twisted_cm/server/transport/body.py", "*", BODIES),
    ("twisted_cm/server/transport/received.py", "*", BODIES),
    ("twisted_cm/server/nameless_files.py", "*", BODIES),
    ("twisted_cm/server/transport/*", "*", WRITES),
    ("twisted_cm/server/dispatch.py", "*", ROUTING),
    ("twisted_cm/server/route_run.py", "*", DEFERREDS),
    ("twisted_cm/server/routing.py", "*", ROUTING),
    ("twisted_cm/server/auth.py", "*", CREDENTIALS),
    ("twisted_cm/server/browsers.py", "*", CREDENTIALS),
    ("twisted_cm/server/credentials.py", "*", CREDENTIALS),
    ("twisted_cm/server/refused_polls.py", "*", CREDENTIALS),
    ("twisted_cm/server/replica_lookup.py", "*", CREDENTIALS),
    ("twisted_cm/model/tokens.py", "*", CREDENTIALS),
    ("twisted_cm/server/json_*.py", "*", JSON),
    ("twisted_cm/server/parsing.py", "*", JSON),
    ("twisted_cm/server/submitted.py", "*", JSON),
    ("twisted_cm/server/*", "*", ROUTES),
    ("twisted_cm/broker/observers.py", "*", OBSERVERS),
    ("twisted_cm/job_lines.py", "*", OBSERVERS),
    ("twisted_cm/logs.py", "*", OBSERVERS),
    ("twisted_cm/metrics.py", "*", OBSERVERS),
    ("twisted_cm/model/printable.py", "*", OBSERVERS),
    ("twisted_cm/broker/*", "*", BROKER),
    ("twisted_cm/model/*", "*", BROKER),
    # Methods that attrs has generated
    ("*generated*twisted_cm.server.*", "*", ROUTES),
    ("*generated*twisted_cm.*", "*", BROKER),
    ("*generated*twisted.internet.address.*", "*", HEADERS),
)

#: All parts, in the order of a request's way.
PARTS = (
    *(EVENTS, READS, PARSING, HEADERS, BODIES, ROUTING, CREDENTIALS, ROUTES, JSON),
    *(DEFERREDS, BROKER, OBSERVERS, WRITES, GARBAGE, OTHERS),
)

#: A frame as py-spy writes it: a function, and in parentheses its file and sometimes a line.
_FRAME = re.compile(r"(?P<function>.+) \((?P<file>.+?)(?::\d+)?\)$")

SAMPLES_A_SECOND = 200


@frozen
class Share:
    """How much of a job a part takes: microseconds of CPU, and the share of the samples."""

    part: str
    cpu: float
    share: float


@lru_cache(4096)
def _part_of_frame(frame: str) -> str | None:
    found = _FRAME.match(frame)
    if found is None:
        return None
    for file, function, part in RULES:
        if fnmatchcase(found["file"], file) and fnmatchcase(found["function"], function):
            return part
    return None


def part_of(stack: str) -> str:
    """Return the part that a sample counts for.

    Args:
        stack: The frames of the sample, the deepest last, separated by semicolons.
    """
    parts = map(_part_of_frame, reversed(stack.split(";")))
    return next((part for part in parts if part), OTHERS)


def count(lines: Iterable[str]) -> Counter[str]:
    """Count the samples of each part in the raw output of py-spy."""
    found: Counter[str] = Counter()
    for line in lines:
        stack, _, number = line.rstrip().rpartition(" ")
        found[part_of(stack)] += int(number)
    return found


@contextlib.contextmanager
def cores_apart(pid: int) -> Iterator[None]:
    """Give a process a core that this process does not use, if there are two."""
    cores = os.sched_getaffinity(0)
    if len(cores) < 2:
        yield
        return
    own = {min(cores)}
    os.sched_setaffinity(pid, own)
    os.sched_setaffinity(0, cores - own)
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)


def samples(emulator: Emulator, contender: Contender, callers: int, seconds: float) -> Counter[str]:
    """Run jobs for some seconds, and count the samples of each part."""
    program = Path(sys.executable).with_name("py-spy")
    if not program.exists():
        raise click.ClickException(f"{program} is not there. Install it with 'pip install py-spy'.")
    with tempfile.TemporaryDirectory(prefix="twisted-cm-bench-") as directory:
        output = Path(directory) / "samples"
        command = [
            *(str(program), "record", "--pid", str(emulator.process.pid), "--native", "--format", "raw"),
            *("--rate", str(SAMPLES_A_SECOND), "--duration", str(max(round(seconds), 1)), "--output", str(output)),
        ]
        profiler = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        run(contender, callers, seconds)
        said, _ = profiler.communicate(timeout=60)
        if profiler.returncode:
            raise click.ClickException(f"py-spy could not look at the emulator: {said.strip()}")
        return count(output.read_text().splitlines())


def profile(seconds: float, callers: int = 64) -> list[Share]:
    """Return how much of a job each part takes, in the order of ``PARTS``."""
    with contextlib.closing(Emulator(package=ROOT)) as emulator, cores_apart(emulator.process.pid):
        contender = Contender(emulator.urls["http"], emulator.cpu)
        before = run(contender, callers, seconds / 4)
        found = samples(emulator, contender, callers, seconds)
        after = run(contender, callers, seconds / 4)
    used, total = (before + after) / 2, max(found.total(), 1)
    return [Share(part, used * found[part] / total, found[part] / total) for part in PARTS]


def run(contender: Contender, callers: int, seconds: float) -> float:
    """Run jobs for some seconds, and return the microseconds of CPU for a job."""
    return cpu(in_turn({"emulator": contender}, callers, 1, seconds, lambda: None)["emulator"])


def rows(shares: list[Share]) -> list[list[str]]:
    """Return a table of the parts."""
    return [
        ["Part of a job", "CPU, µs", "Share"],
        *([each.part, f"{each.cpu:.0f}", f"{each.share * 100:.1f} %"] for each in shares),
        ["All", f"{sum(each.cpu for each in shares):.0f}", "100 %"],
    ]


@click.command()
@click.option("--seconds", default=15.0, show_default=True, type=click.FloatRange(1), help="How long to profile.")
@click.option("--callers", default=64, show_default=True, type=click.IntRange(1), help="Callers at the same time.")
def main(seconds: float, callers: int) -> None:
    """Profile an emulator, and show which parts of it use the CPU of a job.

    Example: bin/bench where --callers 1
    """
    for part, used, share in rows(profile(seconds, callers)):
        click.echo(f"{part:<40}{used:>8}{share:>10}")


if __name__ == "__main__":
    main()
