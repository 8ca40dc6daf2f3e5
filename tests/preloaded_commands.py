"""What the process imports that :mod:`forked_commands` forks: all commands, and no reactor."""

from __future__ import annotations

import gc
import sys
from importlib import import_module

import twisted.internet

from twisted_cm.cli.main import COMMANDS

for module, _, _ in COMMANDS.values():
    import_module(f"twisted_cm.cli.{module}")

# Klein installs a reactor when it is imported. Each fork needs its own: reactors of several processes that share their
# descriptors would wake each other.
sys.modules.pop("twisted.internet.reactor").removeAll()
del twisted.internet.reactor

# Forks share the memory of what is imported, unless their garbage collectors write to it.
gc.freeze()
