"""The emulator as a service."""

from __future__ import annotations

import pytest
import pytest_twisted
from conftest import make_harness


@pytest_twisted.ensureDeferred
async def test_it_is_started_once() -> None:
    harness = make_harness()
    with pytest.raises(RuntimeError, match="Make another one"):
        harness.service.startService()
    assert (await harness.call("GET", "/healthz"))[0] == 200
    await harness.pool.closeCachedConnections()
    await harness.service.stopService()
    with pytest.raises(RuntimeError, match="Make another one"):
        harness.service.startService()
