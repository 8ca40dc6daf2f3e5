"""Compiles the routes of the emulator when it is imported, so that forks find them compiled: see forked_commands.py."""

from typing import Any

from twisted_cm.server.app import emulator_app

_no_context: Any = None
emulator_app(_no_context).klein()
