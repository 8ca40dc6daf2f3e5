"""What ``bin/bench --plot`` draws, counts and writes, and what docs/performance.rst says of the figures."""

from __future__ import annotations

import asyncio
import csv
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

import pytest
import where
from callers import CALLERS, LABELS, Measured
from capacity import REPLICA_COUNTS
from conftest import ROOT
from elsewhere import Elsewhere
from http_client import caller_request, connect
from slower import OPTIONS
from suite import RESULT, serve_jobs

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = ROOT / "docs"
PLOT = ROOT / "tests" / "bench" / "plot.py"
EMULATOR, KLEIN, NODE, TIMER = LABELS.values()


def measurements() -> dict[str, dict[int, list[Measured]]]:
    """Return rounds in which a server takes the longer the more callers there are and the later it is in ``LABELS``."""
    return {
        name: {
            callers: [Measured([place * callers, place * callers + 9], 100 * place * each, 10) for each in (1, 2, 3)]
            for callers in CALLERS
        }
        for place, name in enumerate(LABELS, 1)
    }


# The plot


def test_the_plot_has_a_series_for_each_server_in_both_panels(tmp_path: Path) -> None:
    from drawing import CPU, LATENCY, draw

    draw(measurements(), tmp_path / "plot.svg")
    root = ElementTree.parse(tmp_path / "plot.svg").getroot()
    texts = {"".join(each.itertext()).strip() for each in root.iter("{http://www.w3.org/2000/svg}text")}
    assert texts >= {LATENCY, CPU, *LABELS.values(), *map(str, CALLERS)}
    series = {each.get("id"): each for each in root.iter("{http://www.w3.org/2000/svg}g")}
    for name in LABELS:
        for figure in ("p50", "p99", "cpu"):
            drawn = series[f"{name}-{figure}"]
            marks = drawn.findall(".//{http://www.w3.org/2000/svg}use")
            assert len(marks) == len(CALLERS), f"{name}-{figure}"


def test_the_same_numbers_make_the_same_small_file(tmp_path: Path) -> None:
    from drawing import draw

    for name in ("one.svg", "two.svg"):
        draw(measurements(), tmp_path / name)
    one, two = ((tmp_path / name).read_bytes() for name in ("one.svg", "two.svg"))
    assert one == two
    assert len(one) < 60_000


def test_tables_have_medians_and_ratios() -> None:
    from plot import elsewhere_rows, job_rows

    head, *rows = job_rows(measurements())
    assert rows[1] == ["4", "13", "13", "200", "10", "0.50"], head
    compared = {(row[0], row[1]): row[2:] for row in list(elsewhere_rows(measurements()))[1:]}
    assert compared["16", TIMER] == ["73", "73", "800", "10", "0.25"]
    assert compared["16", EMULATOR][-1] == "1.00"


# Where the time goes

FRAMES = {
    "Connection.writeSomeData (twisted/internet/tcp.py:306);send (libc.so.6)": where.WRITES,
    "EPollReactor.doPoll (twisted/internet/epollreactor.py:227);epoll_wait (libc.so.6)": where.EVENTS,
    "Connection.doRead (twisted/internet/tcp.py:272);recv (libc.so.6)": where.READS,
    "EmulatorChannel.dataReceived (twisted_cm/server/transport/channel.py:99)": where.PARSING,
    "EmulatorChannel.write (twisted_cm/server/transport/channel.py:99)": where.WRITES,
    "feed (a.py:1);feed_data (httptools/parser/parser.cpython-311-x86_64-linux-gnu.so)": where.PARSING,
    "EmulatorRequest.header (twisted_cm/server/transport/request.py:345)": where.HEADERS,
    "RequestBody.receive (twisted_cm/server/transport/body.py:203)": where.BODIES,
    "Routes.match (twisted_cm/server/dispatch.py:64);unquote (urllib/parse.py:672)": where.ROUTING,
    "fingerprint (twisted_cm/model/tokens.py:106);py_digest_by_name (_hashopenssl.c:329)": where.CREDENTIALS,
    "ContourRoutes.execute (twisted_cm/server/routes/contour.py:90)": where.ROUTES,
    "ModuleRoutes.poll (twisted_cm/server/routes/module.py);0x7f (orjson/orjson.cpython-311.so)": where.JSON,
    "Work.remove (twisted_cm/broker/work.py:9);Deferred.callback (twisted/internet/defer.py:874)": where.DEFERREDS,
    "MemoryBroker.enqueue (twisted_cm/broker/memory.py:309);Enum.__hash__ (enum.py:1231)": where.BROKER,
    "__init__ (<attrs generated methods twisted_cm.model.jobs.Submission>:4)": where.BROKER,
    "FileLogObserver.__call__ (twisted/logger/_file.py:52);write (libc.so.6)": where.OBSERVERS,
    "Observers.notify (twisted_cm/broker/observers.py:46)": where.OBSERVERS,
    "MemoryBroker.enqueue (twisted_cm/broker/memory.py:309);gc_collect_main (libpython3.11.so.1.0)": where.GARBAGE,
    "main (a.py:1);0x7fa82fc4524a (libc.so.6)": where.OTHERS,
    "<no frame>": where.OTHERS,
}


