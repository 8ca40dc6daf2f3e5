"""The installed command line and twistd plugin: starting, stopping, errors."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import Request, urlopen

import psutil
import pytest
from conftest import BIN, ROOT, Server, free_port, kill
from forked_commands import run_command, start_command, start_twistd
from terminal import Terminal

INFO = "/_emulate/foundry/compute-modules/info"


def run(program: str, *arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    start = {"twisted-cm": start_command, "twistd": start_twistd}[program]
    return run_command(arguments, start=start, cwd=cwd, env={**os.environ, **environment}, text=True)


def refused(ran: subprocess.CompletedProcess[str], says: str) -> None:
    """Expect a failure with one line that says what to do."""
    assert ran.returncode != 0
    assert "Traceback" not in ran.stderr
    assert says in ran.stderr
    assert len([line for line in ran.stderr.splitlines() if not line.startswith(("Usage", "Try"))]) <= 2


def test_a_starter_seed_is_written_once_and_checks(tmp_path: Path) -> None:
    assert run("twisted-cm", "init", cwd=tmp_path).returncode == 0
    assert "1 runtimes, 1 deployed apps" in run("twisted-cm", "check", "seed.yaml", cwd=tmp_path).stdout
    refused(run("twisted-cm", "init", cwd=tmp_path), "already exists")


@pytest.mark.parametrize("command", [("twisted-cm", "serve"), ("twistd", "compute-modules")])
def test_what_cannot_start_says_why(tmp_path: Path, command: tuple[str, ...]) -> None:
    (tmp_path / "bad.yaml").write_text("foundry: {compute_modules: {runtime: []}}")
    state = {"TWISTED_CM_STATE_DIR": str(tmp_path / "state")}
    refused(run(*command, "--seed", "none.yaml", cwd=tmp_path, **state), "none.yaml: No such file")
    refused(run(*command, "--seed", "bad.yaml", cwd=tmp_path, **state), "did you mean 'runtimes'?")
    refused(run(*command, "--no-such-option", cwd=tmp_path, **state), "--no-such-option")
    refused(run(*command, "--interface", "0.0.0.0", "--port", "0", cwd=tmp_path, **state), "--admin-token")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        refused(run(*command, "--port", port, cwd=tmp_path, **state), "choose another port with --port")


def test_the_banner_can_be_followed_and_tells_no_token(server: Server) -> None:
    assert "tokens of the seed: jane" in server.banner
    assert "app-token" not in server.banner
    assert follow(server.banner, TOKEN="wrong").endswith("401")
    # No runtime is connected, so the job waits until curl gives up.
    assert follow(server.banner, TOKEN="app-token") == "000"


@pytest.mark.parametrize(
    ("seed", "says"),
    [
        ("foundry: {compute_modules: {deployed_apps: [{deployed_app_rid: ri.one, runtime_id: one}]}}", True),
        ("foundry: {oauth_clients: [{client_id: app, client_secret: secret}]}", False),
    ],
)
def test_only_the_development_token_is_printed(tmp_path: Path, state_dir: Path, seed: str, says: bool) -> None:
    server = Server(tmp_path, state_dir, seed=seed)
    try:
        assert ("bearer token: test_token_admin" in server.banner) == says
        assert ("bearer token" in server.banner) == says
        assert follow(server.banner, TOKEN="") == ("000" if says else "401")
    finally:
        assert server.stop() == 0


def test_the_development_token_is_not_printed_beyond_loopback(tmp_path: Path, state_dir: Path) -> None:
    server = Server(tmp_path, state_dir, "--interface", "0.0.0.0", "--admin-token", "boss", seed="")
    try:
        assert "test_token_admin" not in server.banner
        assert "boss" not in server.banner
        assert follow(server.banner, TOKEN="test_token_admin") == "401"
    finally:
        assert server.stop() == 0


def follow(banner: str, **environment: str) -> str:
    """Run the command in a banner for a second, and return the status of the answer."""
    curl = re.search(r"curl .*?execute", banner, re.DOTALL)
    assert curl is not None
    command = curl.group().replace("curl", "curl -sS -m 1 -o /dev/null -w '%{http_code}'", 1)
    ran = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, **environment}, timeout=10
    )
    assert ran.returncode == (28 if ran.stdout == "000" else 0), ran.stderr
    return ran.stdout


def test_submit_says_what_is_wrong(server: Server, tmp_path: Path) -> None:
    for arguments, says in (
        (["ri.none", "f"], b"No active compute-module runtime is bound to 'ri.none'"),
        (["ri.one", "f", "{"], b"not JSON"),
        (["ri.one", "f", "@none.json"], b"No such file"),
        (["ri.one", "f", "--token", "wrong"], b"bearer token"),
        (["ri.one", "f", "--timeout", "0.2"], b"--timeout"),
        (["ri.one", "f", "--url", f"http://127.0.0.1:{free_port()}"], b"twisted-cm serve"),
    ):
        ran = server.cm("submit", *arguments)
        assert (ran.returncode != 0, ran.stdout) == (True, b"")
        assert says in ran.stderr
        assert b"Traceback" not in ran.stderr


def test_env_prints_what_exec_sets(server: Server) -> None:
    lines = server.cm("env", "--runtime", "fresh", "--deployed-app", "ri.x", "--branch", "b").stdout.decode()
    variables = dict(line.split("=", 1) for line in lines.splitlines())
    assert variables["RUNTIME_PORT"] == server.urls["https"].rsplit(":", 1)[1]
    token = Path(variables["MODULE_AUTH_TOKEN"])
    assert token.read_text().startswith("foundry_module_auth_")
    assert stat.S_IMODE(token.stat().st_mode) == 0o600
    connection = json.loads(Path(variables["CONNECTION_TO_RUNTIME"]).read_text())
    assert sorted(connection) == [
        "basePath",
        "getJobPath",
        "host",
        "moduleAuthToken",
        "port",
        "postResultPath",
        "trustStorePath",
    ]
    assert "BEGIN CERTIFICATE" in Path(variables["CONNECTIONS_TO_OTHER_PODS_CA_PATH"]).read_text()


def test_the_kept_certificate_is_private_and_stays(state_dir: Path, server: Server) -> None:
    assert {stat.S_IMODE(path.stat().st_mode) for path in state_dir.glob("*.pem")} == {0o600}
    with urlopen(server.urls["http"] + INFO) as answer:
        assert json.load(answer)["caCertificate"] == (state_dir / "ca.pem").read_text()


def test_sigterm_answers_a_parked_caller_and_ends_in_time(server: Server) -> None:
    submit = server.start("submit", "ri.one", "f")
    while submit.poll() is None and not _queued(server):
        time.sleep(0.05)
    started = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - started < 5
    assert b"shutting down" in submit.communicate(timeout=10)[0]


def _queued(server: Server) -> int:
    url = server.urls["http"] + "/_emulate/foundry/compute-modules/runtimes/one"
    with urlopen(Request(url, headers={"Authorization": "Bearer app-token"})) as answer:
        queued: int = json.load(answer)["queued_jobs"]
        return queued


def test_as_many_files_may_be_open_as_the_system_lets(tmp_path: Path, state_dir: Path) -> None:
    few = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, few[1]))
    try:
        server = Server(tmp_path, state_dir)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, few)
    try:
        assert psutil.Process(server.process.pid).rlimit(psutil.RLIMIT_NOFILE) == (few[1], few[1])
    finally:
        server.stop()


def test_too_few_files_are_said(tmp_path: Path, state_dir: Path) -> None:
    command = f"ulimit -n 300; exec {BIN}/twisted-cm serve --port 0 --tls-port 0 --state-dir {state_dir}"
    process = subprocess.Popen(["bash", "-c", command], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    line = process.stderr.readline()
    process.terminate()
    process.communicate(timeout=10)
    assert "only 300 files may be open" in line


def test_ctrl_c_stops_cleanly(server: Server) -> None:
    server.process.send_signal(signal.SIGINT)
    output = server.process.communicate(timeout=10)[0]
    assert server.process.returncode == 0
    assert "Traceback" not in output


def test_ctrl_c_twice_does_not_wait(server: Server) -> None:
    url = urlsplit(server.urls["http"])
    with socket.create_connection((url.hostname, url.port)) as client:
        # The server waits for the rest of this request.
        client.sendall(b"POST /multipass/api/oauth2/token HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n")
        client.sendall(b"Content-Type: application/x-www-form-urlencoded\r\n\r\n")
        server.process.send_signal(signal.SIGINT)
        assert server.process.stdout is not None
        while refuses(url.hostname, url.port) is False:
            time.sleep(0.01)
        server.process.send_signal(signal.SIGINT)
        output = server.process.communicate(timeout=3)[0]
    assert server.process.returncode == -signal.SIGINT
    assert "Traceback" not in output


def refuses(host: str | None, port: int | None) -> bool:
    """Return whether nothing listens on a port."""
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) != 0


def test_twistd_runs_the_plugin_of_a_wheel(tmp_path: Path, state_dir: Path) -> None:
    port, tls_port = free_port(), free_port()
    options = ["--port", str(port), "--tls-port", str(tls_port), "--state-dir", str(state_dir)]
    pid_file = tmp_path / "cm.pid"
    daemon = [str(BIN / "twistd"), "--pidfile", str(pid_file), "--logfile", str(tmp_path / "cm.log")]
    subprocess.run([*daemon, "compute-modules", *options], cwd=tmp_path, check=True, timeout=60)
    for _ in range(200):
        if pid_file.exists() and "listening on" in (tmp_path / "cm.log").read_text():
            break
        time.sleep(0.05)
    with urlopen(f"http://127.0.0.1:{port}{INFO}") as answer:
        assert json.load(answer)["https"] == f"https://127.0.0.1:{tls_port}"
    os.kill(int(pid_file.read_text()), signal.SIGTERM)
    for _ in range(100):
        if not pid_file.exists():
            break
        time.sleep(0.05)
    assert not pid_file.exists()
    log = (tmp_path / "cm.log").read_text()
    assert "Traceback" not in log
    assert log.count("bearer token: test_token_admin") == 1


def test_twistd_answers_help(tmp_path: Path) -> None:
    ran = run("twistd", "compute-modules", "--help", cwd=tmp_path)
    assert ran.returncode == 0
    assert "--tls-port" in ran.stdout


def test_every_command_in_the_readme_runs(tmp_path: Path, state_dir: Path) -> None:
    text = (ROOT / "README.rst").read_text()
    commands = [line[6:] for line in text.splitlines() if line.startswith("    $ ")]
    assert {"bin/demo", "bin/test"} <= set(commands)
    (tmp_path / "app.py").write_text((ROOT / "bin" / "demo_module.py").read_text())
    path = f"{tmp_path}/bin:{BIN}:{os.environ['PATH']}"
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").write_text(f'#!/bin/sh\nexec {ROOT}/.venv-sdk/bin/python "$@"\n')
    (tmp_path / "bin" / "python").chmod(0o755)
    # The ports of the README may be in use on this machine.
    port = free_port()
    environment = {
        **os.environ,
        "PATH": path,
        "TWISTED_CM_STATE_DIR": str(state_dir),
        "TWISTED_CM_URL": f"http://127.0.0.1:{port}",
    }
    background: list[subprocess.Popen[bytes]] = []
    try:
        for written in commands:
            if written in ("bin/demo", "bin/test"):
                continue
            command = written.replace("127.0.0.1:4000", f"127.0.0.1:{port}")
            command = command.replace("twisted-cm dev", f"twisted-cm dev --port {port} --tls-port 0")
            if command.startswith("twisted-cm dev"):
                background.append(
                    subprocess.Popen(["bash", "-c", command], cwd=tmp_path, env=environment, start_new_session=True)
                )
                _wait_for_port(port)
                continue
            ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True)
            assert ran.returncode == 0, (command, ran.stderr)
    finally:
        for process in reversed(background):
            kill(process)


def _wait_for_port(port: int) -> None:
    for _ in range(200):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on {port}")


@pytest.mark.long
def test_the_demo_runs(tmp_path: Path) -> None:
    ran = subprocess.run([str(ROOT / "bin" / "demo")], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.findall(r"^(?:\d+|321|21)$", ran.stdout, re.MULTILINE) == ["42", "321"]
    assert ran.stdout.endswith("Done.\n")


@pytest.mark.parametrize("terminate", [False, True], ids=["stdin ends", "SIGTERM"])
def test_it_stops_with_its_standard_input(state_dir: Path, terminate: bool) -> None:
    command = [str(BIN / "twisted-cm"), "serve", "--stop-with-stdin", "--port", "0", "--tls-port", "0"]
    process = subprocess.Popen(
        [*command, "--state-dir", str(state_dir)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        assert process.stdin is not None and process.stdout is not None and process.stderr is not None
        assert any(b"Ctrl-C stops." in line for line in process.stdout)
        process.stdin.write(b"this means nothing\n")
        process.stdin.flush()
        if terminate:
            # At once: a signal must work as soon as the banner is printed.
            process.terminate()
        else:
            process.stdin.close()
        assert process.wait(timeout=20) == 0
        assert b"Traceback" not in process.stderr.read()
    finally:
        kill(process)


def test_a_command_starts_without_what_it_does_not_need() -> None:
    program = "import sys, twisted_cm.cli; print(*sorted({'rich', 'treq', 'twisted.web.client'} & {*sys.modules}))"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=30)
    assert ran.stdout == "\n"


@pytest.mark.parametrize("stdin", ["</dev/null", "<seed.yaml", "<&-"], ids=["null device", "file", "closed"])
def test_it_stops_with_standard_input_of_any_kind(tmp_path: Path, state_dir: Path, stdin: str) -> None:
    (tmp_path / "seed.yaml").write_text("{}")
    command = f"exec {BIN}/twisted-cm serve --stop-with-stdin --port 0 --tls-port 0 --state-dir '{state_dir}' {stdin}"
    ran = subprocess.run(["bash", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0
    assert "Ctrl-C stops." in ran.stdout
    assert "Traceback" not in ran.stderr


def test_watching_standard_input_leaves_a_terminal_as_it_is(server: Server, state_dir: Path) -> None:
    options = ("--port", "0", "--tls-port", "0", "--state-dir", str(state_dir))
    serve = Terminal(server, "serve", "--stop-with-stdin", *options)
    try:
        serve.until(b"Ctrl-C stops.")
        # Standard output is the same open file as standard input here.
        flags = Path(f"/proc/{serve.process.pid}/fdinfo/1").read_text().split("flags:")[1].split()[0]
        assert not int(flags, 8) & os.O_NONBLOCK
        os.write(serve.master, b"this means nothing\n\x04")
        assert "Traceback" not in serve.end()
        assert serve.process.returncode == 0
    finally:
        kill(serve.process)
