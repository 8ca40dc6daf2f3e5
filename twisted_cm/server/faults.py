"""Whether an injected fault strikes a request."""

from __future__ import annotations

from twisted.internet.task import deferLater

from ..model.faults import FaultKind, FaultPlan
from .context import Context


async def draw_fault(
    context: Context, kind: FaultKind, runtime_id: str, function: str | None = None
) -> FaultPlan | None:
    """Return the fault that strikes now, or ``None``.

    Most emulators have no faults, so the fault book is asked only if one is active.
    """
    return await context.faults.draw(kind, runtime_id, function) if context.faults.active else None


async def delay_by_fault(context: Context, kind: FaultKind, runtime_id: str, function: str) -> None:
    """Wait for as long as a fault that strikes now says."""
    fault = await draw_fault(context, kind, runtime_id, function)
    if fault is not None and fault.seconds is not None:
        await deferLater(context.reactor, fault.seconds)
