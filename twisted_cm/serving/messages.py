"""What the parent and its workers say to each other, over a socket pair for each worker."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from typing import Any, ClassVar

from attrs import astuple, frozen
from twisted.internet.interfaces import IAddress
from twisted.internet.protocol import Factory
from twisted.protocols.amp import AMP, Boolean, Command, Float, String, Unicode

from ..config.seed import Seed
from ..config.settings import Settings
from ..logs import Level
from ..server.module_output import OutputLine

#: The descriptor of a worker's end of the socket pair. The listening sockets follow.
CHANNEL = 3

#: The most bytes of a seed in one message. A value in a message of AMP has 65,535 bytes at most.
_PART = 60_000


@frozen
class WorkerSetup:
    """What a worker reads, pickled, from its standard input when it starts.

    Attributes:
        number: The worker's number, from 1.
        settings: What its emulator is made from.
        sockets: How many listening sockets it has, in the order in which the emulator binds them.
        supervised: The runtimes whose modules the parent starts.
        metrics: The directory in which all processes count.
    """

    number: int
    settings: Settings
    sockets: int
    supervised: frozenset[str]
    metrics: str
    log_format: str
    log_levels: tuple[Level, ...]

    def pickled(self) -> bytes:
        """Return the setup as bytes."""
        # The levels of Twisted's log are constants, which only their names identify.
        levels = [(namespace, level.name) for namespace, level in self.log_levels]
        return pickle.dumps((*astuple(self, recurse=False)[:-1], levels))


# To a worker


class ChangeSeed(Command):
    """Apply another seed. It comes in parts, of which the last one says so."""

    arguments: ClassVar = [(b"part", String()), (b"last", Boolean())]


class ShowOutput(Command):
    """Show a line that a module has written."""

    arguments: ClassVar = [(b"line", Unicode())]
    requiresAnswer = False


class Stop(Command):
    """Stop gracefully. ``grace`` is the seconds that connections may take to end."""

    arguments: ClassVar = [(b"grace", Float())]
    requiresAnswer = False


# To the parent


class Describe(Command):
    """Say how the processes of a runtime are, as JSON."""

    arguments: ClassVar = [(b"runtime_id", Unicode())]
    response: ClassVar = [(b"described", Unicode())]


class Restart(Command):
    """Replace the processes of a runtime by new ones."""

    arguments: ClassVar = [(b"runtime_id", Unicode())]
    response: ClassVar = [(b"done", Boolean())]


class Channel(Factory):
    """Makes the protocol for one end of a socket pair."""

    def __init__(self, protocol: AMP) -> None:
        self._protocol = protocol

    def buildProtocol(self, addr: IAddress | None) -> AMP:
        return self._protocol


def parts_of(seed: Seed) -> Iterator[dict[str, Any]]:
    """Return the arguments of the :class:`ChangeSeed` messages for a seed."""
    pickled = pickle.dumps(seed)
    for start in range(0, len(pickled), _PART):
        yield {"part": pickled[start : start + _PART], "last": start + _PART >= len(pickled)}


def seed_of(parts: list[bytes]) -> Seed:
    """Return the seed that the parts of all messages make up."""
    seed: Seed = pickle.loads(b"".join(parts))
    return seed


def write_line(line: OutputLine) -> str:
    """Return a line of a module as the argument of :class:`ShowOutput`."""
    return json.dumps(astuple(line))


def read_line(written: str) -> OutputLine:
    """Return the line that :func:`write_line` has written."""
    return OutputLine(*json.loads(written))
