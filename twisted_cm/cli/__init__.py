"""How to use it from a terminal: the command twisted-cm."""

from .main import main

__all__ = ["main"]
