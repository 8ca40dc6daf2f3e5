"""Why does a job of a runtime not run: is no replica connected?"""

from __future__ import annotations

from ..broker.interface import BrokerError
from ..model.durations import show_age, show_clock
from ..model.raised import first_line
from .context import Context


async def why_nothing_runs(context: Context, runtime_id: str) -> str | None:
    """Return a sentence that says that no replica is connected, and since when; ``None`` if one is or nobody knows.

    The error that the sentence is for is more important, so no error of the broker is raised.
    """
    try:
        found = await context.broker.snapshot(runtime_id)
    except BrokerError:
        return None
    if any(each.state.connected for each in found.replicas):
        return None
    module = await context.supervision.describe(runtime_id)
    if module is not None and module["error"] is not None:
        return f"The module of runtime '{runtime_id}' is {module['state']}: {first_line(module['error'])}."
    last = found.runtime.last_poll_at
    if last is None:
        return f"No replica of runtime '{runtime_id}' has ever polled."
    ago = show_age(last, context.reactor.seconds())
    return f"No replica of runtime '{runtime_id}' is connected (last poll: {show_clock(last)}, {ago} ago)."
