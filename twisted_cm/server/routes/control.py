"""The routes of whoever tests with the emulator: go back to the seed, and make things go wrong."""

from __future__ import annotations

from attrs import frozen
from jsonschema import Draft202012Validator
from klein import Klein

from ...config.json_schemas import load_schema
from ...model.faults import describe_fault, fault_plan
from ...model.paths import EMULATOR
from .. import errors
from ..context import Context
from ..function_schemas import pointer_to
from ..transport.request import EmulatorRequest

#: The most faults that are active at once.
MOST_FAULTS = 1000


_FAULT = Draft202012Validator({"$defs": load_schema("seed.json")["$defs"], "$ref": "#/$defs/fault"})


@frozen
class ControlRoutes:
    """The control routes, over one L{Context}: open on loopback, for the admin token beyond it."""

    context: Context

    def register(self, app: Klein) -> None:
        """Put the routes on C{app}."""
        app.route(f"{EMULATOR}/reset", methods=["POST"])(self.reset)
        app.route(f"{EMULATOR}/faults", methods=["GET"])(self.list_faults)
        app.route(f"{EMULATOR}/faults", methods=["POST"])(self.add_fault)
        app.route(f"{EMULATOR}/faults", methods=["DELETE"])(self.clear_faults)
        app.route(f"{EMULATOR}/faults/<id:fault_id>", methods=["DELETE"])(self.remove_fault)

    async def _check(self, request: EmulatorRequest) -> None:
        if self.context.credentials.guarded:
            await self.context.admin(request)

    async def reset(self, request: EmulatorRequest) -> bytes:
        """C{POST /reset}: go back to the seed; every parked party is answered."""
        await self._check(request)
        await self.context.reset()
        return request.no_content()

    async def list_faults(self, request: EmulatorRequest) -> bytes:
        """C{GET /faults}: every fault, and how often it struck."""
        await self._check(request)
        return request.json([describe_fault(fault) for fault in await self.context.faults.all()])

    async def add_fault(self, request: EmulatorRequest) -> bytes:
        """C{POST /faults}: make something go wrong."""
        await self._check(request)
        body = await request.read_json(self.context.limits.max_body)
        try:
            found = list(_FAULT.iter_errors(body))
        except RecursionError:
            raise errors.invalid_request("This is no fault: nested too deeply.") from None
        if found:
            raise errors.invalid_request(
                "This is no fault: "
                + "; ".join(f"{pointer_to(each.absolute_path) or '/'}: {each.message[:300]}" for each in found),
                violations=[
                    {"pointer": pointer_to(each.absolute_path), "message": each.message[:300]} for each in found
                ],
            )
        if len(await self.context.faults.all()) >= MOST_FAULTS:
            raise errors.invalid_request(f"{MOST_FAULTS} faults are active, as many as may; clear some first.")
        return request.json(describe_fault(await self.context.faults.add(fault_plan(body))), 201)

    async def clear_faults(self, request: EmulatorRequest) -> bytes:
        """C{DELETE /faults}: end all of them."""
        await self._check(request)
        await self.context.faults.replace(())
        return request.no_content()

    async def remove_fault(self, request: EmulatorRequest, fault_id: str) -> bytes:
        """C{DELETE /faults/{faultId}}: end one of them."""
        await self._check(request)
        if not await self.context.faults.remove(fault_id):
            raise errors.not_found(f"Unknown fault '{fault_id}'.", faultId=fault_id)
        return request.no_content()
