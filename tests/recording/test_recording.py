"""Recordings and replays, with servers, modules and replays as processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import resource
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import psutil
import pytest
import pytest_twisted
from conftest import ROOT, SEED, Server, kill, pause
from forked_commands import run_command, start_command, start_twistd
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from twisted_cm.client import ComputeModules, EmulatorControl, JobFailed, RuntimeSession
from twisted_cm.recording.mask import MASK, mask_query, mask_text
from twisted_cm.recording.read import InvalidRecording, Recording
from twisted_cm.recording.record import RESULT_LIMIT

BINARY = bytes(range(256)) * 3
LARGE = b"x" * (RESULT_LIMIT + 1)

Serve = Callable[..., Server]
Replay = Callable[..., "subprocess.Popen[bytes]"]


def interrupted(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Press Ctrl-C; return the exit status and the output."""
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=10)[0].decode()
    return process.returncode, printed


def lines(file: Path) -> list[dict[str, Any]]:
    content = file.read_bytes()
    assert content.endswith(b"\n") or not content
    return [json.loads(line) for line in content.splitlines()]


async def do(
    server: Server, work: list[tuple[str, Any, Any]], between: Callable[[], Any] = lambda: None
) -> list[bytes | str]:
    """Submit jobs one after another and answer them as the runtime; return the results or the error messages."""
    url = server.urls["http"]
    results: list[bytes | str] = []
    async with RuntimeSession.join(url, "one", "token-one") as session, ComputeModules(url, "app-token") as modules:
        for function, query, answer in work:
            caller = Deferred.fromCoroutine(modules.execute("ri.one", function, query))
            job = await session.poll()
            assert job is not None
            await between()
            if isinstance(answer, Exception):
                await session.fail_job(job.job_id, str(answer))
            else:
                await session.post_result(job.job_id, answer)
            try:
                results.append((await caller).content)
            except JobFailed as error:
                results.append(error.description)
    return results


async def ask(server: Server, asked: list[tuple[str, Any]]) -> list[bytes | str]:
    """Submit jobs one after another for another process to answer; return the results or the error messages."""
    results: list[bytes | str] = []
    async with ComputeModules(server.urls["http"], "app-token") as modules:
        for function, query in asked:
            try:
                results.append((await modules.execute("ri.one", function, query)).content)
            except JobFailed as error:
                results.append(error.description)
    return results


async def recorded_by(file: Path, count: int) -> list[dict[str, Any]]:
    """Wait until so many jobs are recorded: on Redis, that happens after their callers are answered."""
    for _ in range(1000):
        if file.exists() and file.read_bytes().count(b"\n") >= count:
            return lines(file)
        await pause(0.01)
    raise AssertionError(lines(file))


async def nothing() -> None:
    pass


def test_an_existing_recording_becomes_private(serve: Serve, recorded: Path) -> None:
    recorded.touch()
    recorded.chmod(0o644)
    serve("--record", str(recorded))
    assert recorded.stat().st_mode & 0o777 == 0o600


@pytest_twisted.ensureDeferred
async def test_a_finished_job_is_one_line_without_secrets(serve: Serve, recorded: Path) -> None:
    server = serve("--record", str(recorded))
    query = {"user": "ü\u2028", "Password": "hunter2", "deep": [{"api-key": "hunter3", "max_tokens": 3}]}
    result = {"accessToken": "hunter4", "n": 1}
    assert await do(server, [("f", query, result)], nothing) == [json.dumps(result).encode()]
    server.stop()
    (line,) = lines(recorded)
    assert line["query"] == {"user": "ü\u2028", "Password": MASK, "deep": [{"api-key": MASK, "max_tokens": 3}]}
    assert json.loads(line["result"]["text"]) == {"accessToken": MASK, "n": 1}
    assert line["queued_at"] <= line["started_at"] <= line["completed_at"]
    assert [line[name] for name in ("function", "state", "message", "runtime", "deployed_app_rid", "branch")] == [
        "f",
        "succeeded",
        None,
        "one",
        "ri.one",
        "master",
    ]
    assert line["attempts"] == 1
    content = recorded.read_bytes()
    assert not [secret for secret in (b"hunter", b"app-token", b"token-one", b"jane") if secret in content]
    assert recorded.stat().st_mode & 0o777 == 0o600


