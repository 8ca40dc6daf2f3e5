"""Fixtures of the tests in a browser."""

from __future__ import annotations

from server.dashboard_fixtures import board, browser, dashboard_server

__all__ = ["board", "browser", "dashboard_server"]
