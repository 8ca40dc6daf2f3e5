"""The figures of a benchmark, and how they are shown."""

from __future__ import annotations

from typing import Any

from attrs import asdict, frozen


@frozen
class Figure:
    """One line of the table.

    Attributes:
        value: The figure of the emulator.
        floor: The same figure of the floor.
        ratio: The ratio that the bar limits.
        bar: The most that the ratio may be, or the least if it begins with ``>=``; empty for no bar.
    """

    scenario: str
    unit: str
    value: float
    floor: float | None = None
    ratio: float | None = None
    bar: str = ""

    @property
    def passed(self) -> bool:
        """Whether the ratio is within the bar."""
        if not self.bar:
            return True
        measured = self.value if self.ratio is None else self.ratio
        limit = float(self.bar[2:])
        return measured >= limit if self.bar.startswith(">=") else measured <= limit

    def rounded(self) -> dict[str, Any]:
        """Return the fields by name, with numbers of four digits."""
        return {
            name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in asdict(self).items()
        }


def written(number: float | None) -> str:
    """Return a number with three digits, or as a whole number."""
    if number is None:
        return ""
    return f"{number:.3g}" if number < 100 else f"{number:,.0f}"
