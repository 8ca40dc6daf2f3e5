"""Run pytest in other projects, with tests that use the fixtures."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import FEWER_PLUGINS, kill
from forked_commands import start_pytest

pytestmark = pytest.mark.long

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function\n"

#: A module that the projects' tests share. It does not use twisted-cm.
COMMON = """
import json
import ssl
import sys
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

PATH = "/contour-backend-multiplexer/api/module-group-multiplexer/compute-modules/jobs/execute"

def submission(rid, function, query):
    return {"deployedAppRid": rid, "queryType": function, "query": query}

def execute(emulator, rid, function, query=None, url=None, **options):
    headers = {"Authorization": f"Bearer {emulator.token}"}
    data = json.dumps(submission(rid, function, query)).encode()
    with urlopen(Request((url or emulator.url) + PATH, data, headers), timeout=30, **options) as answer:
        return answer.read()
"""

SYNC = """
from common import *
from twisted_cm.client import ApiError, NotFound
from twisted_cm.testing import EmulatorProcess, ThreadRuntime

urls = set()

@pytest.fixture(autouse=True)
def one_process(compute_modules):
    urls.add(compute_modules.url)
    yield
    assert len(urls) == 1 and isinstance(compute_modules, EmulatorProcess)

@pytest.fixture
def run(compute_modules, compute_module_runtime):
    return lambda *args: execute(compute_modules, compute_module_runtime.deployed_app_rid, *args)

def test_functions_of_every_kind(run, compute_module_runtime):
    import asyncio

    @compute_module_runtime.function
    def add(query):
        return query["a"] + query["b"]

    @compute_module_runtime.function(name="later")
    async def slowly(query):
        await asyncio.sleep(0)
        return {"later": query}

    @compute_module_runtime.function
    def nested(query):
        return asyncio.run(slowly(query))

    @compute_module_runtime.function
    def count(query):
        yield from range(query)

    @compute_module_runtime.function
    async def letters(query):
        for letter in query:
            await asyncio.sleep(0)
            yield letter.encode()

    @compute_module_runtime.function
    def again(query):
        return run("add", query).decode()

    assert run("add", {"a": 2, "b": 40}) == b"42"
    assert json.loads(run("later", "\\u00fc")) == json.loads(run("nested", "\\u00fc")) == {"later": "\\u00fc"}
    assert run("count", 5) == b"01234"
    assert run("letters", "abc") == b"abc"
    assert run("again", {"a": 1, "b": 1}) == b'"2"'
    assert "KeyError" in json.loads(run("add", {}))["exception"]
    assert "it has: add, again, count, later, letters, nested" in json.loads(run("none"))["exception"]
    assert [each.query_type for each in compute_module_runtime.calls][:3] == ["add", "later", "nested"]

def test_a_stream_arrives_while_it_is_made(run, compute_modules, compute_module_runtime):
    import threading
    arrived = threading.Event()

    @compute_module_runtime.function
    def two(query):
        yield b"first"
        if not arrived.wait(10):
            raise TimeoutError("nobody read")
        yield b"second"

    headers = {"Authorization": f"Bearer {compute_modules.token}"}
    data = json.dumps(submission(compute_module_runtime.deployed_app_rid, "two", None)).encode()
    with urlopen(Request(compute_modules.url + PATH, data, headers), timeout=30) as answer:
        assert answer.read(5) == b"first"
        arrived.set()
        assert answer.read() == b"second"

def test_a_stream_that_breaks_off_fails_its_job(compute_modules, compute_module_runtime, caplog):
    import time

    @compute_module_runtime.function
    def broken(query):
        yield b"first"
        raise ValueError("on purpose")

    job = compute_modules.enqueue("broken", runtime_id=compute_module_runtime.runtime_id)
    assert compute_modules.wait_for(job.job_id).state.value == "failed"
    # The emulator may fail the job before the runtime has written its log.
    for _ in range(1000):
        if "ValueError: on purpose" in caplog.text:
            break
        time.sleep(0.01)
    else:
        raise AssertionError(caplog.text)

def test_what_another_test_left_is_gone(compute_modules):
    assert compute_modules.runtimes() == []

