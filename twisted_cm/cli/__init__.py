"""How do I use it from a terminal?"""

from .main import main

__all__ = ["main"]
