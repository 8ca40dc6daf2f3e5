"""The log under ``twisted-cm serve`` and under ``twistd``."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from conftest import BIN, RUNTIMES, Server
from twisted.logger import Logger, LogPublisher

from twisted_cm.logs import log_observer, parse_level

LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (debug|info|warn|error|critical) +([a-z._]+): (.*)")


def logged(kind: str, *levels: str) -> tuple[Logger, io.StringIO]:
    """Return a logger of the broker, and the file that it writes to."""
    written = io.StringIO()
    observer = log_observer(written, kind, map(parse_level, levels))
    return Logger("twisted_cm.broker", observer=LogPublisher(observer)), written


def test_an_event_is_one_line_whatever_is_in_it() -> None:
    log, written = logged("text")
    log.info("runtime {runtime_id}: connected", runtime_id="a\n2000-01-01 forged\x1b[31m\u2028é\u202etxt.exe\u2066")
    (line,) = written.getvalue().split("\n")[:-1]
    found = LINE.fullmatch(line)
    assert found is not None
    assert found.groups() == (
        "info",
        "broker",
        r"runtime a\n2000-01-01 forged\x1b[31m\u2028é\u202etxt.exe\u2066: connected",
    )


def test_a_traceback_is_indented_for_people_and_inside_the_object_for_programs() -> None:
    for kind in ("text", "json"):
        log, written = logged(kind)
        try:
            raise RuntimeError("no\nway")
        except RuntimeError:
            log.failure("job {job_id}: lost", job_id="j", runtime_id="r")
        lines = written.getvalue().splitlines()
        if kind == "json":
            (event,) = map(json.loads, lines)
            time = datetime.fromisoformat(event.pop("time"))
            assert abs(datetime.now(timezone.utc) - time) < timedelta(seconds=10)
            assert "RuntimeError: no\nway" in event.pop("traceback")
            assert event == {
                "level": "critical",
                "namespace": "twisted_cm.broker",
                "message": "job j: lost",
                "job_id": "j",
                "runtime_id": "r",
            }
        else:
            assert lines[0].endswith("critical broker: job j: lost")
            assert all(line.startswith("    ") for line in lines[1:])
            assert "    builtins.RuntimeError: no" in lines


def test_levels_are_those_of_the_nearest_namespace() -> None:
    for levels, expected in (
        ((), ["info twisted_cm", "warn twisted_cm", "warn twisted"]),
        (("debug",), ["debug twisted_cm", "info twisted_cm", "warn twisted_cm", "warn twisted"]),
        (("warn", "twisted=info"), ["warn twisted_cm", "info twisted", "warn twisted"]),
        (("warn", "twisted_cm.broker=info"), ["info twisted_cm", "warn twisted_cm", "warn twisted"]),
    ):
        written = io.StringIO()
        publisher = LogPublisher(log_observer(written, "json", map(parse_level, levels)))
        for namespace in ("twisted_cm.broker", "twisted.web"):
            log = Logger(namespace, observer=publisher)
            log.debug("?")
            log.info("?")
            log.warn("?")
        found = [json.loads(line) for line in written.getvalue().splitlines()]
        assert [f"{each['level']} {each['namespace'].split('.')[0]}" for each in found] == expected, levels


def test_an_unknown_level_is_refused(tmp_path: Path) -> None:
    command = [str(BIN / "twisted-cm"), "serve", "--log-level", "twisted_cm=loud", "--state-dir", str(tmp_path)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ran.returncode == 2
    assert "'--log-level': There is no level 'loud'. Use one of debug, info, warn, error, critical." in ran.stderr


class Module:
    """A client that is a runtime and an application in turn."""

    def __init__(self, url: str) -> None:
        self.url = f"{url}{RUNTIMES}/one"

    def call(self, path: str, body: Any = None) -> Any:
        headers = {"Module-Auth-Token": "token-one", "Prefer": "wait=5"}
        with urlopen(Request(self.url + path, body, headers), timeout=10) as answer:
            content = answer.read()
            return json.loads(content) if content else None

    def submit(self) -> str:
        job_id: str = self.call("/jobs", json.dumps({"queryType": "f"}).encode())["job_id"]
        return job_id

    def poll(self) -> str:
        job_id: str = self.call("/job")["computeModuleJobV1"]["jobId"]
        return job_id


def chunks() -> Iterator[bytes]:
    yield b"1"
    yield b"2"


@pytest.mark.parametrize(
    "options",
    [
        ("--log-format", "json", "--log-level", "twisted_cm.broker=debug"),
        ("--log-level", "debug"),
    ],
)
def test_the_life_of_a_job_can_be_followed_by_its_id(tmp_path: Path, state_dir: Path, options: tuple[str, ...]) -> None:
    seed = """
      foundry:
        compute_modules:
          job_lease: 1
          runtimes: [{runtime_id: one, module_auth_token: token-one}]
    """
    server = Server(tmp_path, state_dir, *options, seed=seed)
    try:
        module = Module(server.urls["http"])
        job_id = module.submit()
        # The lease of the first attempt runs out.
        assert [module.poll(), module.poll()] == [job_id, job_id]
        module.call(f"/results/{job_id}", chunks())
    finally:
        server.process.terminate()
        log = server.process.communicate(timeout=10)[0]
    # The line of the finished job has only the end of its id; it is the subject of other tests.
    lines = [line for line in log.splitlines() if job_id in line and "job_lines" not in line]
    if "json" in options:
        events = [json.loads(line) for line in lines]
        assert {(each["job_id"], each["runtime_id"]) for each in events} == {(job_id, "one")}
        assert {each["namespace"] for each in events} == {
            "twisted_cm.broker.leases.Leases",
            "twisted_cm.broker.memory.MemoryBroker",
        }
        messages = [each["message"] for each in events]
    else:
        messages = [found[3] for found in map(LINE.fullmatch, lines) if found is not None]
        assert len(messages) == len(lines)
    assert messages == [
        f"job {job_id}: queued for runtime one, function f",
        f"job {job_id}: leased to runtime one for 1 seconds",
        f"job {job_id}: dispatched to runtime one",
        f"job {job_id}: queued again, no result within the lease of 1 seconds on runtime one",
        f"job {job_id}: leased to runtime one for 1 seconds",
        f"job {job_id}: dispatched to runtime one",
        f"job {job_id}: leased to runtime one for 1 seconds",
        f"job {job_id}: result begun on runtime one",
        f"job {job_id}: succeeded on runtime one",
    ]


def test_twistd_logs_in_json_when_told_so(tmp_path: Path, state_dir: Path) -> None:
    command = [str(BIN / "twistd"), "-n", "--pidfile=", "--logger", "twisted_cm.logs.json_log", "compute-modules"]
    process = subprocess.Popen(
        [*command, "--port", "0", "--tls-port", "0", "--state-dir", str(state_dir)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=tmp_path,
        env={**os.environ, "TWISTED_CM_LOG_LEVEL": "info twisted.scripts=info"},
        text=True,
    )
    assert process.stdout is not None
    events = []
    for line in process.stdout:
        events.append(json.loads(line))
        heard = re.fullmatch("listening on (http://.*)", events[-1]["message"])
        if heard:
            # Once the emulator answers requests, it also handles signals.
            with urlopen(f"{heard[1]}/healthz", timeout=10) as answer:
                assert answer.read() == b"ok\n"
            process.send_signal(signal.SIGTERM)
    # After its shutdown, twistd restores the default handler and sends itself the signal again.
    assert process.wait(timeout=10) == -signal.SIGTERM
    namespaces = {each["namespace"] for each in events}
    assert {"twisted_cm.twistd", "twisted_cm.service.EmulatorService"} <= namespaces
    assert "twisted.scripts._twistd_unix.UnixAppLogger" in namespaces
