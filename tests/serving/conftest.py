"""The fixture of the tests of several workers."""

from worker_steps import start

__all__ = ["start"]
