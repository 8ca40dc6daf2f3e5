"""The routes of tests: go back to the seed, and inject faults."""

from __future__ import annotations

from attrs import frozen
from jsonschema import Draft202012Validator

from ...config.json_schemas import load_schema
from ...model.faults import describe_fault, fault_plan
from ...model.paths import EMULATOR
from .. import errors
from ..auth import require_admin_beyond_loopback
from ..context import Context
from ..parsing import query_parameter
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest
from ..violations import violation_of

#: The most faults that may be active at once.
MOST_FAULTS = 1000

_FAULT = Draft202012Validator({"$defs": load_schema("seed.json")["$defs"], "$ref": "#/$defs/fault"})


@frozen
class ControlRoutes:
    """The control routes; beyond loopback, they require the admin token."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        faults = f"{EMULATOR}/faults"
        add_routes(
            app,
            [
                ("POST", f"{EMULATOR}/reset", self.reset),
                ("GET", faults, self.list_faults),
                ("POST", faults, self.add_fault),
                ("DELETE", faults, self.clear_faults),
                ("DELETE", f"{faults}/<id:fault_id>", self.remove_fault),
            ],
        )

    async def reset(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /reset``: go back to the seed, and answer every parked request.

        With ``keep=replicas``, modules that serve runtimes of the seed stay connected.
        """
        await require_admin_beyond_loopback(self.context, request)
        keep = query_parameter(request, "keep")
        if keep not in (None, "replicas"):
            raise errors.invalid_request("'keep' must be replicas.", field="keep")
        await self.context.reset(keep is not None)
        return request.no_content()

    async def list_faults(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET /faults`` with every fault, and how often it struck."""
        await require_admin_beyond_loopback(self.context, request)
        return request.json([describe_fault(fault) for fault in await self.context.faults.all()])

    async def add_fault(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST /faults``: inject a fault."""
        await require_admin_beyond_loopback(self.context, request)
        body = await request.read_json(self.context.limits.max_body)
        try:
            found = [violation_of(error) for error in _FAULT.iter_errors(body)]
        except RecursionError:
            raise errors.invalid_request("The fault is not valid: it is nested too deeply.") from None
        if found:
            raise errors.violations("The fault is not valid", found)
        if len(await self.context.faults.all()) >= MOST_FAULTS:
            raise errors.invalid_request(f"There are too many faults (limit: {MOST_FAULTS}). Remove some first.")
        return request.json(describe_fault(await self.context.faults.add(fault_plan(body))), 201)

    async def clear_faults(self, request: EmulatorRequest) -> bytes:
        """Answer ``DELETE /faults``: remove every fault."""
        await require_admin_beyond_loopback(self.context, request)
        await self.context.faults.replace(())
        return request.no_content()

    async def remove_fault(self, request: EmulatorRequest, fault_id: str) -> bytes:
        """Answer ``DELETE /faults/{faultId}``: remove one fault."""
        await require_admin_beyond_loopback(self.context, request)
        if not await self.context.faults.remove(fault_id):
            raise errors.not_found(f"Unknown fault '{fault_id}'. GET /faults lists all of them.", faultId=fault_id)
        return request.no_content()
