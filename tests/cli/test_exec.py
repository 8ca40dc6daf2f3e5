"""``twisted-cm exec`` and ``twisted-cm env``."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
from conftest import BIN, ROOT, RUNTIMES, SEED, Server, free_port, kill
from sdk_processes import SDK_PYTHON, contour, execute, get, submission, until

pytestmark = pytest.mark.shared_server

MODULE = str(ROOT / "tests" / "sdk" / "module.py")
JOIN = ("exec", "--runtime", "one", "--module-auth-token", "token-one")
SHOW = (sys.executable, "-c", "import json, os; print(json.dumps(dict(os.environ)))")


def line(process: subprocess.Popen[bytes], part: str) -> str:
    """Return the next line of a command's output that contains a text."""
    assert process.stdout is not None
    for each in process.stdout:
        if part in each.decode():
            return each.decode().strip()
    raise AssertionError(f"the command ended without {part!r}")


def replicas(server: Server, runtime: str = "one") -> list[dict[str, Any]]:
    """Return the replicas of a runtime that were opened and are not gone."""
    found = get(server, f"{RUNTIMES}/{runtime}/replicas")
    return [each for each in found if each["replica_id"] != "default" and each["state"] != "gone"]


@pytest.fixture
def start(server: Server) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Return a function that starts a command against the server; end the commands later."""
    started = []

    def start_one(*arguments: str) -> subprocess.Popen[bytes]:
        started.append(server.start(*arguments))
        return started[-1]

    yield start_one
    for each in started:
        kill(each)


def restarted(server: Server, tmp_path: Path, state_dir: Path, ports: dict[str, str]) -> Server:
    """Stop a server and start it again at the same ports."""
    server.stop()
    (tmp_path / "again").mkdir()
    options = [each for name, port in ports.items() for each in (name, port)]
    return Server(tmp_path / "again", state_dir, *options)


# Joining


def test_it_joins_beside_what_runs_and_leaves_at_its_end(server: Server, start: Any, state_dir: Path) -> None:
    queued = json.loads(contour(server, "POST", "/deployed-apps/jobs", submission("forever", {})))["id"]
    first = start(*JOIN, "--", SDK_PYTHON, MODULE)
    assert line(first, "connected") == "twisted-cm: one: connected, 9 functions"
    until(lambda: json.loads(contour(server, "GET", f"/jobs/{queued}/status"))["type"] == "running", first)
    second = start(*JOIN, "--", SDK_PYTHON, MODULE)
    line(second, "connected")
    # The first one runs on, and the idle one gets the next job.
    assert execute(server, "typed", {"a": 2, "b": 3}) == b"6"
    assert json.loads(contour(server, "GET", f"/jobs/{queued}/status"))["type"] == "running"
    assert [each["max_concurrent_tasks"] for each in replicas(server)] == [1, 1]
    # Other tests use this directory, too.
    directories = [state_dir / "runtimes" / "one" / each["replica_id"] for each in replicas(server)]
    assert all(each.is_dir() for each in directories)
    second.send_signal(signal.SIGTERM)
    assert second.wait(timeout=20) == 128 + signal.SIGTERM
    assert len(replicas(server)) == 1
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=20) == 128 + signal.SIGTERM
    status = json.loads(contour(server, "GET", f"/jobs/{queued}/status"))
    assert status == {"type": "failed", "failed": {"message": "replica stopped"}}
    assert replicas(server) == [] and not any(each.exists() for each in directories)


def test_a_module_that_reports_no_functions_is_connected_all_the_same(server: Server, start: Any) -> None:
    poll = (
        "import os; from urllib.request import Request, urlopen; token = open(os.environ['MODULE_AUTH_TOKEN']).read()"
    )
    poll += "; urlopen(Request(os.environ['GET_JOB_URI'], headers={'Module-Auth-Token': token}))"
    assert line(start(*JOIN, "--", sys.executable, "-c", poll), "connected").endswith(
        "connected, no functions reported"
    )


def test_reset_resets_the_runtime_and_keeps_its_token(server: Server, start: Any) -> None:
    queued = json.loads(contour(server, "POST", "/deployed-apps/jobs", submission("f", {})))["id"]
    first = start(*JOIN, "--", "sleep", "60")
    until(lambda: replicas(server), first)
    ran = server.cm(*JOIN, "--reset", "--", "true")
    assert ran.returncode == 0, ran.stderr
    jobs = json.loads(server.cm("jobs", "--json").stdout)
    assert queued not in [each["job_id"] for each in jobs]
    # The token is still that of the seed, and the other command has joined again.
    assert server.cm(*JOIN, "--", "true").returncode == 0
    assert line(first, "joined") == "twisted-cm: one: The server was reset or started again; joined it again."


@pytest.mark.parametrize("limit", ["0", "-1", "10001", "many"])
def test_a_limit_has_to_be_possible(server: Server, limit: str) -> None:
    ran = server.cm(*JOIN, "--max-concurrent-tasks", limit, "--", "true")
    assert ran.returncode == 2 and b"--max-concurrent-tasks" in ran.stderr
    assert replicas(server) == []


def test_the_limit_is_that_of_the_option_then_of_the_seed(server: Server, tmp_path: Path) -> None:
    seed = tmp_path / "with-limit.yaml"
    seed.write_text(
        SEED.replace("module_auth_token: token-one", "module_auth_token: token-one, max_concurrent_tasks: 3")
    )
    for options, limit in (((), "3"), (("--max-concurrent-tasks", "5"), "5")):
        ran = server.cm("exec", "--runtime", "one", "--seed", str(seed), *options, "--", *SHOW)
        assert json.loads(ran.stdout)["MAX_CONCURRENT_TASKS"] == limit


# The right server


def test_the_port_and_the_token_are_those_of_the_seed(tmp_path: Path, state_dir: Path) -> None:
    port = free_port()
    seed = SEED.replace("foundry:\n", f"foundry:\n  port: {port}\n")
    server = Server(tmp_path, state_dir, "--port", str(port), seed=seed)
    try:
        del server.environment["TWISTED_CM_URL"]
        ran = server.cm("exec", "--runtime", "one", "--seed", str(tmp_path / "seed.yaml"), "--", *SHOW)
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)["GET_JOB_URI"].startswith(f"http://127.0.0.1:{port}/")
    finally:
        server.stop()


@pytest.mark.parametrize(
    ("change", "options", "said"),
    [
        (("", ""), ("--runtime", "oen"), "has no runtime 'oen'. Did you mean 'one'?"),
        (("", ""), ("--runtime", "x"), "has no runtime 'x'. It has: one, two."),
        (("runtime_id: one", "runtime_id: ten"), ("--runtime", "ten"), "has no runtime 'ten', so it has not read "),
        (("token-one", "token-new"), ("--runtime", "one"), "has another token for runtime 'one'."),
        (("foundry:\n", "foundry:\n  port: 0\n"), ("--runtime", "one", "--url", ""), "has the port 0"),
        (("foundry:\n", "foundry:\n  port: 1\n"), ("--runtime", "one", "--url", ""), "'twisted-cm serve'"),
    ],
)
def test_nothing_starts_without_the_right_server(
    server: Server, tmp_path: Path, change: tuple[str, str], options: tuple[str, ...], said: str
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(SEED.replace(*change) if change[0] else SEED)
    (tmp_path / "page").mkdir()
    marker = tmp_path / "ran"
    for command in (("exec",), ("env",)):
        tail = ("--", "touch", str(marker)) if command == ("exec",) else ()
        ran = server.cm(*command, "--seed", str(other), *options, *tail)
        assert ran.returncode == 1 and said in ran.stderr.decode(), ran.stderr
        assert b"Traceback" not in ran.stderr
    assert not marker.exists()
    assert {each["runtime_id"] for each in get(server, RUNTIMES)} == {"one", "two"}
    assert replicas(server) == []


def test_another_web_server_is_no_emulator(tmp_path: Path, state_dir: Path) -> None:
    files = subprocess.Popen(
        [sys.executable, "-u", "-m", "http.server", "0", "--bind", "127.0.0.1"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert files.stdout is not None
        (port,) = re.findall(r"port (\d+)", files.stdout.readline().decode())
        ran = subprocess.run(
            [str(BIN / "twisted-cm"), "exec", "--runtime", "r", "--url", f"http://127.0.0.1:{port}", "--", "true"],
            capture_output=True,
            timeout=30,
        )
        assert ran.returncode == 1 and b"emulator" in ran.stderr and b"Traceback" not in ran.stderr
    finally:
        files.kill()
        files.communicate()


# The end


def test_ctrl_c_prints_one_line_and_no_traceback(server: Server, start: Any) -> None:
    command = start(*JOIN, "--", SDK_PYTHON, MODULE)
    line(command, "connected")
    # The terminal sends the signal to the whole group.
    os.killpg(command.pid, signal.SIGINT)
    assert command.communicate(timeout=20)[0] == b"twisted-cm: one: stopped\n"
    assert command.returncode == 128 + signal.SIGINT
    assert replicas(server) == []


def test_a_second_ctrl_c_kills_a_module_that_does_not_end(server: Server, start: Any) -> None:
    command = start(*JOIN, "--", "sh", "-c", "trap 'echo ignored' TERM; echo ready; while :; do sleep 0.05; done")
    line(command, "ready")
    os.killpg(command.pid, signal.SIGINT)
    line(command, "ignored")
    os.killpg(command.pid, signal.SIGINT)
    assert command.wait(timeout=20) == 128 + signal.SIGINT


def test_the_workers_of_a_module_end_with_it(server: Server, start: Any) -> None:
    command = start(*JOIN, "--", SDK_PYTHON, MODULE)
    line(command, "connected")
    job = json.loads(contour(server, "POST", "/deployed-apps/jobs", submission("forever", {})))["id"]
    until(lambda: json.loads(contour(server, "GET", f"/jobs/{job}/status"))["type"] == "running", command)
    (module,) = psutil.Process(command.pid).children()
    workers = module.children(recursive=True)
    assert workers
    os.kill(command.pid, signal.SIGINT)
    assert command.wait(timeout=20) == 128 + signal.SIGINT
    assert psutil.wait_procs([module, *workers], timeout=10)[1] == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_early_ends_the_command(server: Server, start: Any, number: signal.Signals) -> None:
    for _ in range(3):
        command = start(*JOIN, "--", "sleep", "45")
        while not replicas(server):
            assert command.poll() is None
        command.send_signal(number)
        assert command.wait(timeout=20) == 128 + number
        assert replicas(server) == []


def test_what_a_killed_command_has_left_is_removed(server: Server, start: Any, state_dir: Path) -> None:
    directory = state_dir / "runtimes" / "one"
    command = start(*JOIN, "--", "sleep", "45")
    (replica,) = until(lambda: replicas(server), command)
    held = directory / replica["replica_id"]
    until(lambda: (held / "module-auth-token").exists(), command)
    abandoned = directory / "replica-abandoned"
    abandoned.mkdir()
    (abandoned / "module-auth-token").touch()
    new = directory / "replica-new"
    new.mkdir()
    for each in (held, abandoned):
        os.utime(each, (0, 0))
    assert server.cm(*JOIN, "--", "true").returncode == 0
    assert held.exists() and new.exists() and not abandoned.exists()


def test_variables_of_another_module_are_left_out(server: Server) -> None:
    server.environment |= {"GET_JOB_URI_V2": "http://stale", "SOURCE_CREDENTIALS": "/stale", "OTHER": "kept"}
    seen = json.loads(server.cm(*JOIN, "--", *SHOW).stdout)
    assert seen["OTHER"] == "kept" and not {"GET_JOB_URI_V2", "SOURCE_CREDENTIALS"} & seen.keys()


@pytest.mark.parametrize("server", ["faults: [{kind: expire_token}]"], indirect=True)
def test_a_fault_of_the_module_does_not_strike_the_command(server: Server) -> None:
    assert server.cm(*JOIN, "--", "true").returncode == 0
    (fault,) = json.loads(server.cm("faults", "--json").stdout)
    assert fault["struck"] == 0
    assert replicas(server) == []


def test_module_and_replica_end_with_a_command_that_is_killed(server: Server, start: Any) -> None:
    command = start(*JOIN, "--", SDK_PYTHON, MODULE)
    line(command, "connected")
    (module,) = psutil.Process(command.pid).children()
    command.kill()
    assert psutil.wait_procs([module], timeout=10)[1] == []
    for _ in range(400):
        if not replicas(server):
            break
        time.sleep(0.1)
    (last,) = (each for each in get(server, f"{RUNTIMES}/one/replicas") if each["replica_id"] != "default")
    assert (last["state"], last["ended_why"]) == ("gone", "the command that ran the replica was killed")


def test_a_program_that_cannot_run_leaves_no_replica(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for program, status in (("no-such-program", 127), (str(tmp_path / "file"), 126)):
        ran = server.cm(*JOIN, "--", program)
        assert ran.returncode == status and ran.stderr.startswith(b"Error: Cannot run ")
    assert replicas(server) == []


# Another life of the server


def test_a_module_joins_again_when_the_server_starts_again(tmp_path: Path, state_dir: Path) -> None:
    ports = {"--port": str(free_port()), "--tls-port": str(free_port())}
    server = Server(tmp_path, state_dir, *(each for pair in ports.items() for each in pair))
    command = server.start(*JOIN, "--", SDK_PYTHON, MODULE)
    try:
        line(command, "connected")
        server = restarted(server, tmp_path, state_dir, ports)
        line(command, "joined it again")
        assert execute(server, "typed", {"a": 2, "b": 3}) == b"6"
        assert len(replicas(server)) == 1
    finally:
        kill(command)
        server.stop()


def test_a_module_stops_when_its_replica_is_deleted(server: Server, start: Any) -> None:
    command = start(*JOIN, "--", "sleep", "60")
    (replica,) = until(lambda: replicas(server), command)
    url = f"{server.urls['http']}{RUNTIMES}/one/replicas/{replica['replica_id']}"
    with urlopen(Request(url, headers={"Authorization": "Bearer app-token"}, method="DELETE")):
        pass
    assert line(command, "deleted").endswith("The replica was deleted: replica stopped. The module stops.")
    assert command.wait(timeout=20) == 128 + signal.SIGTERM


# Standard input

#: A module that says how it ends, and whether it has input of its own.
WAITS = """
import signal, sys, time
def leave(number, frame):
    print("ended by", signal.Signals(number).name, flush=True)
    sys.exit(3)
