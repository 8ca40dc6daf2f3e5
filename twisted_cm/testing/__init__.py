"""Run the emulator inside tests, on any test runner.

- :class:`Emulator` runs in the reactor of the tests, on free ports or without sockets.
- :class:`EmulatorProcess` runs the emulator as a process, for tests without a reactor.
- :class:`FakeRuntime` and :class:`ThreadRuntime` are compute modules made of Python callables.
- :class:`ComputeModuleProcess` is the real module of a project, as a process.
- :class:`ComputeModules` is a client that submits jobs.
- :class:`EmulatorMixin` gives each test of a trial ``TestCase`` an emulator.
"""

from importlib import import_module
from typing import Any

#: The module of each public name. A name's module is imported when the name is first used: pytest imports this package
#: in every run, for the plugin, and a run that does not use the emulator should not spend a second on it.
_MODULES = {
    "ComputeModuleProcess": "twisted_cm.testing.module",
    "ComputeModules": "twisted_cm.client",
    "Emulator": "twisted_cm.testing.emulator",
    "EmulatorMixin": "twisted_cm.testing.trial",
    "EmulatorProcess": "twisted_cm.testing.process",
    "FakeRuntime": "twisted_cm.testing.runtimes",
    "ReplayMismatch": "twisted_cm.testing.replay",
    "Replayed": "twisted_cm.testing.replay",
    "ThreadRuntime": "twisted_cm.testing.runtimes",
    "make_seed": "twisted_cm.config.seed",
}

__all__ = [*_MODULES]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
