"""The routes for modules whose processes the emulator starts: read their output, and replace them."""

from __future__ import annotations

import json
from collections import deque

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from ...model.paths import RUNTIMES
from .. import errors
from ..auth import require_admin_beyond_loopback, require_bearer
from ..context import Context
from ..module_output import LINES_KEPT, OutputLine
from ..parsing import query_parameter, whole_number
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest
from .feed import Feed


@frozen
class SupervisedRoutes:
    """The routes for modules whose processes the emulator starts."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        module = f"{RUNTIMES}/<id:runtime_id>/module"
        add_routes(
            app,
            [
                ("GET", f"{module}/output", self.output),
                ("POST", f"{module}/restart", self.restart),
            ],
        )

    async def output(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``GET /runtimes/{runtimeId}/module/output`` with the last lines that its modules wrote.

        Each line of the answer is a JSON object. With ``follow=true``, the answer goes on with each new line, until the
        client disconnects or the emulator stops; an empty line then says that there is none.
        """
        await require_bearer(self.context, request)
        await self.context.broker.runtime(runtime_id)
        count = whole_number(request, "lines", LINES_KEPT)
        output = self.context.supervision.output
        lines = output.last(runtime_id, LINES_KEPT if count is None else count)
        request.setHeader("Content-Type", "application/x-ndjson")
        if query_parameter(request, "follow") != "true" or request.method == b"HEAD":
            return b"".join(_describe(each) for each in lines)
        feed = _OutputFeed(self.context.reactor, request, lines)
        end = output.read(lambda line: feed.add(line) if line.runtime_id == runtime_id else None)
        try:
            # Fires when the broker stops.
            await self.context.broker.observe(lambda change: None, only_here=True)
        finally:
            end()
            feed.close()
        return b""

    async def restart(self, request: EmulatorRequest, runtime_id: str) -> bytes:
        """Answer ``POST /runtimes/{runtimeId}/module/restart``: replace the module's processes by new ones."""
        await require_admin_beyond_loopback(self.context, request)
        await self.context.broker.runtime(runtime_id)
        if not await self.context.supervision.restart(runtime_id):
            raise errors.invalid_request(
                f"Runtime '{runtime_id}' has no module that this emulator starts. Its seed has no 'command' for it."
            )
        return request.no_content()


def _describe(line: OutputLine) -> bytes:
    described = {"replica_id": line.replica_id, "written_at": line.written_at, "text": line.text}
    return json.dumps(described).encode("ascii") + b"\n"


class _OutputFeed(Feed):
    """Sends lines to one client, at the client's pace. If it is slow, it misses lines."""

    def __init__(self, clock: IReactorTime, request: EmulatorRequest, lines: list[OutputLine]) -> None:
        super().__init__(clock, request, 0)
        self._lines: deque[OutputLine] = deque(lines, maxlen=LINES_KEPT)
        self._send_soon()

    def add(self, line: OutputLine) -> None:
        """Send a line."""
        self._lines.append(line)
        if not self.paused:
            self._send_soon()

    def _take(self) -> bytes:
        lines = b"".join(_describe(each) for each in self._lines)
        self._lines.clear()
        return lines or b"\n"
