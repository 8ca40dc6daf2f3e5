"""Tables on a terminal of 80 columns."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import RUNTIMES, SEED, Server
from terminal import Terminal, cells, enqueue

RUNTIME = "a-runtime-with-a-name-that-is-longer-than-any-column"
FUNCTION = "a_function_with_a_name_that_is_longer_than_any_column"
RID = "ri.foundry.main.deployed-app.an-app-with-a-name-that-is-longer-than-any-column"
MESSAGE = "out of luck, and there is much more to say about it than a line of a terminal holds " + "x" * 100


HEADERS = {"Authorization": "Bearer app-token", "Module-Auth-Token": "token-two", "Prefer": "wait=0"}


def post(server: Server, path: str, body: object) -> Any:
    with urlopen(Request(server.urls["http"] + path, json.dumps(body).encode(), HEADERS), timeout=10) as answer:
        return json.load(answer)


@pytest.fixture
def busy(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    """Start a server with long names, and let jobs be in each state."""
    seed = SEED.replace("runtime_id: two", f"runtime_id: {RUNTIME}").replace("ri.two", RID)
    server = Server(tmp_path, state_dir, seed=seed)
    for path, body in (
        ("/results/{}", b'"ok"'),
        ("/results/{}", json.dumps({"exception": MESSAGE}).encode()),
        ("/jobs/{}/fail", json.dumps({"message": MESSAGE}).encode()),
        (None, b""),
        (None, b""),
    ):
        body_of_job = {"queryType": FUNCTION, "query": {"text": MESSAGE}}
        job_id = post(server, f"{RUNTIMES}/{RUNTIME}/jobs", body_of_job)["job_id"]
        if path is None:
            continue
        request(server, "/job")
        request(server, path.format(job_id), body)
    request(server, "/job")
    enqueue(server, "add")
    post(server, f"{RUNTIMES}/{RUNTIME}/replicas", {"replicaId": "replica-" + 32 * "0"})
    server.cm("faults", "add", "delay_result", "--seconds", "0.125", "--runtime", RUNTIME, "--function", FUNCTION)
    yield server
    server.stop()


def request(server: Server, path: str, body: bytes | None = None) -> None:
    sent = Request(f"{server.urls['http']}{RUNTIMES}/{RUNTIME}{path}", body, HEADERS)
    with urlopen(sent, timeout=10) as answer:
        assert answer.status in (200, 204)


def lines_of(shown: str) -> list[str]:
    """Return what is shown, without colors, and check its widths."""
    lines = [line.rstrip() for line in re.sub(r"\x1b\[[0-9;]*m", "", shown).splitlines()]
    assert lines and max(map(len, lines)) <= 80, lines
    return lines


def table_of(server: Server, *arguments: str) -> list[list[str]]:
    """Return the cells of the table that a command shows; two spaces or more are between them."""
    lines = lines_of(Terminal(server, *arguments, columns=80).end())
    assert set(lines[2].strip()) == {"─"}
    return [re.split(r" {2,}", line.strip()) for line in (lines[1], *lines[3:]) if line]


def is_cropped(shown: str, whole: str) -> bool:
    """Return whether a cell shows the start or the end of a longer text, with an ellipsis for the rest."""
    if shown.startswith("…"):
        return len(shown) > 4 and whole.endswith(shown[1:])
    return shown.endswith("…") and len(shown) > 4 and whole.startswith(shown[:-1])


def test_jobs(busy: Server) -> None:
    headings, *rows = table_of(busy, "jobs")
    assert headings == ["JOB", "STATUS", "FUNCTION", "RUNTIME", "QUEUED", "TOOK", "OUTCOME"]
    piped = cells(busy.cm("jobs").stdout)
    assert [row[1] for row in rows] == ["queued", "queued", "running", "failed", "raised", "succeeded"]
    for row, whole in zip(rows, piped, strict=True):
        assert (row[0], row[1], row[5]) == (f"…{whole[0][-4:]}", whole[1], whole[5])
        assert len(whole[0]) == 44 and re.fullmatch(r"\d\d:\d\d:\d\d|\d\d-\d\d \d\d:\d\d", row[4])
    assert rows[0][2:4] == ["add", "one"] and rows[5][6] == "4 bytes"
    assert is_cropped(rows[1][2], FUNCTION) and is_cropped(rows[1][3], RUNTIME) and is_cropped(rows[3][6], MESSAGE)
    assert piped[1][2:4] == [FUNCTION, RUNTIME] and piped[3][8] == MESSAGE


def test_following_prints_headings_once_and_rows_below_them(busy: Server) -> None:
    follow = Terminal(busy, "jobs", "--follow", columns=80)
    follow.until(b"add")
    new = enqueue(busy, "last")
    follow.until(f"…{new[-4:]}".encode())
    follow.until(b"last")
    follow.process.send_signal(signal.SIGINT)
    heading, *lines = lines_of(follow.end())
    assert re.split(r" {2,}", heading) == ["JOB", "STATUS", "FUNCTION", "RUNTIME", "QUEUED", "TOOK", "OUTCOME"]
    assert sum("STATUS" in line for line in [heading, *lines]) == 1
    assert len(lines) == 7
    starts = [heading.index(each) for each in ("JOB", "STATUS", "FUNCTION", "RUNTIME", "QUEUED", "TOOK", "OUTCOME")]
    for line in lines:
        for start in starts:
            assert line[start : start + 1].strip() and not line[start - 1 : start].strip(), line
    assert lines[-1].split()[1:4] == ["queued", "last", "one"]


def test_runtimes(busy: Server) -> None:
    headings, *rows = table_of(busy, "runtimes")
    assert headings == ["RUNTIME", "REPLICAS", "LAST POLL", "QUEUED", "RUNNING", "POLLS", "DEPLOYED APPS"]
    (long, one) = rows
    assert is_cropped(long[0], RUNTIME) and one[0] == "one"
    assert (long[1], long[3:6]) == ("1/2", ["1", "1", "0"])
    assert one[6] == "ri.one@master"


def test_replicas(busy: Server) -> None:
    headings, *rows = table_of(busy, "runtimes", RUNTIME)
    assert headings == ["REPLICA", "STATE", "LIMIT", "LAST POLL", "SINCE", "RUNS, OR WHY GONE"]
    default, other = rows
    running = json.loads(busy.cm("runtimes", RUNTIME, "--json").stdout)[0]["running_jobs"]
    assert default[:3] == ["default", "responsive", "-"] and default[5] == f"…{running[0][-4:]}"
    assert is_cropped(other[0], "replica-" + 32 * "0") and other[1:4] == ["starting", "1", "-"]


def test_faults(busy: Server) -> None:
    headings, row = table_of(busy, "faults")
    assert headings == ["FAULT", "KIND", "RUNTIME", "FUNCTION", "STRUCK", "OF", "DETAILS"]
    (fault,) = json.loads(busy.cm("faults", "--json").stdout)
    # The command that removes a fault takes its whole id.
    assert row[0] == fault["fault_id"]
    assert (row[1], row[4:6]) == ("delay_result", ["0", "any"])
    assert is_cropped(row[2], RUNTIME) and is_cropped(row[3], FUNCTION)


def words_of(lines: list[str], whole: str) -> list[str]:
    """Return the words in lines that are neither a word of a text nor the start of one with an ellipsis."""
    known = set(whole.split())
    return [
        word
        for line in lines
        for word in line.split()
        if word not in known and not (word.endswith("…") and any(each.startswith(word[:-1]) for each in known))
    ]


@pytest.mark.parametrize("status", ["failed", "raised", "succeeded", "running"])
def test_a_job(busy: Server, status: str) -> None:
    (found,) = json.loads(busy.cm("jobs", "--json", "--status", status).stdout)
    job_id = found["job_id"]
    lines = lines_of(Terminal(busy, "job", job_id, columns=80).end())
    # No word is broken: each is one that the pipe shows, or the start of one.
    assert words_of(lines, busy.cm("job", job_id).stdout.decode().replace("\t", " ")) == []
    assert any(job_id in line for line in lines) and any(re.fullmatch(rf"status +{status}", line) for line in lines)
    assert any("there is much more to say about it" in line for line in lines)


def test_the_status(busy: Server) -> None:
    lines = lines_of(Terminal(busy, "status", columns=80).end())
    assert any(re.fullmatch(r"queued jobs +2", line) for line in lines)
    assert any(line.endswith(busy.urls["https"]) for line in lines)


def test_a_wide_terminal_crops_nothing(busy: Server) -> None:
    shown = Terminal(busy, "jobs", columns=400).end()
    assert FUNCTION in shown and RUNTIME in shown and MESSAGE in shown
    shown = Terminal(busy, "runtimes", columns=400).end()
    assert RID in shown and "…" not in shown
