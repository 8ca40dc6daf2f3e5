"""
The emulator inside people's own tests.

L{Emulator} runs in the reactor that the tests run in, on ports of its own or
with no socket at all, and leaves nothing behind in the reactor when it is
stopped.  L{FakeRuntime} stands in for a module, L{ComputeModules} for an
application, and L{EmulatorMixin} brings the emulator to trial.
"""

from importlib import import_module
from typing import Any

#: Where each public name is. They are imported when they are asked for: pytest imports this package in every run, for
#: the sake of its plugin.
_HOMES = {
    "ComputeModules": "twisted_cm.client",
    "Emulator": "twisted_cm.testing.emulator",
    "EmulatorMixin": "twisted_cm.testing.trial",
    "EmulatorProcess": "twisted_cm.testing.process",
    "FakeRuntime": "twisted_cm.testing.runtimes",
    "ThreadRuntime": "twisted_cm.testing.runtimes",
    "make_seed": "twisted_cm.config.seed",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
