"""The emulator for trial."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from ..config.seed import SeedLike
from .emulator import Emulator


class EmulatorMixin:
    """
    For trial's C{TestCase}: each test has an emulator of its own, C{self.emulator}::

        class Tests(EmulatorMixin, TestCase):
            seed = {...}

            async def test_it(self):
                await self.emulator.run(...)

    @cvar seed: what it is started with.
    @cvar emulator_options: what else L{Emulator.start} takes.
    """

    seed: SeedLike = None
    emulator_options: Mapping[str, Any] = {"in_memory": True}
    emulator: Emulator

    async def setUp(self) -> None:
        """See trial's C{TestCase.setUp}."""
        self.emulator = await Emulator.start(self.seed, **self.emulator_options)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.emulator.stop()))  # type: ignore[attr-defined]
