"""What a request waits for if an injected fault strikes it."""

from __future__ import annotations

from twisted.internet.task import deferLater

from ..model.faults import FaultKind
from .context import Context


async def delay_by_fault(context: Context, kind: FaultKind, runtime_id: str, function: str) -> None:
    """Wait for as long as a fault that strikes now says."""
    fault = await context.faults.draw(kind, runtime_id, function)
    if fault is not None and fault.seconds is not None:
        await deferLater(context.reactor, fault.seconds)
