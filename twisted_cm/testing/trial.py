"""Give each test of a trial ``TestCase`` an emulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred

from ..config.seed import SeedLike
from .emulator import Emulator


class EmulatorMixin:
    """Start an emulator for each test of a trial ``TestCase``, as ``self.emulator``.

    The emulator stops when the test has ended. By default it uses no sockets::

        class Tests(EmulatorMixin, TestCase):
            seed = {"tokens": {"my-token": {"login": "jane"}}}

            async def test_something(self):
                await self.emulator.run(...)

    Attributes:
        seed: The seed of the emulator.
        emulator_options: The other arguments of :meth:`Emulator.start`.
    """

    seed: SeedLike = None
    emulator_options: Mapping[str, Any] = {"in_memory": True}
    emulator: Emulator

    async def setUp(self) -> None:
        self.emulator = await Emulator.start(self.seed, **self.emulator_options)
        self.addCleanup(lambda: Deferred.fromCoroutine(self.emulator.stop()))  # type: ignore[attr-defined]
