"""Several worker processes serve one port: jobs, ends of processes, signals, and what must happen once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import BIN, CONTOUR, ROOT, RUNTIMES, SEED
from forked_commands import run_command
from prometheus_client.parser import text_string_to_metric_families
from redis_server import RedisServer
from worker_steps import Client, WorkersServer, alive, until

Start = Callable[..., WorkersServer]
SCHEMES = ("http", "https")
EXECUTE = f"{CONTOUR}/compute-modules/jobs/execute"


# Jobs


def test_a_job_takes_each_step_at_any_worker(start: Start) -> None:
    server = start()
    for scheme in SCHEMES:
        first, second = server.both(scheme)
        for here, there in ((first, second), (second, first)):
            job_id = here.submit({"n": 1})
            job = there.poll()
            assert (job["jobId"], job["query"]) == (job_id, {"n": 1})
            here.finish(job_id, b"done")
            assert there.result(job_id) == here.result(job_id) == b"done"


def test_a_caller_parked_at_one_worker_gets_the_result_posted_at_the_other(start: Start) -> None:
    server = start()
    for scheme in SCHEMES:
        first, second = server.both(scheme)
        first.send("POST", EXECUTE, {"deployedAppRid": "ri.one", "queryType": "f", "query": 1})
        second.finish(second.poll()["jobId"], b"for the other")
        assert first.receive() == (200, b"for the other")


def test_connections_spread_over_the_workers(start: Start) -> None:
    server = start()
    server.both()
    pids = server.workers()

    def connections(pid: int) -> int:
        return sum(each.status == psutil.CONN_ESTABLISHED for each in psutil.Process(pid).net_connections("tcp"))

    before = [connections(pid) for pid in pids]
    clients = [Client(server.connect("http")) for _ in range(60)]
    for each in clients:
        assert each.ask("GET", "/healthz")[0] == 200
    taken = [connections(pid) - count for pid, count in zip(pids, before, strict=True)]
    # The chance that a fair spread gives one of them fewer is below 1 in 10,000.
    assert sum(taken) == 60 and min(taken) >= 15, taken


# Ends of processes


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_killed_worker_is_replaced_and_no_job_is_lost(start: Start, scheme: str) -> None:
    server = start()
    first, second = server.both(scheme)
    victim = server.workers()[0]
    jobs = [first.submit(number) for number in range(20)]
    # The worker that is killed has dispatched a job, and has a poll parked that gets no job any more.
    dispatched = first.poll()["jobId"]
    os.kill(victim, signal.SIGKILL)
    second.finish(dispatched, b"from before")
    for _ in jobs[1:]:
        job = second.poll()
        second.finish(job["jobId"], b"%d" % job["query"])
    until(lambda: len(server.workers()) == 2 and victim not in server.workers())
    for client in server.both(scheme):
        assert client.result(dispatched) == b"from before"
        assert [client.result(each) for each in jobs[1:]] == [b"%d" % number for number in range(1, 20)]
    server.close()
    assert "worker 1 ended with signal SIGKILL; starting it again in 0.5 s" in server.log


def test_new_connections_go_to_the_other_workers_while_one_is_started_again(start: Start) -> None:
    server = start()
    server.both()
    os.kill(server.workers()[0], signal.SIGKILL)
    # Until the parent notices, the socket of the worker still gets connections.
    lines = ("ended with signal SIGKILL" in line for line in server.process.stdout or ())
    assert ThreadPoolExecutor(1).submit(any, lines).result(30)
    for _ in range(30):
        assert server.ask("GET", "/healthz")[0] == 200


def test_a_worker_that_is_terminated_answers_first_and_is_replaced(start: Start) -> None:
    server = start()
    first, _ = server.both()
    victim = server.workers()[0]
    first.send("POST", EXECUTE, {"deployedAppRid": "ri.one", "queryType": "f", "query": 1})
    until(lambda: json.loads(server.ask("GET", f"{RUNTIMES}/one")[1])["queued_jobs"])
    os.kill(victim, signal.SIGTERM)
    assert first.receive()[0] == 503
    until(lambda: len(server.workers()) == 2 and victim not in server.workers())


def test_workers_and_modules_end_with_a_parent_that_is_killed(start: Start, tmp_path: Path) -> None:
    server = start(seed=with_module(tmp_path))
    first, _ = server.both()
    until_running(first)
    processes = [each.pid for each in psutil.Process(server.process.pid).children(recursive=True)]
    assert len(processes) >= 4
    counts = server.counts()
    server.process.kill()
    server.process.wait()
    until(lambda: not any(map(alive, processes)), seconds=10)
    assert not counts.exists()


# Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_parked_callers_of_all_workers_are_answered_when_the_parent_is_to_end(start: Start, number: int) -> None:
    server = start()
    clients = [*server.both("http"), *server.both("https")]
    for each in clients:
        each.send("POST", EXECUTE, {"deployedAppRid": "ri.one", "queryType": "f", "query": 1})
    until(lambda: json.loads(server.ask("GET", f"{RUNTIMES}/one")[1])["queued_jobs"] == 4)
    children = [each.pid for each in psutil.Process(server.process.pid).children(recursive=True)]
    started = time.monotonic()
    server.process.send_signal(number)
    assert [each.receive()[0] for each in clients] == [503] * 4
    server.close_clients()
    assert server.process.wait(10) == 0
    assert time.monotonic() - started < 8
    assert not any(map(alive, children))


def test_a_second_signal_ends_all_at_once(start: Start) -> None:
    server = start()
    first, _ = server.both()
    # A client that does not read its answer holds a graceful stop up.
    first.send("GET", f"{RUNTIMES}/one/module/output?follow=true")
    workers = server.workers()
    os.kill(workers[0], signal.SIGSTOP)
    server.process.terminate()
    until(lambda: len(server.workers()) < 2)
    assert server.process.poll() is None
    counts = server.counts()
    server.process.terminate()
    assert server.process.wait(2) == -signal.SIGTERM
    until(lambda: not any(map(alive, workers)), seconds=2)
    until(lambda: not counts.exists(), seconds=2)


def test_every_worker_reloads_the_seed_and_so_does_one_that_starts_later(start: Start) -> None:
    server = start()
    clients = server.both()
    other = {"Authorization": "Bearer other-token"}
    assert [each.ask("GET", RUNTIMES, **other)[0] for each in clients] == [401, 401]
    text = SEED.replace("app-token: {login: jane}", "app-token: {login: jane}, other-token: {login: joe}")
    text = text.replace("runtimes:\n", "runtimes:\n      - {runtime_id: new}\n")
    # One that is not valid changes nothing, and is complained about once.
    server.seed_file.write_text("foundry: 1")
    server.process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    server.seed_file.write_text(text)
    server.process.send_signal(signal.SIGHUP)
    for each in clients:
        until(lambda each=each: each.ask("GET", RUNTIMES, **other)[0] == 200)
        assert each.ask("GET", f"{RUNTIMES}/new")[0] == 200
    os.kill(server.workers()[0], signal.SIGKILL)
    until(lambda: len(server.workers()) == 1)
    # A seed that is not valid does not keep a worker from being started again.
    server.seed_file.write_text("foundry: 1")
    for each in server.both():
        assert each.ask("GET", f"{RUNTIMES}/new", **other)[0] == 200
    server.close()
    assert server.log.count("seed not reloaded") == 1


# What must happen once


def with_module(directory: Path) -> str:
    """Return a seed whose runtime ``one`` has a module."""
    command = json.dumps([sys.executable, str(ROOT / "tests/supervisor/module.py")])
    return SEED.replace(
        "{runtime_id: one, module_auth_token: token-one}",
        f"{{runtime_id: one, module_auth_token: token-one, command: {command}, directory: {directory}}}",
    )


def until_running(client: Client) -> Any:
    def module() -> Any:
        found = json.loads(client.ask("GET", f"{RUNTIMES}/one")[1])["module"]
        return found if found["state"] == "running" else None

    return until(module)


def test_modules_are_started_once_and_every_worker_speaks_for_them(start: Start, tmp_path: Path) -> None:
    server = start(seed=with_module(tmp_path))
    clients = server.both()
    for each in clients:
        assert until_running(each)["starts"] == 1
    body = {"deployedAppRid": "ri.one", "queryType": "print", "query": ["a line"]}
    assert clients[0].ask("POST", EXECUTE, body) == (200, b"1")

    def lines(client: Client) -> list[str]:
        _, content = client.ask("GET", f"{RUNTIMES}/one/module/output")
        return [json.loads(line)["text"] for line in content.splitlines()]

    for each in clients:
        until(lambda each=each: lines(each).count("a line") == 1)
    # A worker that starts later knows what was written before.
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(server.workers()) == 2 and victim not in server.workers())
    clients = server.both()
    for each in clients:
        assert "a line" in lines(each)
        # This module ends when its poll is cut off, unlike one with an SDK.
        starts = until_running(each)["starts"]
        assert each.ask("POST", f"{RUNTIMES}/one/module/restart") == (204, b"")
        for client in clients:
            until(lambda client=client, starts=starts: until_running(client)["starts"] > starts)
    server.close()
    assert server.log.count("a line") == 1


def test_metrics_count_each_job_once_at_whichever_worker_they_are_read(start: Start) -> None:
    server = start()
    clients = server.both()
    finished = "twisted_cm_jobs_finished_total"

    def counted(client: Client) -> dict[str, float]:
        _, text = client.ask("GET", "/metrics")
        return {
            " ".join([each.name, *(value for _, value in sorted(each.labels.items()))]): each.value
            for family in text_string_to_metric_families(text.decode())
            for each in family.samples
        }

    def run(client: Client, count: int) -> None:
        for _ in range(count):
            job_id = client.submit()
            client.finish(client.poll()["jobId"], b"x")
            assert client.result(job_id) == b"x"

    run(clients[0], 3)
    run(clients[1], 4)
    for each in clients:
        until(lambda each=each: counted(each)[f"{finished} contour-async succeeded"] == 7)
        found = counted(each)
        assert found["twisted_cm_jobs_submitted_total contour-async"] == 7
        assert found["twisted_cm_job_run_seconds_count"] == found["twisted_cm_result_size_bytes_count"] == 7
        assert found["twisted_cm_runtimes"] == 2
        assert {name for name in found if name.startswith("process_open_fds")} == {
            "process_open_fds 1",
            "process_open_fds 2",
            "process_open_fds parent",
        }
    open_now = len(server.clients)
    until(lambda: counted(clients[0])["twisted_cm_open_connections"] == open_now)
    # What a worker has counted stays when it is killed; what it had open does not.
    victim = server.workers()[0]
    os.kill(victim, signal.SIGKILL)
    until(lambda: len(server.workers()) == 2 and victim not in server.workers())
    clients = server.both()
    run(clients[0], 1)
    for each in clients:
        until(lambda each=each: counted(each)[f"{finished} contour-async succeeded"] == 8)
        assert counted(each)["twisted_cm_parked_callers"] == 0


def test_jobs_are_recorded_once_and_the_log_says_which_worker_wrote_a_line(start: Start, tmp_path: Path) -> None:
    recording = tmp_path / "jobs.jsonl"
    server = start("--record", str(recording), "--log-format", "json")
    jobs = []
    for each in server.both():
        jobs.append(each.submit())
        each.finish(each.poll()["jobId"], b"x")
    server.close()
    recorded = [json.loads(line)["job_id"] for line in recording.read_text().splitlines()]
    assert sorted(recorded) == sorted(jobs)
    printed = (server.banner + server.log).splitlines()
    lines = [json.loads(line) for line in printed if line.startswith("{")]
    joined = [line.get("worker") for line in lines if line["message"].startswith("joined the nodes")]
    assert sorted(joined, key=str) == [1, 2, None]
    assert sum("listening on" in line["message"] for line in lines) == 2
    assert len([line for line in lines if line.get("state") == "succeeded"]) == 2


# The command line


def refused(*options: str, **environment: str) -> str:
    command = ["serve", "--port", "0", "--tls-port", "0", *options]
    ran = run_command(command, text=True, env={**os.environ, **environment})
    assert ran.returncode in (1, 2) and "Traceback" not in ran.stderr, ran.stderr
    return ran.stderr


def test_several_workers_without_a_redis_are_refused(state_dir: Path, tmp_path: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(SEED)
    error = refused("--workers", "2", "--seed", str(seed), "--state-dir", str(state_dir))
    assert "2 workers need a Redis that they share; name one with --broker redis://127.0.0.1:6379/0" in error


@pytest.mark.parametrize("number", ["0", "-1", "two", "65"])
def test_a_wrong_number_of_workers_is_refused(number: str) -> None:
    assert "Invalid value for '--workers'" in refused("--workers", number)


def test_a_port_that_another_emulator_has_is_refused(start: Start, state_dir: Path, redis_server: RedisServer) -> None:
    server = start()
    port = server.urls["http"].rpartition(":")[2]
    for workers in ("1", "2"):
        options = ("--workers", workers, "--port", port, "--broker", redis_server.url, "--state-dir", str(state_dir))
        assert f"port {port}: Address already in use" in refused(*options)


def test_the_seed_can_name_the_redis(tmp_path: Path, state_dir: Path, redis_server: RedisServer) -> None:
    assert redis_server.command("FLUSHALL") == b"+OK\r\n"
    seed = tmp_path / "seed.yaml"
    seed.write_text(SEED.replace("compute_modules:\n", f"compute_modules:\n    broker: {redis_server.url}\n"))
    command = [str(BIN / "twisted-cm"), "serve", "--seed", str(seed), "--port", "0", "--tls-port", "0"]
    process = subprocess.Popen(
        [*command, "--workers", "2", "--state-dir", str(state_dir)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        banner = next(line for line in process.stdout if "workers: 2" in line or "Ctrl-C" in line)
        assert banner == "  workers: 2\n"
    finally:
        process.terminate()
        assert process.communicate(timeout=20) and process.returncode == 0


def test_one_worker_is_one_process(tmp_path: Path, state_dir: Path) -> None:
    from conftest import Server

    server = Server(tmp_path, state_dir, "--workers", "1")
    try:
        assert psutil.Process(server.process.pid).children() == []
        assert "workers" not in server.banner
    finally:
        assert server.stop() == 0


def test_the_help_names_the_option() -> None:
    ran = run_command(["serve", "--help"], text=True)
    assert ran.returncode == 0
    assert "--workers" in ran.stdout and "need a Redis" in ran.stdout