@pytest_twisted.ensureDeferred
async def test_what_is_played_back_is_what_was_recorded(serve: Serve, recorded: Path, replay: Replay) -> None:
    first = serve("--record", str(recorded))
    work: list[tuple[str, Any, Any]] = [
        ("binary", {}, BINARY),
        ("text", {"b": 1, "a": [1.5, "ü"]}, ' {"kept":  "as it is"}\n'),
        ("stream", {"password": "one"}, iter([b"0", b'{"a": 1}', b"\xff"])),
        ("raises", 1, {"exception": "Traceback:\n ValueError"}),
        ("fails", [], RuntimeError("out of luck")),
        ("again", {}, b"first"),
        ("again", {}, RuntimeError("second")),
        ("again", {}, b""),
        ("large", {}, LARGE),
    ]
    results = await do(first, work, nothing)
    assert results[0] == BINARY
    async with ComputeModules(first.urls["http"], "app-token") as modules:
        await modules.cancel(await modules.submit("ri.one", "again"))
    first.stop()
    digest = hashlib.sha256(LARGE).hexdigest()
    assert [line["state"] for line in lines(recorded)][-2:] == ["succeeded", "canceled"]
    assert lines(recorded)[-2]["result"] == {"bytes": len(LARGE), "sha256": digest}

    second = serve()
    module = replay(second, "--module-auth-token", "token-one")
    asked = [(function, query) for function, query, _ in work[:-1]]
    asked[2] = ("stream", {"password": "another"})
    assert await ask(second, asked) == results[:-1]
    assert await ask(second, [("again", {}), ("binary", {})]) == [b"", BINARY]
    (large,) = await ask(second, [("large", {})])
    assert isinstance(large, str) and digest in large
    status, printed = interrupted(module)
    assert status == 1
    assert "Jobs: 7 answered, 2 failed as recorded, 1 not recorded, 1 raised as recorded." in printed
    assert "never requested: 0 of 9" in printed


@pytest_twisted.ensureDeferred
async def test_a_mismatch_tells_the_nearest(serve: Serve, recorded: Path, replay: Replay) -> None:
    server = serve("--record", str(recorded))
    work = [("f", {"city": "Berlin", "days": n, "more": {"x": [n]}}, b"1") for n in (1, 2, 30)]
    await do(server, [*work, ("g", {"days": 4}, b"2")], nothing)
    module = replay(server, "--seed", str(server.seed_file))
    near, none = await ask(
        server, [("f", {"city": "Berlin", "days": 3, "more": {"x": [30]}}), ("h\x1b[31m", {"city": "\x9b"})]
    )
    assert isinstance(near, str) and isinstance(none, str)
    assert '-  "days": 30,\n+  "days": 3,' in near
    assert "Recorded functions: f, g." in none
    status, printed = interrupted(module)
    assert (status, near in printed) == (1, True)
    assert "h\\x1b[31m" in printed and "\\x9b" in printed
    assert "\x1b" not in printed and "\x9b" not in printed


@pytest_twisted.ensureDeferred
async def test_a_replay_binds_and_takes_its_time(serve: Serve, recorded: Path, replay: Replay) -> None:
    server = serve("--record", str(recorded))
    await do(server, [("slow", {}, b"1")], lambda: pause(0.5))
    (line,) = await recorded_by(recorded, 1)
    took = line["completed_at"] - line["started_at"]
    assert took >= 500
    module = replay(server, "--timing", "--deployed-app", "ri.new")
    async with ComputeModules(server.urls["http"], "app-token") as modules:
        result = await modules.execute("ri.new", "slow")
        assert result.content == b"1"
    async with EmulatorControl(server.urls["http"], "app-token") as control:
        job = await control.job(str(result.job_id))
    assert job["completed_at"] - job["started_at"] >= took - 1
    assert interrupted(module)[0] == 0


@pytest_twisted.ensureDeferred
async def test_a_replay_ends_with_its_server(serve: Serve, recorded: Path, replay: Replay) -> None:
    server = serve("--record", str(recorded))
    await do(server, [("f", {}, b"1")], nothing)
    module = replay(server, "--module-auth-token", "token-one")
    assert await ask(server, [("f", {})]) == [b"1"]
    await deferToThread(server.stop)
    printed = module.communicate(timeout=10)[0].decode()
    assert module.returncode == 1
    assert "Jobs: 1 answered." in printed
    assert "cannot be reached" in printed or "lost" in printed
    assert "Traceback" not in printed