def test_jobs_by_hand(compute_modules, compute_module_runtime):
    app = {"deployed_app_rid": compute_module_runtime.deployed_app_rid}
    compute_module_runtime.function(lambda query: query, name="echo")
    compute_modules.fail_next(message="no luck", function="echo")
    failed = compute_modules.enqueue("echo", **app)
    assert (failed.state.value, failed.error_message) == ("failed", "no luck")
    with pytest.raises(ApiError):
        compute_modules.result(failed.job_id)
    done = compute_modules.wait_for(compute_modules.enqueue("echo", [1], **app).job_id)
    assert (done.state.value, done.runtime_id) == ("succeeded", compute_module_runtime.runtime_id)
    assert compute_modules.result(done.job_id) == b"[1]"
    for query, expected in (((), b"{}"), ((None,), b"null")):
        done = compute_modules.wait_for(compute_modules.enqueue("echo", *query, **app).job_id)
        assert compute_modules.result(done.job_id) == expected
    compute_modules.reset()
    with pytest.raises(NotFound):
        compute_modules.job(done.job_id)
    assert compute_module_runtime.calls == []
    assert execute(compute_modules, compute_module_runtime.deployed_app_rid, "echo", 7) == b"7"
    compute_modules.dismiss()
    parked = compute_modules.enqueue("echo", **app)
    with pytest.raises(TimeoutError):
        compute_modules.wait_for(parked.job_id, timeout=0.1)

def test_over_tls(compute_modules, compute_module_runtime):
    compute_module_runtime.function(lambda query: query, name="echo")
    rid = compute_module_runtime.deployed_app_rid
    assert compute_modules.ca_path.read_text() == compute_modules.ca_certificate
    context = ssl.create_default_context(cafile=compute_modules.ca_path)
    assert execute(compute_modules, rid, "echo", 1, url=compute_modules.https_url, context=context) == b"1"
"""

ASYNCIO = """
from common import *
import asyncio
import httpx
from twisted_cm.testing import EmulatorProcess

async def post(emulator, rid, query):
    headers = {"Authorization": f"Bearer {emulator.token}"}
    context = ssl.create_default_context(cafile=emulator.ca_path)
    async with httpx.AsyncClient(base_url=emulator.https_url, verify=context, trust_env=False) as client:
        answer = await client.post(PATH, json=submission(rid, "double", query), headers=headers)
        answer.raise_for_status()
        return answer.json()

async def check(emulator, runtime):
    assert isinstance(emulator, EmulatorProcess)

    @runtime.function
    async def double(query):
        await asyncio.sleep(0)
        return query * 2

    results = await asyncio.gather(*(post(emulator, runtime.deployed_app_rid, n) for n in range(5)))
    assert results == [0, 2, 4, 6, 8]

@pytest.mark.asyncio
async def test_under_asyncio(compute_modules, compute_module_runtime):
    await check(compute_modules, compute_module_runtime)

@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_under_anyio(compute_modules, compute_module_runtime):
    await check(compute_modules, compute_module_runtime)
"""

TWISTED = """
from common import *
import pytest_twisted
import treq
from hypothesis import HealthCheck, given, settings, strategies
from twisted.internet import reactor, ssl as twisted_ssl
from twisted.web.client import Agent, BrowserLikePolicyForHTTPS
from twisted_cm.testing import Emulator, FakeRuntime

emulators = set()

async def post(emulator, rid, function, query):
    trusted = twisted_ssl.trustRootFromCertificates([twisted_ssl.Certificate.loadPEM(emulator.ca_certificate)])
    client = treq.client.HTTPClient(Agent(reactor, BrowserLikePolicyForHTTPS(trusted)))
    headers = {"Authorization": f"Bearer {emulator.token}"}
    for url in (emulator.url, emulator.https_url):
        answer = await client.post(url + PATH, json=submission(rid, function, query), headers=headers)
        assert answer.code == 200
    return await answer.json()

@pytest_twisted.ensureDeferred
async def test_in_the_reactor(compute_modules, compute_module_runtime):
    emulators.add(compute_modules)
    assert isinstance(compute_modules, Emulator) and isinstance(compute_module_runtime, FakeRuntime)
    compute_module_runtime.function(lambda query: query * 2, name="double")
    assert await post(compute_modules, compute_module_runtime.deployed_app_rid, "double", 21) == 42
    other = FakeRuntime("other", "ri.other")
    other.function(lambda query: "mine", name="whose")
    await compute_modules.run(other)
    assert await post(compute_modules, "ri.other", "whose", None) == "mine"
    assert [each["runtime_id"] for each in await compute_modules.runtimes()] == ["other", "pytest"]

