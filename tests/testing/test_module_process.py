"""Run pytest in projects whose tests use a real module, on the official Python SDK."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from conftest import kill
from sdk_processes import SDK_PYTHON
from testing.module_project import Project

from twisted_cm.testing.module import ModulePlan

pytestmark = pytest.mark.long


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_one_module_serves_all_tests_and_each_begins_with_the_seed(project: Project) -> None:
    printed = project.run("""
import pytest
from twisted_cm.client import ApiError, JobFailed
pids = set()

def test_first(compute_module_process):
    pids.add(compute_module_process.execute("who").json())
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
    assert compute_module_process.runtime_id == "pytest-module"
    emulator = compute_module_process.emulator
    rid = compute_module_process.deployed_app_rid
    assert emulator.execute("add", {"a": 2, "b": 2}, deployed_app_rid=rid).json() == 4
    assert compute_module_process.output.splitlines() == ["the module starts", "adding 1 2", "adding 2 2"]
    emulator.faults.fail_job()
    with pytest.raises(JobFailed):
        compute_module_process.execute("who")

def test_second(compute_modules, compute_module_process):
    assert compute_modules is compute_module_process.emulator
    (runtime,) = compute_modules.runtimes()
    # The fault is gone, and the functions are still known.
    assert runtime["faults"] == [] and runtime["connected"]
    assert runtime["last_schema_post_at"] is not None
    pids.add(compute_module_process.execute("who").json())
    compute_modules.reset()
    pids.add(compute_module_process.execute("who").json())
    assert len(pids) == 1

def test_restart(compute_module_process):
    compute_module_process.restart()
    assert compute_module_process.execute("who").json() not in pids
    assert compute_module_process.output.count("the module starts") == 2
    assert "twisted-cm" not in compute_module_process.output

def test_without_the_module(compute_modules, compute_module_runtime):
    assert [each["runtime_id"] for each in compute_modules.runtimes()] == ["pytest"]

def test_beside_a_runtime_of_python_functions(compute_modules, compute_module_process, compute_module_runtime):
    compute_module_runtime.function(lambda query: query, name="echo")
    assert compute_modules.execute("echo", 7, deployed_app_rid=compute_module_runtime.deployed_app_rid).json() == 7
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
""")
    assert "5 passed" in printed


def test_queries_are_checked_in_every_test(project: Project) -> None:
    project.configure(f"compute_modules_command = {SDK_PYTHON} app.py", "compute_modules_seed = seed.yaml")
    project.write(
        "seed.yaml",
        """
tokens: {mine: {login: jane}}
foundry:
  compute_modules:
    validate_queries: true
    runtimes: [{runtime_id: calculator}]
    deployed_apps: [{deployed_app_rid: ri.calculator, runtime_id: calculator}]
""",
    )
    printed = project.run("""
import pytest
from twisted_cm.client import InvalidRequest

@pytest.mark.parametrize("time", range(3))
def test_it(compute_module_process, time):
    assert compute_module_process.deployed_app_rid == "ri.calculator"
    assert compute_module_process.emulator.token == "mine"
    assert compute_module_process.execute("add", {"a": 1, "b": time}).json() == 1 + time
    with pytest.raises(InvalidRequest):
        compute_module_process.execute("add", {"a": "no number", "b": 1})
""")
    assert "3 passed" in printed


def test_a_job_that_a_test_leaves_running_does_not_hold_up_the_next_test(project: Project) -> None:
    printed = project.run("""
import pytest

def test_leaves_it(compute_module_process):
    job = compute_module_process.emulator.enqueue("stay", runtime_id=compute_module_process.runtime_id)
    with pytest.raises(TimeoutError):
        compute_module_process.execute("add", {"a": 1, "b": 2}, timeout=0.1)

def test_next(compute_module_process):
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
""")
    assert "2 passed" in printed


def test_a_failing_test_shows_what_the_module_wrote_during_the_test(project: Project) -> None:
    printed = project.run(
        """
def test_passes(compute_module_process):
    compute_module_process.execute("add", {"a": 1, "b": 1})

def test_fails(compute_module_process):
    assert compute_module_process.execute("add", {"a": 2, "b": 2}).json() == 5

def test_fails_without_the_module():
    assert False
""",
        status=1,
    )
    _, captured = printed.split("Captured compute module output")
    assert "adding 2 2" in captured
    assert "adding 1 1" not in printed and "the module starts" not in printed


def test_a_module_that_dies_fails_the_next_test_and_is_started_for_the_one_after(project: Project) -> None:
    printed = project.run(
        """
import os
import pytest
from twisted_cm.client import JobFailed

def test_kills_it(compute_module_process):
    with pytest.raises(JobFailed):
        compute_module_process.execute("die")
    (worker,) = [line for line in compute_module_process.output.splitlines() if "about to die" in line]
    open("worker", "w").write(worker.split()[-1])

def test_next(compute_module_process):
    pass

