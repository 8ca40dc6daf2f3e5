"""
The emulator as fixtures for pytest.

pytest loads this module in every run on every machine that has twisted-cm, so
it imports nothing until a test asks for something.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any, Generic, TypeVar

import pytest

from ..config.seed import SeedLike
from .emulator import Emulator
from .process import EmulatorProcess
from .runtimes import FakeRuntime, ThreadRuntime

E = TypeVar("E")


T = TypeVar("T")


_RUNTIME_ID = "pytest"


_DEPLOYED_APP_RID = "ri.foundry.main.deployed-app.pytest"


def pytest_addoption(parser: pytest.Parser) -> None:
    """See pytest's hook."""
    parser.addini("compute_modules_seed", "Seed file of the compute_modules fixture, relative to rootdir.", "string")


class _Shared(Generic[E]):
    """The emulator that tests share, as long as they agree on its seed."""

    def __init__(self, start: Callable[[SeedLike], E], stop: Callable[[E], object]) -> None:
        self._start, self._stop = start, stop
        self._running: tuple[SeedLike, E] | None = None

    def get(self, seed: SeedLike) -> E:
        """
        @return: the emulator, started if there is none with this seed.
        """
        if self._running is None or self._running[0] != seed:
            self.stop()
            self._running = seed, self._start(seed)
        return self._running[1]

    def stop(self) -> None:
        """End it, if there is one."""
        running, self._running = self._running, None
        if running is not None:
            self._stop(running[1])


def _runs_in_reactor(request: pytest.FixtureRequest) -> bool:
    """Whether pytest-twisted's decorators mark the test; hypothesis wraps what they mark."""
    function = getattr(request.node, "obj", None)
    inner = getattr(getattr(function, "hypothesis", None), "inner_test", None)
    return any(hasattr(each, "_pytest_twisted_mark") for each in (function, inner))


def _await(coroutine: Coroutine[Any, Any, T]) -> T:
    import pytest_twisted  # type: ignore[import-untyped]
    from twisted.internet.defer import Deferred

    result: T = pytest_twisted.blockon(Deferred.fromCoroutine(coroutine))
    return result


@pytest.fixture(scope="session")
def compute_modules_seed(pytestconfig: pytest.Config) -> SeedLike:
    """The seed of compute_modules: the file that the ini option names, or None. Override it to have another."""
    named = pytestconfig.getini("compute_modules_seed")
    return pytestconfig.rootpath / named if named else None


@pytest.fixture(scope="session")
def _compute_modules_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[_Shared[EmulatorProcess]]:
    from .process import EmulatorProcess

    def start(seed: SeedLike) -> EmulatorProcess:
        return EmulatorProcess.start(seed, directory=tmp_path_factory.mktemp("compute-modules"))

    shared = _Shared(start, EmulatorProcess.stop)
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def _compute_modules_in_reactor() -> Iterator[_Shared[Emulator]]:
    from twisted.internet import reactor

    from .emulator import Emulator

    shared = _Shared(lambda seed: _await(Emulator.start(seed, tls=True)), lambda emulator: _await(emulator.stop()))
    yield shared
    # Ctrl-C can have stopped it, and all that was in it with it.
    if reactor.running:
        shared.stop()


@pytest.fixture
def compute_modules(
    request: pytest.FixtureRequest, compute_modules_seed: SeedLike
) -> Iterator[Emulator | EmulatorProcess]:
    """
    An emulator of compute modules, as its seed has it.

    A test that pytest-twisted runs has a twisted_cm.testing.Emulator in its
    reactor, any other test a twisted_cm.emulator_process.EmulatorProcess.
    """
    if _runs_in_reactor(request):
        emulator: Emulator = request.getfixturevalue("_compute_modules_in_reactor").get(compute_modules_seed)
        _await(emulator.reset())
        yield emulator
        if emulator.reactor.running:
            _await(emulator.dismiss())
    else:
        process: EmulatorProcess = request.getfixturevalue("_compute_modules_process").get(compute_modules_seed)
        process.reset()
        yield process
        process.dismiss()


@pytest.fixture
def compute_module_runtime(request: pytest.FixtureRequest, compute_modules: Any) -> FakeRuntime | ThreadRuntime:
    """A runtime that runs already, bound to its deployed_app_rid; its function decorator gives it functions."""
    if _runs_in_reactor(request):
        from .runtimes import FakeRuntime

        fake = FakeRuntime(_RUNTIME_ID, _DEPLOYED_APP_RID)
        _await(compute_modules.run(fake))
        return fake
    from .runtimes import ThreadRuntime

    runtime = ThreadRuntime(_RUNTIME_ID, _DEPLOYED_APP_RID)
    compute_modules.run(runtime)
    return runtime
