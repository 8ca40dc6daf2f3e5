"""Test the emulator with the unmodified official SDKs, each in a process, and with curl."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.error import HTTPError

import psutil
import pytest
from conftest import ROOT, RUNTIMES, Server, kill
from sdk_processes import SDK_PYTHON, Launch, contour, execute, get, submission, until

pytestmark = pytest.mark.long

TYPESCRIPT = ROOT / "tests" / "sdk" / "typescript"

#: The command that compiles and runs a Java program on Jackson. The simple compiler and few archives halve its time.
JAVA = (
    *("java", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-cp"),
    ":".join(f"/usr/share/java/jackson-{part}.jar" for part in ("annotations", "core", "databind")),
)


def raised(server: Server) -> list[str]:
    """Return what functions raised, the last job first, as lists of jobs show it."""
    jobs = get(server, "/_emulate/foundry/compute-modules/jobs?status=raised")["jobs"]
    return [each["raised_message"] for each in jobs]


def test_python_functions_of_every_kind(server: Server, launch: Launch, tmp_path: Path) -> None:
    launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
    assert execute(server, "typed", {"a": 6, "b": 7}) == b"42"
    echoed = json.loads(execute(server, "untyped", {"x": ["ü", None]}))
    assert (echoed["echo"], echoed["userId"]) == ({"x": ["ü", None]}, "jane")
    for owner in json.loads(execute(server, "asks_who_calls", {"url": server.urls["http"]})):
        assert owner["username"] == "jane"
    assert "on purpose" in json.loads(execute(server, "raises", {}))["exception"]
    assert "Circular reference" in json.loads(execute(server, "unserializable", {}))["exception"]
    assert raised(server) == ["Circular reference detected", "on purpose"]
    assert execute(server, "stream", {"n": 5}) == b"01234"
    assert server.cm("submit", "ri.one", "typed", "-", input=b'{"a": 2, "b": 3}').stdout == b"6"
    (tmp_path / "query.json").write_text('{"a": 2, "b": 4}')
    assert server.cm("submit", "ri.one", "typed", f"@{tmp_path / 'query.json'}", "--branch", "master").stdout == b"8"
    shown = get(server, f"{RUNTIMES}/one")
    assert [each["function_name"] for each in shown["schemas"]] == [
        "asks_who_calls",
        "forever",
        "raises",
        "slow",
        "stream",
        "together",
        "typed",
        "unserializable",
        "untyped",
    ]
    typed = next(each for each in shown["schemas"] if each["function_name"] == "typed")
    assert [each["dataType"]["type"] for each in typed["schema_payload"]["inputs"]] == ["integer", "integer"]


def test_python_runs_four_of_twenty_jobs_at_once(server: Server, launch: Launch, tmp_path: Path) -> None:
    launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"), options=("--max-concurrent-tasks", "4"))
    room = tmp_path / "room"
    room.mkdir()
    with ThreadPoolExecutor(20) as pool:
        queries = [{"n": n, "room": str(room), "size": 4} for n in range(20)]
        answers = list(pool.map(lambda query: json.loads(execute(server, "together", query)), queries))
    assert [answer["n"] for answer in answers] == list(range(20))
    assert all(answer["seen"] == 4 for answer in answers)


def test_python_sdk_carries_on_when_its_job_was_canceled(server: Server, launch: Launch, tmp_path: Path) -> None:
    module = launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
    room = tmp_path / "room"
    room.mkdir()
    query = {"n": 1, "size": 2, "room": str(room)}
    job = json.loads(contour(server, "POST", "/deployed-apps/jobs", submission("together", query)))
    until(lambda: list(room.iterdir()), module)
    contour(server, "DELETE", f"/jobs/{job['id']}")
    # The function returns now, and the emulator discards its result.
    (room / "leave").touch()
    assert execute(server, "typed", {"a": 6, "b": 7}) == b"42"
    assert json.loads(contour(server, "GET", f"/jobs/{job['id']}/status"))["type"] == "canceled"
    assert b"ERROR" not in kill(module)


@pytest.mark.parametrize("whole", [False, True], ids=["the module", "the command, too"])
def test_callers_of_a_killed_python_module_are_answered_and_those_beside_it_run_on(
    server: Server, launch: Launch, whole: bool
) -> None:
    first = launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
    with ThreadPoolExecutor(2) as pool:
        killed = pool.submit(execute, server, "forever", {})
        until(lambda: get(server, f"{RUNTIMES}/one")["running_jobs"] == 1, first)
        second = launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
        beside = pool.submit(execute, server, "slow", {"seconds": 4})
        until(lambda: get(server, f"{RUNTIMES}/one")["running_jobs"] == 2, second)
        if whole:
            kill(first)
        else:
            (module,) = psutil.Process(first.pid).children()
            # The worker that the SDK has started does not end with the module.
            workers = module.children()
            module.kill()
            for each in workers:
                each.kill()
        with pytest.raises(HTTPError) as caught:
            killed.result(timeout=10)
        assert caught.value.code == 500
        why = "the command that ran the replica was killed" if whole else "replica stopped"
        assert json.load(caught.value)["error_description"] == why
        if not whole:
            assert first.wait(timeout=10) == 128 + signal.SIGKILL
        assert beside.result(timeout=30) == b"4"
    assert execute(server, "typed", {"a": 1, "b": 2}) == b"2"


def test_no_short_job_waits_for_a_busy_replica_while_another_is_idle(server: Server, launch: Launch) -> None:
    modules = [launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py")) for _ in range(2)]
    with ThreadPoolExecutor(1) as pool:
        long = pool.submit(execute, server, "slow", {"seconds": 6})
        until(lambda: get(server, f"{RUNTIMES}/one")["running_jobs"] == 1, modules[0])
        for _ in range(20):
            assert execute(server, "slow", {"seconds": 0.05}) == b"0.05"
        # All twenty have run on the other one.
        assert not long.done()
        assert long.result(timeout=30) == b"6"


@pytest.mark.parametrize("server", ["validate_queries: true"], indirect=True)
def test_queries_are_checked_against_what_the_python_sdk_posts(server: Server, launch: Launch) -> None:
    launch(SDK_PYTHON, str(ROOT / "tests/sdk/module.py"))
    assert execute(server, "typed", {"a": 6, "b": 7}) == b"42"
    assert execute(server, "stream", {"n": 2}) == b"01"
    for function, query, status, found in (
        ("typed", {"a": "6", "c": 1}, 400, ["/a", "", ""]),
        ("typo", {}, 404, None),
    ):
        with pytest.raises(HTTPError) as refused:
            execute(server, function, query)
        assert refused.value.code == status
        violations = json.load(refused.value)["parameters"].get("violations")
        assert found is None or sorted(each["pointer"] for each in violations) == sorted(found)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_typescript_responses_streams_and_schemas(server: Server, launch: Launch, scheme: str) -> None:
    module = launch("node", str(TYPESCRIPT / "module.js"), options=("--url", server.urls[scheme]))
    assert json.loads(execute(server, "hello", {"name": "Jo"})) == "Hello, Jo"
    assert execute(server, "count", {"n": 5}) == b"01234"
    schemas = until(lambda: get(server, f"{RUNTIMES}/one")["schemas"], module)
    assert [each["function_name"] for each in schemas] == ["hello"]
    assert json.loads(execute(server, "raises", {})) == {"error": "TypeError", "reason": "on purpose"}
    assert json.loads(execute(server, "throws", {})) == {"error": "not an Error"}
    assert json.loads(execute(server, "unserializable", {}))["error"] == "TypeError"
    shown = raised(server)
    assert shown[0].startswith("TypeError: Converting circular structure")
    assert shown[1:] == ["not an Error", "TypeError: on purpose"]


def test_typescript_polls_seldom_while_idle(server: Server, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "idle").mkdir()
    seed = (tmp_path / "seed.yaml").read_text().replace("poll_timeout: 30", "poll_timeout: 2")
    idle = tmp_path / "idle"
    (idle / "s.yaml").write_text(seed)
    other = Server(idle, Path(server.environment["TWISTED_CM_STATE_DIR"]), "--seed", str(idle / "s.yaml"))
    module = other.start(
        "exec", "--runtime", "one", "--module-auth-token", "token-one", "--", "node", str(TYPESCRIPT / "module.js")
    )
    try:
        polls = set()
        until(lambda: get(other, f"{RUNTIMES}/one")["connected"], module)
        end = time.monotonic() + 3
        while time.monotonic() < end:
            polls.add(get(other, f"{RUNTIMES}/one")["last_poll_at"])
            time.sleep(0.01)
    finally:
        kill(module)
        other.stop()
    assert 2 <= len(polls) <= 4


@pytest.mark.skipif(shutil.which("java") is None, reason="The Java SDK's requests need a JDK.")
@pytest.mark.parametrize("newer", [False, True], ids=["with its token", "newer, without a token"])
def test_java_requests_at_the_sidecar(tmp_path: Path, state_dir: Path, newer: bool) -> None:
    options = ("--sidecar", "one", "--sidecar-port", "0", "--sidecar-tls-port", "0")
    server = Server(tmp_path, state_dir, *options)
    try:
        port = server.urls["sidecars"]["one"]["http"].rsplit(":", 1)[1]
        java = (
            *("exec", "--runtime", "one", "--module-auth-token", "token-one"),
            *(("--sidecar-port", port) if newer else ()),
            *("--", *JAVA, str(ROOT / "tests/sdk/Client.java"), port),
        )
        client = server.start(*java)
        assert execute(server, "anything", {"b": [1]}) == b'anything {"b":[1]}'
        assert b"204" in client.communicate(timeout=30)[0]
        client = server.start(*java)
        assert b"on purpose" in execute(server, "raises", {})
        assert b"204" in client.communicate(timeout=30)[0]
        assert raised(server) == ["java.lang.IllegalStateException: on purpose"]
        # Each was a replica of its own.
        jobs = get(server, "/_emulate/foundry/compute-modules/jobs")["jobs"]
        assert len({each["replica_id"] for each in jobs} - {"default"}) == 2
    finally:
        server.stop()


def test_the_sidecar_paths_of_foundry(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, "--sidecar", "one", "--sidecar-port", "0", "--sidecar-tls-port", "0")
    try:
        base = server.urls["sidecars"]["one"]["https"] + "/interactive-module/api/internal-query"
        base = base.replace("127.0.0.1", "localhost")
        curl = ["curl", "-sS", "--cacert", str(state_dir / "ca.pem"), "-H", "Module-Auth-Token: token-one"]
        posted = subprocess.run([*curl, "-i", "-d", "[]", f"{base}/schemas"], capture_output=True, check=True)
        assert posted.stdout.startswith(b"HTTP/1.1 204 ")
        assert posted.stdout.endswith(b"\r\n\r\n")
        restarted = subprocess.run([*curl, "-X", "POST", f"{base}/restart"], capture_output=True, check=True)
        assert restarted.stdout == b"[]"
    finally:
        server.stop()


def test_curl_goes_through_the_routes(server: Server) -> None:
    script = ROOT / "tests" / "sdk" / "routes.sh"
    ran = subprocess.run(
        ["bash", str(script), server.urls["https"], server.environment["TWISTED_CM_STATE_DIR"] + "/ca.pem"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_exec_forwards_signals_and_returns_the_status(server: Server) -> None:
    join = ("exec", "--runtime", "one", "--module-auth-token", "token-one", "--")
    assert server.cm(*join, "sh", "-c", "exit 7").returncode == 7
    assert server.cm(*join, "no-such-program").returncode == 127
    process = server.start(*join, "sh", "-c", "trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=10)
    assert process.returncode == 5