def test_after(compute_module_process):
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
""",
        status=1,
    )
    assert "2 passed, 1 error" in printed
    assert f"The compute module '{SDK_PYTHON} app.py' ended with exit status 137. Its last" in printed
    assert "about to die" in printed
    # The worker of the dead module ends, too.
    with suppress(psutil.NoSuchProcess):
        psutil.Process(int((project.directory / "worker").read_text())).wait(10)


def test_a_module_that_does_not_start(project: Project) -> None:
    code = "import sys; [print('line', n) for n in range(30)]; sys.exit(3)"
    project.configure(f"compute_modules_command = {sys.executable} -c {code!r}")
    printed = project.run("def test_it(compute_module_process):\n    pass\n", status=1)
    assert "ended with exit status 3 before it was connected. Its last 20 lines:\nline 10\n" in printed
    assert "line 9\n" not in printed


def test_a_command_that_cannot_be_run(project: Project) -> None:
    project.configure("compute_modules_command = ./none app.py")
    printed = project.run("def test_it(compute_module_process):\n    pass\n", status=1)
    assert "exit status 127" in printed and "Cannot run ./none" in printed


TWO = """
foundry:
  compute_modules:
    runtimes: [{runtime_id: one}, {runtime_id: two}]
"""


@pytest.mark.parametrize(
    ("lines", "error"),
    [
        ((), "No command starts the module. Add one to pytest.ini: compute_modules_command = python app.py"),
        (("compute_modules_command = 'python",), "compute_modules_command is not valid: No closing quotation"),
        (("compute_modules_seed = two.yaml",), "The seed has several runtimes. Name one of them"),
        (
            ("compute_modules_seed = two.yaml", "compute_modules_runtime = three"),
            "The seed has no runtime 'three'. Name one of them with the ini option compute_modules_runtime: one, two.",
        ),
        (("compute_modules_seed = none.yaml",), "The seed has no runtime for the module to serve."),
    ],
)
def test_unusable_options(project: Project, lines: tuple[str, ...], error: str) -> None:
    project.configure(*lines)
    project.write("two.yaml", TWO)
    project.write("none.yaml", "{}")
    assert error in project.run("def test_it(compute_module_process):\n    pass\n", status=1)


def test_the_runtime_is_one_of_several_of_the_seed(project: Project) -> None:
    options = ("compute_modules_seed = two.yaml", "compute_modules_runtime = two")
    project.configure(f"compute_modules_command = {SDK_PYTHON} app.py", *options)
    project.write("two.yaml", TWO)
    printed = project.run("""
def test_it(compute_module_process):
    assert compute_module_process.runtime_id == "two"
    assert compute_module_process.deployed_app_rid is None
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
""")
    assert "1 passed" in printed


def test_the_command_may_be_in_the_seed(project: Project) -> None:
    project.configure("compute_modules_seed = seed.yaml")
    command = f"command: [{SDK_PYTHON}, ../app.py], directory: modules"
    (project.directory / "modules").mkdir()
    project.write("seed.yaml", TWO.replace("{runtime_id: one}, {runtime_id: two}", f"{{runtime_id: one, {command}}}"))
    printed = project.run("""
def test_it(compute_module_process):
    assert compute_module_process.execute("add", {"a": 1, "b": 2}).json() == 3
""")
    assert "1 passed" in printed


def test_the_ini_option_has_precedence_over_the_seed(tmp_path: Path) -> None:
    seed = TWO.replace("{runtime_id: one}", "{runtime_id: one, command: [python, app.py], directory: modules}")
    plan = ModulePlan.make(seed, "", "one", tmp_path)
    assert (plan.command, plan.directory) == (("python", "app.py"), tmp_path / "modules")
    plan = ModulePlan.make(seed, "node 'my app.js'", "one", tmp_path)
    assert (plan.command, plan.directory) == (("node", "my app.js"), tmp_path)


def test_tests_with_another_seed_get_another_module(project: Project) -> None:
    printed = project.run("""
import pytest

class TestOther:
    @pytest.fixture
    def compute_modules_seed(self):
        return {"foundry": {"compute_modules": {"runtimes": [{"runtime_id": "other", "env": {"MY_NAME": "jo"}}]}}}

    def test_it(self, compute_module_process):
        assert compute_module_process.runtime_id == "other"
        assert compute_module_process.execute("name").text() == '"jo"'

def test_default(compute_module_process):
    assert compute_module_process.execute("name").json() is None
""")
    assert "2 passed" in printed


def test_a_test_in_the_reactor_is_told_that_it_blocks(project: Project) -> None:
    printed = project.run(
        """
import pytest_twisted

@pytest_twisted.ensureDeferred
async def test_it(compute_module_process):
    pass
""",
        status=1,
    )
    assert "compute_module_process blocks" in printed


HANGS = """
import time

def test_hangs(compute_module_process):
    print("module", compute_module_process.execute("who").json(), flush=True)
    time.sleep(100)
"""


@pytest.fixture
def hanging(project: Project) -> Iterator[tuple[subprocess.Popen[bytes], psutil.Process]]:
    """Start a run with a test that hangs; yield its process and that of its module."""
    project.write("test_mine.py", HANGS)
    process = project.start("-s")
    assert process.stdout is not None
    for line in process.stdout:
        if b"module " in line:
            yield process, psutil.Process(int(line.split(b"module ")[1]))
            break
    else:
        raise AssertionError("it ended without a module")
    kill(process)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_the_module_ends_with_the_run(
    hanging: tuple[subprocess.Popen[bytes], psutil.Process], number: signal.Signals
) -> None:
    process, module = hanging
    family = [module, *module.parents()[:1], *module.children(recursive=True)]
    process.send_signal(number)
    _, alive = psutil.wait_procs(family, timeout=30)
    assert alive == []
