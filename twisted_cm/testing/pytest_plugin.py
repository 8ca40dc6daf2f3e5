"""Offer the emulator as pytest fixtures.

pytest loads this module in every run on a machine that has twisted-cm installed. So the fixtures import the emulator
only when a test asks for one, and their annotations do not name its classes: runs without them save about a second.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

T = TypeVar("T")
EmulatorT = TypeVar("EmulatorT")

#: The module of a test, and how much it had written before the test.
_MODULE = pytest.StashKey[tuple[Any, int]]()

_RUNTIME_ID = "pytest"
_DEPLOYED_APP_RID = "ri.foundry.main.deployed-app.pytest"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the ini options."""
    parser.addini("compute_modules_seed", "Seed file of the compute_modules fixture, relative to rootdir.", "string")
    parser.addini("compute_modules_command", "Command that starts your module, in rootdir: python app.py", "string")
    parser.addini("compute_modules_runtime", "Runtime of the seed that your module serves.", "string")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Add what the module wrote during a test to the report of the test, if the test fails."""
    outcome: Any = yield
    report = outcome.get_result()
    if report.failed and _MODULE in item.stash:
        module, start = item.stash[_MODULE]
        written = module.output_from(start)
        if written:
            report.sections.append(("Captured compute module output", written))


class _Shared(Generic[EmulatorT]):
    """An emulator that consecutive tests with the same seed share."""

    def __init__(self, start: Callable[[Any], EmulatorT], stop: Callable[[EmulatorT], object]) -> None:
        self._start, self._stop = start, stop
        self._running: tuple[object, EmulatorT] | None = None

    def get(self, seed: object) -> EmulatorT:
        """Return the emulator, after a restart if it is not running with this seed."""
        if self._running is None or self._running[0] != seed:
            self.stop()
            self._running = seed, self._start(seed)
        return self._running[1]

    def stop(self) -> None:
        """Stop the emulator, if it is running."""
        running, self._running = self._running, None
        if running is not None:
            self._stop(running[1])


def _runs_in_reactor(request: pytest.FixtureRequest) -> bool:
    """Return whether pytest-twisted runs the test."""
    function = getattr(request.node, "obj", None)
    # Hypothesis wraps the function that pytest-twisted has marked.
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    return any(hasattr(each, "_pytest_twisted_mark") for each in (function, inner))


def _wait(coroutine: Coroutine[Any, Any, T]) -> T:
    import pytest_twisted  # type: ignore[import-untyped]
    from twisted.internet.defer import Deferred

    result: T = pytest_twisted.blockon(Deferred.fromCoroutine(coroutine))
    return result


@pytest.fixture(scope="session")
def compute_modules_seed(pytestconfig: pytest.Config) -> Any:
    """Return the seed of the compute_modules fixture: the file of the ini option compute_modules_seed, or None.

    Override this fixture to return another path, the text of a seed, or a mapping.
    """
    named = pytestconfig.getini("compute_modules_seed")
    return pytestconfig.rootpath / named if named else None


@pytest.fixture(scope="session")
def _compute_modules_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from .process import EmulatorProcess

    def start(seed: Any) -> EmulatorProcess:
        return EmulatorProcess.start(seed, directory=tmp_path_factory.mktemp("compute-modules"))

    shared = _Shared(start, EmulatorProcess.stop)
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def _compute_modules_in_reactor() -> Iterator[Any]:
    from twisted.internet import reactor

    from .emulator import Emulator

    shared = _Shared(lambda seed: _wait(Emulator.start(seed, tls=True)), lambda emulator: _wait(emulator.stop()))
    yield shared
    # Ctrl-C may have stopped the reactor, and with it the emulator.
    if reactor.running:
        shared.stop()


@pytest.fixture
def compute_modules(request: pytest.FixtureRequest, compute_modules_seed: Any) -> Iterator[Any]:
    """Start an emulator of compute modules, or reset the running one to its seed.

    A test that pytest-twisted runs gets a twisted_cm.testing.Emulator, whose methods are awaited. Any other test gets
    a twisted_cm.testing.EmulatorProcess, whose methods block. With compute_module_process, it is the emulator that the
    module is connected to.
    """
    if "compute_module_process" in request.fixturenames:
        emulator = request.getfixturevalue("compute_module_process").emulator
        yield emulator
        emulator.dismiss()
    elif _runs_in_reactor(request):
        emulator = request.getfixturevalue("_compute_modules_in_reactor").get(compute_modules_seed)
        _wait(emulator.reset())
        yield emulator
        if emulator.reactor.running:
            _wait(emulator.dismiss())
    else:
        process = request.getfixturevalue("_compute_modules_process").get(compute_modules_seed)
        process.reset()
        yield process
        process.dismiss()


@pytest.fixture
def compute_module_runtime(request: pytest.FixtureRequest, compute_modules: Any) -> Any:
    """Run a compute module without functions, bound to the deployed app compute_module_runtime.deployed_app_rid.

    Add functions with the decorator compute_module_runtime.function; compute_module_runtime.calls lists its jobs.
    """
    from .runtimes import FakeRuntime, ThreadRuntime

    if _runs_in_reactor(request):
        return _wait(compute_modules.run(FakeRuntime(_RUNTIME_ID, _DEPLOYED_APP_RID)))
    return compute_modules.run(ThreadRuntime(_RUNTIME_ID, _DEPLOYED_APP_RID))


@pytest.fixture(scope="session")
def _compute_module_processes(pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from .module import ComputeModuleProcess, ModulePlan, start_module, stop_module

    def start(seed: Any) -> ComputeModuleProcess:
        command = pytestconfig.getini("compute_modules_command")
        plan = ModulePlan.make(seed, command, pytestconfig.getini("compute_modules_runtime"), pytestconfig.rootpath)
        return start_module(plan, tmp_path_factory.mktemp("compute-module"))

    shared = _Shared(start, stop_module)
    yield shared
    shared.stop()


@pytest.fixture
def compute_module_process(
    request: pytest.FixtureRequest, _compute_module_processes: Any, compute_modules_seed: Any
) -> Any:
    """Run your module as a process that serves a runtime of an emulator; return a ComputeModuleProcess.

    The ini option compute_modules_command starts the module, in rootdir. It starts once and runs through all tests.
    Before each test, the emulator is reset to its seed. If the module has ended, the test fails, and the next test
    starts it again.
    """
    from .module import ModuleEnded, UnusableModule

    if _runs_in_reactor(request):
        pytest.fail("compute_module_process blocks; use it in a test that pytest-twisted does not run", pytrace=False)
    try:
        module = _compute_module_processes.get(compute_modules_seed)
        module.check()
        module.reset()
    except UnusableModule as error:
        pytest.fail(str(error), pytrace=False)
    except ModuleEnded as error:
        _compute_module_processes.stop()
        pytest.fail(str(error), pytrace=False)
    request.node.stash[_MODULE] = module, module.output_size
    return module


@pytest.fixture
def compute_module_replay(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return a function that replays a recording: replay("jobs.jsonl", ignore=["/id"]).

    It sends the recorded queries to compute_module_process, or to another runtime of compute_modules. It raises an
    AssertionError if a result differs from the recorded one; otherwise it returns a twisted_cm.testing.Replayed.
    """
    if _runs_in_reactor(request):
        pytest.fail("compute_module_replay blocks; use it in a test that pytest-twisted does not run", pytrace=False)

    def replay_recording(
        path: str | Path, *, ignore: Sequence[str] = (), runtime: Any = None, timeout: float = 30.0
    ) -> Any:
        """Replay a recording.

        Args:
            path: A file that ``twisted-cm serve --record`` wrote, relative to rootdir.
            ignore: JSON pointers to parts of results that may differ; ``*`` matches any member or element.
            runtime: A runtime of compute_modules, or its id; by default, compute_module_process.
            timeout: The longest time to wait for one result, in seconds.
        """
        __tracebackhide__ = True
        from .replay import replay

        file = request.config.rootpath / path
        if runtime is None:
            module = request.getfixturevalue("compute_module_process")
            return replay(module.emulator, module.runtime_id, file, ignore, timeout, module.check)
        emulator = request.getfixturevalue("compute_modules")
        return replay(emulator, getattr(runtime, "runtime_id", runtime), file, ignore, timeout)

    return replay_recording
