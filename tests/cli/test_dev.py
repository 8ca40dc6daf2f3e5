"""The command that runs an emulator and modules in one terminal, and the commands for modules that a server starts."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml
from conftest import BIN, ROOT, free_port
from forked_commands import run_command, start_command, start_twistd
from sdk_processes import SDK_PYTHON
from supervised_emulator import MODULE, gone, seed_of

DEMO = str(ROOT / "bin" / "demo_module.py")
RID = "ri.foundry.main.deployed-app.dev"


class Dev:
    """A ``twisted-cm`` command in a directory, which runs an emulator.

    Attributes:
        output: What it has printed so far.
        url: The URL of the emulator, once it is printed.
    """

    def __init__(self, directory: Path, state: Path, *arguments: str, command: str = "dev") -> None:
        self.directory = directory
        self.environment = {**os.environ, "TWISTED_CM_STATE_DIR": str(state)}
        self.process: subprocess.Popen[str] = start_command(
            [command, *arguments],
            cwd=directory,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Ctrl-C of a terminal reaches the process group; the modules are in others.
            start_new_session=True,
        )
        self.output = self.url = ""

    def until(self, text: str) -> str:
        """Read lines until one has a text; return that line."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output += line
            found = re.search(r"listening on (http://\S+)", line)
            if found:
                self.url = found[1]
            if text in line:
                return line
        raise AssertionError(f"{text!r} was not printed: {self.output}")

    def cm(self, *arguments: str, url: bool = True) -> subprocess.CompletedProcess[str]:
        """Run another command in the same directory."""
        environment = {**self.environment, "TWISTED_CM_URL": self.url} if url else self.environment
        return run_command(arguments, cwd=self.directory, env=environment, text=True)

    def who(self) -> Any:
        """Return what function ``who`` of the module says."""
        ran = self.cm("submit", "ri.one", "who", "--token", "app-token")
        assert ran.returncode == 0, ran.stderr
        return json.loads(ran.stdout)

    def stop(self, number: int = signal.SIGINT) -> float:
        """End it with a signal; return how many seconds that took."""
        began = time.monotonic()
        os.killpg(self.process.pid, number)
        self.output += self.process.communicate(timeout=30)[0]
        return time.monotonic() - began


