"""A local emulator of Palantir Foundry's compute modules, built on Twisted and Klein."""

__version__ = "0.1.0"
