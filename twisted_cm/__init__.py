"""A local emulator of Palantir Foundry's compute modules, on Twisted and Klein."""

__version__ = "0.1.0"
