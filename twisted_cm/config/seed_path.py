"""Where a value of a seed is: its path, and its line in the file."""

from __future__ import annotations

from typing import TypeAlias

#: The keys and indexes that lead to a value of the seed.
SeedPath: TypeAlias = tuple[str | int, ...]

#: What is said of a second definition, which has no effect.
ALREADY_DEFINED = "already defined; the first one counts"


class Lines:
    """The line of each value in the file."""

    def __init__(self) -> None:
        self.at: dict[SeedPath, int] = {}

    def line(self, path: SeedPath) -> int:
        """Return the line of a value, or of the nearest value around it that has one."""
        while path and path not in self.at:
            path = path[:-1]
        return self.at.get(path, 1)


def dotted(path: SeedPath) -> str:
    """Return a path as people write it, such as ``foundry.compute_modules.runtimes[0]``."""
    if path[:1] == ("tokens",) and len(path) > 1:
        # The key is a bearer token, and messages about a seed go to the log.
        path = ("tokens", "*", *path[2:])
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(the whole file)"


def message_at(line: int, path: SeedPath, message: str) -> str:
    """Return one line about the value at a path, with its line number."""
    return f"line {line}: {dotted(path)}: {message}"