LINE: dict[str, Any] = {
    "recording": 1,
    "function": "f",
    "query": {},
    "state": "succeeded",
    "result": {"text": "1"},
    "message": None,
    "started_at": 1,
    "completed_at": 2,
}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "No such file"),
        (b"", "no job in it succeeded or failed"),
        (b"{}\n", ":1: $: 'function' is a required property"),
        (b"%s\nnot JSON\n", ":2: not JSON"),
        (b"%s\n\xff\n", ":2: not JSON"),
        (b"%s\n%s", ":2: the line is cut off"),
        (b"%s\n" + json.dumps({**LINE, "state": "done"}).encode() + b"\n", ":2: $.state: 'done' is not one of"),
        (b"%s\n" + json.dumps({**LINE, "result": {"base64": "!"}}).encode() + b"\n", ":2: $.result"),
        (json.dumps({**LINE, "result": None}).encode() + b"\n", ":1: $.result: missing, but the job succeeded"),
        (b"[" * 100_000 + b"\n", ":1: not JSON"),
        (b"\n" * 50, "Later lines were not checked"),
    ],
)
def test_a_file_that_is_no_recording_is_refused(recorded: Path, content: bytes | None, says: str) -> None:
    if content is not None:
        recorded.write_bytes(content.replace(b"%s", json.dumps(LINE).encode()))
    with pytest.raises(InvalidRecording) as refused:
        Recording(recorded)
    assert f"{recorded}{says}" in str(refused.value) if says.startswith(":") else says in str(refused.value)


def test_the_command_says_which_lines_are_bad(server: Server, recorded: Path) -> None:
    recorded.write_text(json.dumps(LINE) + '\n"\x1b"\n' + json.dumps({**LINE, "function": 1}) + "\n")
    ran = server.cm("replay", str(recorded), "--runtime", "one")
    assert ran.returncode == 1
    assert [line.split(b": ")[0 if n else 1] for n, line in enumerate(ran.stderr.splitlines())] == [
        f"{recorded}:{number}".encode() for number in (2, 3)
    ]
    assert b"\x1b" not in ran.stderr


def test_what_cannot_be_recorded_to_is_said_at_the_start(
    serve: Serve, tmp_path: Path, state_dir: Path, recorded: Path
) -> None:
    serve("--record", str(recorded))
    other = tmp_path / "seed.yaml"
    other.write_text(SEED)
    for start, name, file, says in (
        (start_command, "serve", tmp_path / "none" / "file", "No such file or directory"),
        (start_command, "serve", other, "it is not a recording"),
        (start_twistd, "compute-modules", recorded, "another emulator is recording to it"),
    ):
        ports = ("--port", "0", "--tls-port", "0", "--state-dir", str(state_dir))
        ran = run_command([name, *ports, "--record", str(file)], start=start, text=True, cwd=tmp_path)
        assert ran.returncode == 1
        assert f"cannot record to {file}: {says}" in ran.stderr
        assert "Traceback" not in ran.stderr
    assert other.read_text() == SEED