signal.signal(signal.SIGTERM, leave)
print("input:", sys.stdin.read(), flush=True)
time.sleep(100)
"""


def test_it_stops_with_standard_input_if_it_is_told_to(server: Server) -> None:
    command = subprocess.Popen(
        [str(BIN / "twisted-cm"), *JOIN, "--stop-with-stdin", "--", sys.executable, "-c", WAITS],
        env=server.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        # The module does not read what the command does.
        assert line(command, "input:") == "input:"
        assert command.stdin is not None
        command.stdin.close()
        assert line(command, "ended") == "ended by SIGTERM"
        assert command.wait(timeout=20) == 128 + signal.SIGINT
        assert replicas(server) == []
    finally:
        kill(command)


# Containers


def variables(server: Server, *options: str) -> dict[str, str]:
    ran = server.cm("env", *options)
    assert ran.returncode == 0, ran.stderr
    return dict(each.split("=", 1) for each in ran.stdout.decode().splitlines())


def test_env_prints_the_same_token_when_it_runs_again(server: Server) -> None:
    options = ("--runtime", "fresh", "--deployed-app", "ri.fresh")
    first = variables(server, *options)
    token = Path(first["MODULE_AUTH_TOKEN"]).read_text()
    assert variables(server, *options) == first
    assert Path(first["MODULE_AUTH_TOKEN"]).read_text() == token
    (replica,) = replicas(server, "fresh")
    assert (replica["replica_id"], replica["state"]) == ("container", "starting")
    # Another container is another replica.
    other = variables(server, *options, "--replica", "b/2", "--max-concurrent-tasks", "4")
    assert other["MAX_CONCURRENT_TASKS"] == "4"
    assert Path(other["MODULE_AUTH_TOKEN"]).read_text() != token
    assert Path(first["MODULE_AUTH_TOKEN"]).read_text() == token
    assert {each["replica_id"] for each in replicas(server, "fresh")} == {"container", "b/2"}
    # With another limit, the replica is another one with the same token.
    variables(server, *options, "--max-concurrent-tasks", "2")
    assert {each["replica_id"]: each["max_concurrent_tasks"] for each in replicas(server, "fresh")} == {
        "container": 2,
        "b/2": 4,
    }
    assert Path(first["MODULE_AUTH_TOKEN"]).read_text() == token


def test_env_opens_the_replica_again_after_the_server_started_again(tmp_path: Path, state_dir: Path) -> None:
    ports = {"--port": str(free_port()), "--tls-port": str(free_port())}
    server = Server(tmp_path, state_dir, *(each for pair in ports.items() for each in pair))
    try:
        first = variables(server, "--runtime", "one")
        token = Path(first["MODULE_AUTH_TOKEN"]).read_text()
        server = restarted(server, tmp_path, state_dir, ports)
        assert variables(server, "--runtime", "one") == first
        assert Path(first["MODULE_AUTH_TOKEN"]).read_text() == token
        assert [each["replica_id"] for each in replicas(server)] == ["container"]
    finally:
        server.stop()


def test_env_refuses_a_replica_that_another_state_directory_knows(server: Server, state_dir: Path) -> None:
    variables(server, "--runtime", "one")
    shutil.rmtree(state_dir / "runtimes")
    ran = server.cm("env", "--runtime", "one")
    assert ran.returncode == 1 and b"has a replica 'container'" in ran.stderr


def test_env_refuses_a_value_of_several_lines(server: Server, tmp_path: Path) -> None:
    seed = tmp_path / "lines.yaml"
    seed.write_text(SEED.replace("module_auth_token: token-one", 'module_auth_token: token-one, env: {A: "b\\nc"}'))
    ran = server.cm("env", "--runtime", "one", "--seed", str(seed))
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr == b"Error: The value of A has several lines, which no env file can hold.\n"