def until_gone(*pids: int) -> None:
    """Wait until processes have ended, for at most 10 seconds."""
    deadline = time.monotonic() + 10
    while left := [pid for pid in pids if not gone(pid)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[Callable[..., Dev]]:
    """Return a function that starts the command in a directory; it is killed after the test."""
    started: list[Dev] = []
    directory = tmp_path / "project"
    directory.mkdir()
    (directory / "version").write_text("1")

    def start(*arguments: str, command: str = "dev", seed: dict[str, Any] | None = None, port: int = 0) -> Dev:
        if seed is not None:
            (directory / "twisted-cm.yaml").write_text(yaml.safe_dump(seed))
        options = ["--port", str(port), "--tls-port", "0"]
        # A killed server leaves files in its state directory.
        started.append(Dev(directory, tmp_path / "state", *options, *arguments, command=command))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            os.killpg(each.process.pid, signal.SIGKILL)
            each.process.communicate()


Start = Callable[..., Dev]


# The SDK


def test_one_command_runs_emulator_app_and_module(dev: Start) -> None:
    running = dev("--", SDK_PYTHON, DEMO)
    ready = running.until("Submit a job: ").partition("Submit a job: ")[2]
    assert "bearer token: test_token_admin" in running.output and "dashboard: http://" in running.output
    # The line can be pasted.
    words = shlex.split(ready)
    assert words[:2] == ["twisted-cm", "submit"] and words[4:6] == [RID, "add"]
    ran = running.cm(*words[1:])
    assert (ran.stdout.strip(), ran.returncode) == ("2", 0), ran.stderr
    pids = [each.pid for each in psutil.Process(running.process.pid).children(recursive=True)]
    assert pids
    assert running.stop() < 5
    assert running.process.returncode == 0
    assert "Traceback" not in running.output
    assert [pid for pid in pids if not gone(pid)] == []


def test_a_changed_file_of_an_sdk_module_is_reloaded(dev: Start, tmp_path: Path) -> None:
    app = tmp_path / "project" / "app.py"
    app.write_text(Path(DEMO).read_text())
    running = dev("--reload", "--", SDK_PYTHON, "app.py")
    running.until("Submit a job: ")
    changed = (
        app.read_text()
        .replace('event["a"] + event["b"]', 'event["a"] * event["b"]')
        .replace("event.a + event.b", "event.a * event.b")
    )
    assert changed != app.read_text()
    app.write_text(changed)
    running.until("reloaded")
    ran = running.cm("submit", RID, "add", '{"a": 3, "b": 4}')
    assert ran.stdout.strip() == "12", ran.stderr
    # A mistake leaves the last one that worked.
    app.write_text("no python")
    running.until("the changed module does not start: it ended with exit status 1; the old one stays")
    assert re.search(r"^dev \| SyntaxError", running.output, re.MULTILINE), running.output
    ran = running.cm("submit", RID, "add", '{"a": 3, "b": 4}')
    assert ran.stdout.strip() == "12", ran.stderr


# Seeds


def test_the_seed_of_the_directory_starts_its_modules(dev: Start) -> None:
    port = free_port()
    running = dev(seed=seed_of({"replicas": 2}), port=port)
    assert "twisted-cm: using twisted-cm.yaml" in running.until("using")
    line = running.until("Submit a job: ")
    assert f"--url http://127.0.0.1:{port} --token app-token ri.one " in line
    # Each command finds the server and the token in the seed.
    seed = running.directory / "twisted-cm.yaml"
    seed.write_text(yaml.safe_dump({**seed_of({}), "foundry": {**seed_of({})["foundry"], "port": port}}))
    ran = running.cm("submit", "ri.one", "print", '["hello"]', url=False)
    assert (ran.stdout.strip(), ran.stderr.strip()) == ("1", "twisted-cm: using twisted-cm.yaml"), ran
    running.until("one | hello")
    assert running.cm("check", url=False).stdout.startswith("twisted-cm.yaml: 1 runtimes")
    assert running.cm("wait", "one", url=False).returncode == 0


def test_serve_starts_the_modules_of_a_seed_or_leaves_them(dev: Start) -> None:
    running = dev(command="serve", seed=seed_of({}))
    running.until("runtime one: connected, ")
    assert running.who()["version"] == "1"
    running.cm("submit", "ri.one", "print", '["hello"]', "--token", "app-token")
    assert "module: one: hello" in running.until("hello")
    running.stop()
    without = dev("--no-modules", command="serve")
    without.until("Ctrl-C stops.")
    ran = without.cm("runtimes", "--token", "app-token", "--json")
    assert [each["module"] for each in json.loads(ran.stdout)] == [None]


def test_twistd_starts_the_modules_of_a_seed(tmp_path: Path, state_dir: Path) -> None:
    (tmp_path / "version").write_text("1")
    seed = tmp_path / "seed.yaml"
    seed.write_text(yaml.safe_dump(seed_of({})))
    options = ["--port", "0", "--tls-port", "0", "--state-dir", str(state_dir), "--seed", str(seed)]
    process = start_twistd(
        ["--pidfile", "", "compute-modules", *options], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        assert any("runtime one: connected, " in line for line in process.stdout)
        children = psutil.Process(process.pid).children()
        process.terminate()
        process.communicate(timeout=15)
        assert [each.pid for each in children if not gone(each.pid)] == []
    finally:
        process.kill()
        process.communicate()


def test_sighup_starts_and_ends_modules_as_the_seed_says(dev: Start) -> None:
    running = dev(command="serve", seed=seed_of({}))
    running.until("runtime one: connected, ")
    pid = running.who()["pid"]
    seed = running.directory / "twisted-cm.yaml"
    seed.write_text(yaml.safe_dump(seed_of({"env": {"OWN": "new"}})))
    running.process.send_signal(signal.SIGHUP)
    running.until("runtime one: reloaded")
    assert running.cm("submit", "ri.one", "environment", '["OWN"]', "--token", "app-token").stdout == '{"OWN": "new"}'
    until_gone(pid)
    # A directory that is not there changes nothing.
    seed.write_text(yaml.safe_dump(seed_of({"directory": "none"})))
    running.process.send_signal(signal.SIGHUP)
    assert "create it, or name another one" in running.until("modules not reloaded")
    pid = running.who()["pid"]
    without = seed_of({})
    del without["foundry"]["compute_modules"]["runtimes"][0]["command"]
    seed.write_text(yaml.safe_dump(without))
    running.process.send_signal(signal.SIGHUP)
    running.until("the seed has no command for it")
    until_gone(pid)


@pytest.mark.parametrize(
    ("arguments", "seed", "message"),
    [
        (
            (),
            None,
            "There is no module to start. Put its command after --, for example: twisted-cm dev -- python app.py",
        ),
        (("--runtime", "oen", "--", "true"), seed_of({}), "twisted-cm.yaml has no runtime 'oen'. Did you mean 'one'?"),
        (("--runtime", "one"), seed_of({}), "--runtime says which runtime a command is for. Put the command after --."),
        (("--seed", "none.yaml", "--", "true"), None, "none.yaml: No such file or directory"),
        ((), seed_of({"directory": "none"}), "runtime 'one': directory: "),
        ((), seed_of({"env": {"A": "${NO_SUCH_VARIABLE}"}}), "the environment variable NO_SUCH_VARIABLE is not set"),
        ((), seed_of({"replicas": {"min": 3, "max": 2}}), "3 is more than max, 2; lower it, or raise max"),
        ((), seed_of({"command": []}), "command"),
        ((), seed_of({"grace": -1}), "grace"),
        ((), seed_of({"functions": {"f": {"job_timout": 1}}}), "job_timeout"),
    ],
)
def test_what_cannot_be_started_is_an_error(
    dev: Start, arguments: tuple[str, ...], seed: dict[str, Any] | None, message: str
) -> None:
    running = dev(*arguments, seed=seed)
    output = running.process.communicate(timeout=30)[0]
    assert message in output and "Traceback" not in output
    assert running.process.returncode in (1, 2)


def test_a_command_for_one_of_several_runtimes_names_it(dev: Start) -> None:
    seed = seed_of({})
    seed["foundry"]["compute_modules"]["runtimes"].append({"runtime_id": "two"})
    output = dev("--", "true", seed=seed).process.communicate(timeout=30)[0]
    assert "Name one with --runtime: one, two." in output
    running = dev("--runtime", "two", "--", sys.executable, str(MODULE), "version")
    running.until("runtime two: connected, ")


def test_a_second_emulator_takes_another_port_for_tls(tmp_path: Path, state_dir: Path) -> None:
    addresses = []
    processes = []
    for name in ("first", "second"):
        directory = tmp_path / name
        directory.mkdir()
        running = Dev(directory, state_dir, "--port", "0", "--no-modules", command="serve")
        processes.append(running)
        running.until("Ctrl-C stops.")
        found = re.search(r"^  https://127.0.0.1:(\d+)$", running.output, re.MULTILINE)
        assert found is not None, running.output
        addresses.append(found[1])
    for running in processes:
        running.stop()
    assert len(set(addresses)) == 2
    # A port that somebody asks for is not replaced.
    port = free_port()
    first = Dev(tmp_path / "first", state_dir, "--port", "0", "--tls-port", str(port), command="serve")
    first.until("Ctrl-C stops.")
    second = Dev(tmp_path / "second", state_dir, "--port", "0", "--tls-port", str(port), command="serve")
    output = second.process.communicate(timeout=30)[0]
    assert f"port {port}: Address already in use; choose another port with --tls-port" in output
    first.stop()


# Ends


def test_no_process_outlives_a_killed_emulator(dev: Start) -> None:
    running = dev(seed=seed_of({"replicas": 2}))
    running.until("Submit a job: ")
    child = int(running.cm("submit", "ri.one", "child", "--token", "app-token").stdout)
    pids = [each.pid for each in psutil.Process(running.process.pid).children(recursive=True)]
    assert child in pids and len(pids) >= 4
    running.process.kill()
    running.process.wait()
    until_gone(*pids)


def test_ctrl_c_ends_a_stubborn_module_within_five_seconds(dev: Start) -> None:
    running = dev(seed=seed_of({}))
    running.until("Submit a job: ")
    pid = running.who()["pid"]
    assert running.cm("submit", "ri.one", "stubborn", "--token", "app-token").stdout == "true"
    assert running.stop() < 5
    assert running.process.returncode == 0 and gone(pid)


def test_ctrl_c_while_the_module_starts_ends_everything(dev: Start) -> None:
    running = dev("--", sys.executable, "-c", "import time; print('up'); time.sleep(600)")
    running.until("dev | up")
    assert running.stop() < 5
    assert running.process.returncode == 0 and "Traceback" not in running.output


def test_the_end_of_the_terminal_is_the_end(dev: Start, tmp_path: Path) -> None:
    master, slave = pty.openpty()
    command = [str(BIN / "twisted-cm"), "dev", "--port", "0", "--tls-port", "0", "--state-dir", str(tmp_path / "state")]
    process = subprocess.Popen(
        [*command, "--", sys.executable, "-c", "import time; print('up'); time.sleep(600)"],
        cwd=tmp_path,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(slave)
    try:
        seen = b""
        while b"up" not in seen:
            seen += os.read(master, 65536)
        # The prefix has a color.
        assert b"\x1b[36mdev |\x1b[0m up" in seen and b"Ctrl-C stops." in seen
        pids = [each.pid for each in psutil.Process(process.pid).children(recursive=True)]
        os.close(master)
        assert process.wait(timeout=15) == 0
        assert [pid for pid in pids if not gone(pid)] == []
    finally:
        process.kill()
        process.wait()


def test_a_seed_that_no_longer_fits_changes_nothing(dev: Start) -> None:
    running = dev("--", sys.executable, str(MODULE), "version", seed=seed_of({}))
    running.until("Submit a job: ")
    pid = running.who()["pid"]
    seed = seed_of({})
    seed["foundry"]["compute_modules"]["runtimes"].append({"runtime_id": "two"})
    (running.directory / "twisted-cm.yaml").write_text(yaml.safe_dump(seed))
    running.process.send_signal(signal.SIGHUP)
    assert "Name one with --runtime: one, two." in running.until("seed not reloaded")
    assert running.who()["pid"] == pid and "Traceback" not in running.output


def test_files_of_the_emulator_itself_reload_nothing(tmp_path: Path) -> None:
    (tmp_path / "version").write_text("1")
    options = ("--port", "0", "--tls-port", "0", "--reload", "--", sys.executable, str(MODULE), "version")
    running = Dev(tmp_path, tmp_path / "state", *options)
    try:
        running.until("connected, ")
        for number in range(3):
            (tmp_path / "app.py").write_text(str(number))
            running.until("reloaded")
        assert running.output.count("changed, reloading") == running.output.count("app.py changed, reloading") == 3
    finally:
        running.stop()


# Commands for modules


def test_logs_show_and_follow_what_a_module_writes(dev: Start) -> None:
    running = dev(seed=seed_of({}))
    running.until("Submit a job: ")
    options = ("--token", "app-token")
    following: subprocess.Popen[str] = start_command(
        ["logs", "one", "--follow", "--url", running.url, *options],
        cwd=running.directory.parent,
        env=running.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert following.stdout is not None
    assert any("connected, " in line for line in following.stdout)
    running.cm("submit", "ri.one", "print", json.dumps(["one", "\x1b[31mred"]), *options)
    lines = [following.stdout.readline() for _ in range(3)]
    assert re.fullmatch(r"\d\d:\d\d:\d\d …[0-9a-f]{4} one\n", lines[0])
    assert lines[1].endswith(" \\x1b[31mred\n") and lines[2].endswith("and to standard error\n")
    shown = running.cm("logs", "one", "-n", "2", *options)
    assert shown.stdout.splitlines() == [line.strip() for line in lines[1:]]
    missing = running.cm("logs", "none", *options)
    assert missing.returncode == 1 and "none" in missing.stderr
    running.stop()
    assert following.wait(timeout=10) in (0, 1)


def test_restart_replaces_a_module(dev: Start) -> None:
    running = dev(seed=seed_of({}))
    running.until("Submit a job: ")
    pid = running.who()["pid"]
    assert running.cm("restart", "one", "--token", "app-token").returncode == 0
    running.until("reloaded")
    assert running.who()["pid"] != pid
    running.stop()
    without = dev("--no-modules", command="serve")
    without.until("Ctrl-C stops.")
    refused = without.cm("restart", "one", "--token", "app-token")
    assert refused.returncode == 1 and "has no module that this emulator starts" in refused.stderr


def test_a_crash_looping_module_is_named_wherever_one_looks(dev: Start) -> None:
    running = dev(seed=seed_of({"command": [sys.executable, "-c", "raise SystemExit('no luck')"]}))
    running.until("crash looping")
    options = ("--token", "app-token")
    assert "one\t0/" in (listed := running.cm("runtimes", *options).stdout) and "crash looping" in listed
    assert "crash looping" in running.cm("runtimes", "one", *options).stderr
    waited = running.cm("wait", "one", "--timeout", "0.5", *options)
    assert waited.returncode == 1 and "its module is crash looping" in waited.stderr
    submitted = running.cm("submit", "ri.one", "f", "--timeout", "0.5", *options)
    assert submitted.returncode == 1
    assert "no luck" in running.cm("logs", "one", *options).stdout


def test_a_job_shows_what_its_module_wrote(dev: Start) -> None:
    running = dev(seed=seed_of({}))
    running.until("Submit a job: ")
    options = ("--token", "app-token")
    running.cm("submit", "ri.one", "print", '["one"]', *options)
    assert running.cm("job", "last", *options).stdout.endswith(
        "\n\nOutput of the module:\n  one\n  and to standard error\n"
    )
    failed = running.cm("submit", "ri.one", "crash", "7", *options)
    assert "ended with exit status 7. It wrote last:" in failed.stderr and "about to crash" in failed.stderr
