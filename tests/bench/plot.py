"""Measure every figure of docs/performance.rst in one run, and write its plot and its tables."""

from __future__ import annotations

import csv
import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import callers
import capacity
import click
import slower
import where
from attrs import asdict, frozen
from beside import ROOT, ratio
from callers import EMULATOR, KLEIN, LABELS, Measured, figures
from drawing import draw
from figures import written

#: The parts of a run, in the order of the page.
CALLERS, CAPACITY, WHERE, SLOWER = "callers", "capacity", "where", "slower"
PARTS = (CALLERS, CAPACITY, WHERE, SLOWER)

#: The numbers of callers for which all servers are compared in a table.
COMPARED = (1, 16, 256)


@frozen
class Effort:
    """How much is measured.

    Attributes:
        rounds: Rounds with each number of callers, of ``seconds`` for each server.
        short_rounds: Rounds of options and replicas, of ``short_seconds`` for each.
        profile: Seconds under the profiler.
        idle: Seconds while replicas wait.
    """

    rounds: int
    seconds: float
    short_rounds: int
    short_seconds: float
    profile: float
    idle: float
    quick: bool


FULL = Effort(rounds=9, seconds=0.5, short_rounds=21, short_seconds=0.25, profile=14, idle=5, quick=False)
QUICK = Effort(rounds=1, seconds=0.1, short_rounds=1, short_seconds=0.1, profile=1, idle=0.5, quick=True)


def job_rows(found: dict[str, dict[int, list[Measured]]]) -> Iterable[list[str]]:
    """Return the table of what a job costs in the emulator."""
    yield ["Callers", "Median, ms", "99th percentile, ms", "CPU, µs", "Jobs/s", "CPU to constant Klein routes"]
    for number, measured in found[EMULATOR].items():
        yield [str(number), *map(written, figures(measured)), f"{ratio(measured, found[KLEIN][number]):.2f}"]


def elsewhere_rows(found: dict[str, dict[int, list[Measured]]]) -> Iterable[list[str]]:
    """Return the table that compares the emulator with other servers."""
    yield ["Callers", "Server", "Median, ms", "99th percentile, ms", "CPU, µs", "Jobs/s", "CPU of twisted-cm to this"]
    for number in COMPARED:
        for name, by_callers in found.items():
            measured = by_callers[number]
            to_this = ratio(found[EMULATOR][number], measured)
            yield [str(number), LABELS[name], *map(written, figures(measured)), f"{to_this:.2f}"]


def write_csv(file: Path, rows: Iterable[list[str]]) -> None:
    """Write a table."""
    with file.open("w", newline="", encoding="utf-8") as output:
        csv.writer(output, lineterminator="\n").writerows(rows)


def machine() -> str:
    """Return a sentence on what was measured, and on what."""
    commit = _first_line("git", "-C", str(ROOT), "describe", "--always", "--dirty")
    return (
        f"Measured on {os.cpu_count()} cores of a shared machine ({platform.system()}, {platform.machine()}), with"
        f" {platform.python_implementation()} {platform.python_version()} and Node.js"
        f" {_first_line('node', '--version').removeprefix('v')}, at commit ``{commit}``.\n"
    )


def _first_line(*command: str) -> str:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "?"
    return ran.stdout.partition("\n")[0] or "?"


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path), default=ROOT / "docs" / "performance.svg")
@click.option("--only", multiple=True, type=click.Choice(PARTS), help="Only this part of the page; may be repeated.")
@click.option("--quick", is_flag=True, help="A little of everything, once: to see that it runs.")
def main(file: Path, only: tuple[str, ...], quick: bool) -> None:
    """Measure what a job costs, and write the plot and the tables of docs/performance.rst.

    The plot goes to FILE, by default docs/performance.svg. The tables go beside it, as CSV. The measurements of all
    rounds go to standard output, as JSON, and a progress bar to standard error. It takes four to six minutes, and
    needs Node.js and Redis.

    Example: bin/bench --plot --only where
    """
    parts, effort = only or PARTS, QUICK if quick else FULL
    # Now: the files that are written below change the working tree.
    measured_on = None if only else machine()
    steps = {
        CALLERS: callers.steps(effort.rounds),
        CAPACITY: capacity.steps(effort.short_rounds),
        WHERE: 1,
        SLOWER: slower.steps(effort.short_rounds),
    }
    with click.progressbar(length=sum(steps[each] for each in parts), label="  measured", file=sys.stderr) as bar:
        tables, raw = measure(file, parts, effort, lambda: bar.update(1))
    for name, rows in tables.items():
        write_csv(beside(file, f"{name}.csv"), rows)
    if measured_on is not None:
        beside(file, "machine.rst.inc").write_text(measured_on, encoding="utf-8")
    click.echo(json.dumps(raw))


def plain(measured: Iterable[Measured]) -> list[dict[str, float]]:
    """Return the figures of each round by name."""
    names = ("p50", "p99", "cpu", "rate")
    return [dict(zip(names, figures([each]), strict=True)) for each in measured]


def beside(file: Path, name: str) -> Path:
    """Return the path of a file beside the plot."""
    return file.with_name(f"{file.stem}-{name}")


def measure(
    file: Path, parts: Iterable[str], effort: Effort, step: Callable[[], None]
) -> tuple[dict[str, list[list[str]]], dict[str, object]]:
    """Measure some parts, and draw the plot if it is one of them.

    Returns:
        The tables by name, and the raw measurements.
    """
    tables: dict[str, list[list[str]]] = {}
    raw: dict[str, object] = {}
    if CALLERS in parts:
        found = callers.measure_all(effort.rounds, effort.seconds, step)
        raw[CALLERS] = {
            name: {number: plain(measured) for number, measured in by_callers.items()}
            for name, by_callers in found.items()
        }
        draw(found, file)
        tables["job"], tables["elsewhere"] = list(job_rows(found)), list(elsewhere_rows(found))
    if CAPACITY in parts:
        tables[CAPACITY] = capacity.rows(effort.short_rounds, effort.short_seconds, effort.idle, effort.quick, step)
    if WHERE in parts:
        shares = where.profile(effort.profile)
        step()
        raw[WHERE] = [asdict(each) for each in shares]
        tables[WHERE] = where.rows(shares)
    if SLOWER in parts:
        options = slower.measure_options(effort.short_rounds, effort.short_seconds, step)
        raw[SLOWER] = {name: plain(measured) for name, measured in options.items()}
        tables[SLOWER] = slower.rows(options)
    return tables, raw


if __name__ == "__main__":
    main()
