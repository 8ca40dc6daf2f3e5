"""How people see moments and the time since them. Moments are milliseconds since the epoch."""

from __future__ import annotations

from datetime import datetime


def show_clock(moment: int) -> str:
    """Format a moment of the last day as a local time of day."""
    return datetime.fromtimestamp(moment / 1000).strftime("%H:%M:%S")


def show_age(since: int, now: float) -> str:
    """Format the time since a moment as hours, minutes and seconds.

    Args:
        since: Milliseconds since the epoch.
        now: Seconds since the epoch.
    """
    minutes, seconds = divmod(max(int(now - since / 1000), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