@pytest_twisted.inlineCallbacks
def test_as_generator(compute_modules):
    emulators.add(compute_modules)
    from twisted.internet.defer import Deferred
    assert (yield Deferred.fromCoroutine(compute_modules.runtimes())) == []

@pytest_twisted.ensureDeferred
@settings(max_examples=3, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(number=strategies.integers(0, 9))
async def test_with_hypothesis(compute_modules, compute_module_runtime, number):
    emulators.add(compute_modules)
    compute_module_runtime.function(lambda query: query, name="echo")
    assert await post(compute_modules, compute_module_runtime.deployed_app_rid, "echo", number) == number

@pytest.fixture
def registered(compute_module_runtime):
    compute_module_runtime.function(lambda query: "by a fixture", name="who")
    return compute_module_runtime.deployed_app_rid

@pytest_twisted.async_fixture
async def answer(compute_modules, registered):
    return await post(compute_modules, registered, "who", None)

@pytest_twisted.ensureDeferred
async def test_in_fixtures(compute_modules, answer):
    assert answer == "by a fixture"
    assert len({*emulators, compute_modules}) == 1
"""


class Project:
    """A project with tests."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.write("common.py", COMMON)
        self.write("pytest.ini", INI)

    def write(self, name: str, content: str) -> None:
        path = self.directory / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content, "utf-8")

    def start(self, *options: str, cwd: str = ".", forked: bool = True) -> subprocess.Popen[bytes]:
        """Start pytest in a directory of the project; the caller ends it.

        Args:
            forked: Whether it may be a fork: see :func:`forked_commands.start_pytest`.
        """
        ours = ("PYTEST_", "COV_")
        return start_pytest(
            ["-p", "no:cacheprovider", *FEWER_PLUGINS, *options],
            forked=forked,
            cwd=self.directory / cwd,
            env={name: value for name, value in os.environ.items() if not name.startswith(ours)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *options: str, status: int = 0, **how: Any) -> str:
        """Run pytest to its end, check its exit status, and return what it printed."""
        process = self.start(*options, **how)
        try:
            printed = process.communicate(timeout=100)[0].decode()
        finally:
            kill(process)
        assert process.returncode == status, printed
        return printed


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_a_run_that_does_not_use_it_imports_nothing(project: Project) -> None:
    project.write(
        "test_mine.py",
        "import sys\ndef test_nothing(pytestconfig):\n"
        "    assert pytestconfig.pluginmanager.has_plugin('compute_modules')\n"
        "    ours = sorted(each for each in sys.modules if each.split('.')[0] in ('twisted_cm', 'twisted', 'treq'))\n"
        "    assert ours == ['twisted_cm', 'twisted_cm.testing', 'twisted_cm.testing.pytest_plugin']\n",
    )
    assert "1 passed" in project.run("-p", "no:twisted", forked=False)


def test_without_pytest_twisted_it_runs_no_reactor(project: Project) -> None:
    project.write("conftest.py", "import sys\nsys.modules['pytest_twisted'] = None\n")
    project.write("test_sync.py", SYNC)
    project.write("test_asyncio.py", ASYNCIO)
    project.write(
        "test_the_end.py", "import sys\ndef test_reactor():\n    assert 'twisted.internet.reactor' not in sys.modules\n"
    )
    assert "9 passed" in project.run("-p", "no:twisted", forked=False)


def test_every_kind_of_test_in_one_run(project: Project) -> None:
    for name, content in (("asyncio", ASYNCIO), ("twisted", TWISTED), ("sync", SYNC)):
        project.write(f"test_{name}.py", content)
    assert "12 passed" in project.run()


def test_each_worker_of_xdist_has_its_own(project: Project) -> None:
    project.write(
        "test_mine.py",
        "import pathlib\nfrom common import *\n"
        "def test_it(compute_modules, compute_module_runtime, worker_id):\n"
        "    compute_module_runtime.function(lambda query: worker_id, name='who')\n"
        "    assert json.loads(execute(compute_modules, compute_module_runtime.deployed_app_rid, 'who')) == worker_id\n"
        "    pathlib.Path(worker_id).write_text(compute_modules.url)\n",
    )
    assert "2 passed" in project.run("--dist", "each", "--tx", "2*popen")
    urls = [(project.directory / worker).read_text() for worker in ("gw0", "gw1")]
    assert len(set(urls)) == 2
    assert not any(listens(url) for url in urls)


def test_a_failure_harms_no_other_test_and_leaves_no_process(project: Project) -> None:
    project.write(
        "test_mine.py",
        "import pathlib\nfrom common import *\n"
        "def test_fails(compute_modules, compute_module_runtime):\n"
        "    compute_modules.enqueue('f', runtime_id='pytest')\n"
        "    compute_modules.fail_next(100)\n"
        "    assert False\n"
        "def test_passes(compute_modules, compute_module_runtime):\n"
        "    compute_module_runtime.function(lambda query: query, name='echo')\n"
        "    assert execute(compute_modules, compute_module_runtime.deployed_app_rid, 'echo', 1) == b'1'\n"
        "    pathlib.Path('url').write_text(compute_modules.url)\n",
    )
    assert "1 failed, 1 passed" in project.run(status=1)
    assert not listens((project.directory / "url").read_text())


def listens(url: str) -> bool:
    address = urlsplit(url)
    try:
        socket.create_connection((address.hostname, address.port), timeout=5).close()
    except ConnectionRefusedError:
        return False
    return True


HANGS = """
import time
import pytest_twisted
from common import *

@pytest_twisted.ensureDeferred
async def test_in_reactor(compute_modules):
    assert await compute_modules.runtimes() == []

def test_hangs(compute_modules, compute_module_runtime):
    @compute_module_runtime.function
    def hang(query):
        print("url", compute_modules.url, flush=True)
        time.sleep(100)
    execute(compute_modules, compute_module_runtime.deployed_app_rid, "hang")
"""


@pytest.fixture
def hanging(project: Project) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """Start a run with a test that hangs; yield its process and the URL of its emulator."""
    project.write("test_mine.py", HANGS)
    process = project.start("-s")
    assert process.stdout is not None
    for line in process.stdout:
        if b"url http" in line:
            yield process, line.decode().split("url ")[1].strip()
            break
    else:
        raise AssertionError("it ended without a URL")
    kill(process)


Hanging = tuple["subprocess.Popen[bytes]", str]


def test_ctrl_c_leaves_no_process(hanging: Hanging) -> None:
    process, url = hanging
    process.send_signal(signal.SIGINT)
    printed = process.communicate(timeout=30)[0].decode()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, printed
    assert "KeyboardInterrupt" in printed
    assert not listens(url)


def test_a_killed_run_leaves_no_process(hanging: Hanging) -> None:
    process, url = hanging
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port), timeout=20) as connection:
        process.kill()
        # The emulator closes the connection when it stops.
        assert connection.recv(1) == b""
    assert not listens(url)


