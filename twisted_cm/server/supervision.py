"""What the routes ask of whoever starts the processes of modules.

The supervisor is above the server, which knows only this interface. It may run in another process, so its answers are
Deferreds.
"""

from __future__ import annotations

from typing import Protocol

from twisted.internet.defer import Deferred, succeed

from ..config.seed import Seed
from ..model.types import JSONValue
from .module_output import ModuleOutput


class Supervision(Protocol):
    """Starts the processes of modules.

    Attributes:
        output: What they write.
    """

    output: ModuleOutput

    def describe(self, runtime_id: str) -> Deferred[JSONValue]:
        """Return how the processes of a runtime are, as JSON; ``None`` if no processes are started for it."""

    def restart(self, runtime_id: str) -> Deferred[bool]:
        """Replace the processes of a runtime by new ones; return ``False`` if none are started for it."""

    def replace(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Replace one process, whose job took too long, once its other jobs have ended."""

    def reseed(self, seed: Seed) -> None:
        """Start and end processes as another seed says."""


class NoSupervision:
    """Starts no processes."""

    def __init__(self) -> None:
        self.output = ModuleOutput()

    def describe(self, runtime_id: str) -> Deferred[JSONValue]:
        """Return ``None``."""
        return succeed(None)

    def restart(self, runtime_id: str) -> Deferred[bool]:
        """Return ``False``."""
        return succeed(False)

    def replace(self, runtime_id: str, replica_id: str, reason: str) -> None:
        """Do nothing."""

    def reseed(self, seed: Seed) -> None:
        """Do nothing."""