@pytest.mark.parametrize(("stack", "part"), FRAMES.items())
def test_a_sample_counts_for_the_part_of_its_deepest_known_frame(stack: str, part: str) -> None:
    assert where.part_of(stack) == part


def test_samples_are_counted_by_part() -> None:
    found = where.count(f"{stack} {number}\n" for number, stack in enumerate(FRAMES, 1))
    assert found.total() == sum(range(1, len(FRAMES) + 1))
    assert found[where.WRITES] == 1 + 5
    assert set(found) == set(where.PARTS)


def test_shares_are_written_as_a_table() -> None:
    rows = where.rows([where.Share("Broker", 30.4, 0.304), where.Share("JSON", 69.6, 0.696)])
    assert rows[1:] == [["Broker", "30", "30.4 %"], ["JSON", "70", "69.6 %"], ["All", "100", "100 %"]]


# The servers


def test_the_emulator_with_a_timer_runs_jobs() -> None:
    async def run(url: str) -> list[tuple[int, bytes]]:
        replica = asyncio.create_task(serve_jobs(url))
        callers = [await connect(url) for _ in range(3)]
        answers = await asyncio.gather(*(each.request(caller_request(1)) for each in callers))
        replica.cancel()
        for each in callers:
            each.close()
        return answers

    with closing(Elsewhere("timer")) as server:
        assert asyncio.run(run(server.url)) == [(200, b"1" * RESULT)] * 3


@pytest.mark.long
def test_all_servers_are_measured(tmp_path: Path) -> None:
    command = [sys.executable, str(PLOT), str(tmp_path / "p.svg"), "--quick", "--only", "callers"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(ran.stdout)["callers"]
    assert set(measured) == set(LABELS)
    for by_callers in measured.values():
        assert list(map(int, by_callers)) == list(CALLERS)
        assert all(figure > 0 for (measure,) in by_callers.values() for figure in measure.values())
    written = {each.name for each in tmp_path.iterdir()}
    assert written == {"p.svg", "p-job.csv", "p-elsewhere.csv"}


def test_the_help_of_bin_bench_names_the_plot() -> None:
    ran = subprocess.run([ROOT / "bin" / "bench", "--help"], capture_output=True, text=True, check=True, timeout=20)
    assert "bin/bench --plot [FILE]" in ran.stdout
    assert {"plot", "where", "beside", "suite"} <= set(ran.stdout.split())


# The page


def table(name: str) -> Iterator[dict[str, str]]:
    """Return the lines of a table of the page."""
    with (DOCS / f"performance-{name}.csv").open(encoding="utf-8") as file:
        yield from csv.DictReader(file)


def number(text: str) -> float:
    return float(text.split()[0].replace(",", ""))


def test_the_tables_of_the_page_are_complete() -> None:
    assert [row["Callers"] for row in table("job")] == list(map(str, CALLERS))
    assert {row["Server"] for row in table("elsewhere")} == set(LABELS.values())
    assert [row["Part of a job"] for row in table("where")] == [*where.PARTS, "All"]
    assert tuple(row["Option"] for row in table("slower")) == OPTIONS
    assert [row["Load"].partition(" replicas,")[0] for row in table("capacity")][: len(REPLICA_COUNTS)] == [
        f"{each:,}" for each in REPLICA_COUNTS
    ]


def test_what_the_page_says_of_other_servers_is_in_its_table() -> None:
    rows = {(int(row["Callers"]), row["Server"]): row for row in table("elsewhere")}

    def figure(callers: int, server: str, column: str) -> float:
        return number(rows[callers, server][column])

    assert figure(1, EMULATOR, "Median, ms") < figure(1, TIMER, "Median, ms")
    assert figure(1, TIMER, "CPU, µs") > figure(1, NODE, "CPU, µs")
    assert figure(256, NODE, "CPU, µs") < min(figure(256, each, "CPU, µs") for each in (KLEIN, EMULATOR))
    assert figure(256, TIMER, "Median, ms") < figure(256, EMULATOR, "Median, ms")


def test_what_the_page_says_of_the_emulator_is_in_its_tables() -> None:
    parts = list(table("where"))
    assert sum(number(row["Share"]) for row in parts[:-1]) == pytest.approx(100, abs=1)
    results = [number(row["Emulator"]) for row in table("capacity") if row["Load"].startswith("Result")]
    assert len(results) == 4 and results == sorted(results)