SEED = """
tokens: {mine: {login: jane}}
foundry:
  compute_modules:
    runtimes: [{runtime_id: seeded, module_auth_token: known}]
    deployed_apps: [{deployed_app_rid: ri.seeded, runtime_id: seeded}]
"""


def test_the_seed_is_the_projects(project: Project) -> None:
    project.write("pytest.ini", f"{INI}compute_modules_seed = seeds/mine.yaml\n")
    project.write("seeds/mine.yaml", SEED)
    project.write(
        "tests/test_ini.py",
        "import pytest_twisted\nfrom common import *\n"
        "from twisted_cm.testing import ThreadRuntime\n"
        "def test_it(compute_modules):\n"
        "    assert compute_modules.token == 'mine'\n"
        "    runtime = compute_modules.run(ThreadRuntime('seeded'))\n"
        "    runtime.function(lambda query: query, name='echo')\n"
        "    assert execute(compute_modules, 'ri.seeded', 'echo', 1) == b'1'\n"
        "@pytest_twisted.ensureDeferred\n"
        "async def test_in_reactor(compute_modules):\n"
        "    assert compute_modules.token == 'mine'\n",
    )
    project.write(
        "tests/test_other.py",
        "import pytest\n"
        "@pytest.fixture\n"
        "def compute_modules_seed():\n"
        "    return {'tokens': {'other': {}}}\n"
        "def test_it(compute_modules):\n"
        "    assert compute_modules.token == 'other'\n"
        "    assert compute_modules.runtimes() == []\n",
    )
    project.write(
        "tests/test_wrong.py",
        "import pytest\n"
        "@pytest.fixture\n"
        "def compute_modules_seed():\n"
        "    return 'tokens: []'\n"
        "def test_it(compute_modules):\n"
        "    pass\n",
    )
    printed = project.run("-o", "pythonpath=.", cwd="tests", status=1)
    assert "3 passed, 1 error" in printed
    assert "InvalidSeed" in printed
