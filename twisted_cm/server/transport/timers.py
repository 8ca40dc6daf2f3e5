"""Timers that may not have been set."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall


def cancel_timer(timer: IDelayedCall | None) -> None:
    """Let a timer that may not have been set, or may have fired, not fire any more."""
    if timer is not None and timer.active():
        timer.cancel()