# What the recorder does about a full disk does not depend on the broker.
@pytest.mark.parametrize("serve", ["memory"], indirect=True)
@pytest_twisted.ensureDeferred
async def test_a_full_disk_stops_no_job_and_leaves_whole_lines(serve: Serve, recorded: Path) -> None:
    server = serve("--record", str(recorded))
    await do(server, [("f", 1, b"1")], nothing)
    whole = recorded.read_bytes()
    process = psutil.Process(server.process.pid)
    process.rlimit(psutil.RLIMIT_FSIZE, (len(whole) + 50, resource.RLIM_INFINITY))
    assert await do(server, [("f", 2, b"2"), ("f", 3, b"3")], nothing) == [b"2", b"3"]
    assert recorded.read_bytes() == whole
    process.rlimit(psutil.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await do(server, [("f", 4, b"4")], nothing)
    server.process.terminate()
    log = server.process.communicate(timeout=10)[0]
    assert [line["query"] for line in lines(recorded)] == [1, 4]
    assert log.count("cannot record to") == 1
    assert "again; 2 jobs are missing" in log
    assert "Traceback" not in log


@pytest_twisted.ensureDeferred
async def test_a_recording_is_continued(serve: Serve, recorded: Path) -> None:
    for n in range(2):
        server = serve("--record", str(recorded))
        await do(server, [("f", n, b"1")], nothing)
        await recorded_by(recorded, n + 1)
        server.process.kill()
        server.process.communicate()
    assert [line["query"] for line in lines(recorded)] == [0, 1]


def test_a_query_is_recorded_if_it_is_not_too_long(serve: Serve, recorded: Path) -> None:
    server = serve("--record", str(recorded))
    path = "/_emulate/foundry/compute-modules/runtimes/one/jobs"
    odd = b'{"a": 1, "a": 1e999, "b": %s}' % (b"9" * 5000)
    for query in (odd, b'"%s"' % (b"x" * 2_000_000), b"1"):
        body = b'{"queryType": "f", "query": %s}' % query
        request = Request(server.urls["http"] + path, body, {"Module-Auth-Token": "token-one"})
        with urlopen(request, timeout=10) as answer:
            job_id = re.search(rb'"job_id":"(\w+)"', answer.read())
        assert job_id is not None
        fail = f"{path}/{job_id[1].decode()}/fail"
        urlopen(
            Request(server.urls["http"] + fail, b'{"message": "on purpose"}', {"Module-Auth-Token": "token-one"}),
            timeout=10,
        ).close()
    server.process.terminate()
    printed = server.process.communicate(timeout=10)[0]
    assert [line["query"] for line in lines(recorded)] == [{"a": "1e999", "b": "9" * 5000}, 1]
    assert "its query is larger than 1048576 bytes" in printed


def test_twistd_records_too(tmp_path: Path, state_dir: Path, recorded: Path) -> None:
    seed = tmp_path / "seed.yaml"
    seed.write_text(SEED.replace("poll_timeout: 30", "faults: [{kind: fail_job, message: on purpose}]"))
    process = start_twistd(
        [
            *("compute-modules", "--seed", str(seed), "--state-dir", str(state_dir)),
            *("--port", "0", "--tls-port", "0", "--record", recorded.name),
        ],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = next(line.split()[-1] for line in process.stdout if "listening on http:" in line)
        body = json.dumps({"queryType": "f", "query": 1}).encode()
        path = "/_emulate/foundry/compute-modules/runtimes/one/jobs"
        urlopen(Request(url + path, body, {"Module-Auth-Token": "token-one"}), timeout=10).close()
    finally:
        process.terminate()
        process.communicate(timeout=10)
    (line,) = lines(recorded)
    assert (line["state"], line["message"], line["query"]) == ("failed", "on purpose", 1)


def test_a_real_module_is_recorded_and_replayed(serve: Serve, recorded: Path, replay: Replay) -> None:
    server = serve("--record", str(recorded))
    python = str(ROOT / ".venv-sdk" / "bin" / "python")
    script = str(ROOT / "tests/sdk/module.py")
    asked = [("typed", '{"a": 6, "b": 7}'), ("untyped", '{"x": ["ü", null]}'), ("raises", "{}"), ("stream", '{"n": 5}')]
    module = server.start("exec", "--runtime", "one", "--seed", str(server.seed_file), "--", python, script)
    try:
        original = [server.cm("submit", "ri.one", *each).stdout for each in asked]
    finally:
        kill(module)
    assert (original[0], original[3]) == (b"42", b"01234")
    assert b"on purpose" in original[2]
    playing = replay(server, "--seed", str(server.seed_file))
    assert [server.cm("submit", "ri.one", *each).stdout for each in asked] == original
    assert interrupted(playing)[0] == 0


@pytest.mark.parametrize(
    "name",
    [
        *("password", "db_passwd", "PWD", "passphrase", "client-secret", "token", "refreshToken", "api_key", "apiKey"),
        *("X-API-Key", "Authorization", "authHeader", "auth", "credentials", "Set-Cookie", "jwt", "sessionId"),
        *("private_key", "AccessKey", "bearer"),
    ],
)
def test_secrets_are_known_by_their_names(name: str) -> None:
    assert mask_query([{name: {"of": "any kind"}, "author": "x"}]) == [{name: MASK, "author": "x"}]
    assert mask_text(json.dumps({name: "hunter2"})) == json.dumps({name: MASK})


@pytest.mark.parametrize("name", ["author", "pass", "key", "keyboard", "authority", "max_tokens", "monkey"])
def test_what_is_no_secret_stays(name: str) -> None:
    assert mask_query({name: 1}) == {name: 1}


def test_text_changes_only_where_it_has_a_secret() -> None:
    assert mask_text('{"a":1}  2\n[3]') == '{"a":1}  2\n[3]'
    assert mask_text("password=hunter2") == "password=hunter2"
    assert mask_text('1 {"a": {"pass\\u0077ord": "ü"}} 2') == '1\n{"a": {"password": "***"}}\n2'
    assert mask_text("") == ""
    assert os.linesep not in mask_text('{"token": "x\\n"}')
