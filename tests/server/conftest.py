"""Fixtures of the tests over HTTP and in a browser."""

from __future__ import annotations

import pytest
from conftest import Harness
from server.dashboard_fixtures import board, browser, dashboard_server

__all__ = ["board", "browser", "dashboard_server"]


@pytest.fixture
def hasty(harness: Harness) -> Harness:
    """Shorten the time limits of the emulator's connections to 0.3 seconds."""
    for site in harness.sites():
        site.timeOut = site.head_timeout = site.body_timeout = site.close_timeout = site.stall_timeout = 0.3
    return harness
