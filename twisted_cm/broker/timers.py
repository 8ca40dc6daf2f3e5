"""Cancel a timer that may not be running."""

from __future__ import annotations

from twisted.internet.interfaces import IDelayedCall


def cancel_timer(timer: IDelayedCall | None) -> None:
    """Cancel a timer, unless it is ``None`` or has already been called or canceled."""
    if timer is not None and timer.active():
        timer.cancel()
