"""How the emulator starts the processes of a runtime's modules, as the seed describes it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from attrs import Factory, frozen

from .seed_path import SeedPath

#: Seconds between SIGTERM and SIGKILL. With it, Ctrl-C ends everything within five seconds.
DEFAULT_GRACE = 3.0


@frozen
class Scaling:
    """How many replicas a runtime may have, and when their number changes.

    Attributes:
        least: The least number of replicas.
        most: The highest number of replicas.
        scale_up_threshold: The load from which on a replica is added.
        scale_up_delay: Seconds for which the load must be as high.
        scale_down_threshold: The load below which a replica is removed.
        scale_down_delay: Seconds for which the load must be as low.
    """

    least: int = 1
    most: int = 1
    scale_up_threshold: float = 0.75
    scale_up_delay: float = 60.0
    scale_down_threshold: float = 0.75
    scale_down_delay: float = 1800.0

    @property
    def fixed(self) -> bool:
        """Whether the number of replicas never changes."""
        return self.least == self.most

    @classmethod
    def parse(cls, value: int | Mapping[str, Any]) -> Scaling:
        """Read the key ``replicas`` of a runtime of the seed, which has been checked."""
        if isinstance(value, int):
            return cls(value, value)
        names = {"min": "least", "max": "most"}
        given = {names.get(name, name): each for name, each in value.items()}
        given.setdefault("most", max(given.get("least", 1), 1))
        given.setdefault("least", min(1, given["most"]))
        return cls(**given)


@frozen
class ProcessSettings:
    """How the emulator starts the processes of a runtime's modules.

    Attributes:
        command: The program and its arguments.
        directory: Where it runs, relative to the seed file.
        scaling: How many replicas there are.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    command: tuple[str, ...]
    directory: str = "."
    scaling: Scaling = Factory(Scaling)
    grace: float = DEFAULT_GRACE

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> ProcessSettings | None:
        """Read the settings from a runtime of the seed, which has been checked; ``None`` if it has no command."""
        if "command" not in item:
            return None
        return cls(
            tuple(item["command"]),
            item.get("directory", "."),
            Scaling.parse(item.get("replicas", 1)),
            float(item.get("grace", DEFAULT_GRACE)),
        )


def process_problems(item: Mapping[str, Any]) -> Iterator[tuple[SeedPath, str]]:
    """Return what the JSON Schema cannot say about the processes of a runtime."""
    if "command" not in item:
        for name in ("directory", "grace", "replicas"):
            if name in item:
                yield (name,), "has no effect without 'command'; add the command that starts the module"
    replicas = item.get("replicas", 1)
    if isinstance(replicas, Mapping) and replicas.get("min", 0) > replicas.get("max", 100):
        yield ("replicas", "min"), f"{replicas['min']} is more than max, {replicas['max']}; lower it, or raise max"
