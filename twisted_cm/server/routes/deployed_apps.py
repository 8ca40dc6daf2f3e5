"""The routes that describe and configure deployed apps (contract section 3)."""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

from attrs import frozen

from ...broker.interface import NotBound
from ...model.paths import CONTOUR, CONTOUR_SERVICE
from ...model.runtimes import Runtime
from ...model.types import JSONValue
from .. import errors
from ..auth import require_bearer
from ..context import Context
from ..deployed_app_descriptions import describe_configuration, describe_deployed_app
from ..foundry_descriptions import describe_functions
from ..parsing import query_parameter, required_query_parameter, text_field
from ..routing import App, add_routes
from ..transport.request import EmulatorRequest

#: The longest that dev mode lasts. Foundry's clients name the same limit.
LONGEST_DEV_MODE = timedelta(hours=5)

_DATE_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d(?::\d\d)?)(?:\.\d+)?(Z|[+-]\d\d:\d\d)")


@frozen
class DeployedAppRoutes:
    """The routes of deployed apps."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        deployed_app = f"{CONTOUR_SERVICE}/deployed-apps/<id:rid>"
        on_branch = f"{deployed_app}/<id:branch>"
        add_routes(
            app,
            [
                ("GET", f"{CONTOUR}/schemas", self.schemas),
                ("GET", deployed_app, self.configuration_if_any),
                ("GET", f"{deployed_app}/v2", self.configuration),
                ("GET", f"{on_branch}/function-schemas", self.schemas_on_branch),
                ("GET", f"{on_branch}/status", self.status),
                ("PUT", f"{on_branch}/dev-mode", self.dev_mode),
            ],
        )

    async def _runtime_of(self, rid: str, branch: str | None) -> Runtime:
        binding = await self.context.broker.resolve(rid, branch)
        return await self.context.broker.runtime(binding.runtime_id)

    async def schemas(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET …/schemas?rid=&branch=`` with a deployed app's functions; null before any were posted."""
        await require_bearer(self.context, request)
        rid = required_query_parameter(request, "rid")
        return request.json(describe_functions(await self._runtime_of(rid, query_parameter(request, "branch"))))

    async def schemas_on_branch(self, request: EmulatorRequest, rid: str, branch: str) -> bytes:
        """Answer ``GET …/deployed-apps/{rid}/{branch}/function-schemas`` in the same way."""
        await require_bearer(self.context, request)
        return request.json(describe_functions(await self._runtime_of(rid, branch)))

    async def status(self, request: EmulatorRequest, rid: str, branch: str) -> bytes:
        """Answer ``GET …/deployed-apps/{rid}/{branch}/status`` with the replicas of a deployed app's runtime."""
        await require_bearer(self.context, request)
        binding = await self.context.broker.resolve(rid, branch)
        return request.json(describe_deployed_app(rid, await self.context.broker.snapshot(binding.runtime_id)))

    async def configuration(self, request: EmulatorRequest, rid: str) -> bytes:
        """Answer ``GET …/deployed-apps/{rid}/v2`` with the configuration of a deployed app."""
        await require_bearer(self.context, request)
        return request.json(await self._configuration_of(rid))

    async def configuration_if_any(self, request: EmulatorRequest, rid: str) -> bytes:
        """Answer ``GET …/deployed-apps/{rid}`` in the same way, with no content for an unknown one.

        Clients of this version expect an empty answer, and only those of the next one an error.
        """
        await require_bearer(self.context, request)
        try:
            found = await self._configuration_of(rid)
        except NotBound:
            return request.no_content()
        return request.json(found)

    async def _configuration_of(self, rid: str) -> JSONValue:
        # The first that is active speaks for all branches, as it does for a job that names none.
        first = await self.context.broker.resolve(rid, None)
        snapshots = await self.context.broker.snapshots()
        branches = [
            (binding, snapshot)
            for snapshot in snapshots
            for binding in snapshot.bindings
            if binding.deployed_app_rid == rid and binding.active
        ]
        # A branch that was bound between the two steps is not among them, and one that was unbound is.
        if not any(binding == first for binding, _ in branches):
            raise NotBound(rid, None)
        return describe_configuration(first, branches)

    async def dev_mode(self, request: EmulatorRequest, rid: str, branch: str) -> bytes:
        """Answer ``PUT …/deployed-apps/{rid}/{branch}/dev-mode``: check the request, and change nothing.

        In Foundry, dev mode replaces the replicas as soon as a new image is published. Here there are no images.
        """
        await require_bearer(self.context, request)
        until = text_field(await request.read_json(self.context.limits.max_body), "automaticUpgradesUntil")
        if until is not None:
            self._check_end_of_dev_mode(until)
        await self.context.broker.resolve(rid, branch)
        return request.no_content()

    def _check_end_of_dev_mode(self, text: str) -> None:
        field = "automaticUpgradesUntil"
        end = _date_time(text)
        if end is None:
            raise errors.invalid_request(
                f"'{field}' must be a date and time with an offset, such as 2026-01-31T12:00:00Z.", field=field
            )
        if end - datetime.fromtimestamp(self.context.reactor.seconds(), timezone.utc) > LONGEST_DEV_MODE:
            hours = LONGEST_DEV_MODE // timedelta(hours=1)
            raise errors.invalid_request(f"'{field}' must be at most {hours} hours from now.", field=field)


def _date_time(text: str) -> datetime | None:
    """Return a time in the form of ISO 8601 that Foundry's clients write, or ``None`` if it is not one."""
    found = _DATE_TIME.fullmatch(text)
    if found is None:
        return None
    try:
        # Python 3.10 reads neither Z nor fractions of any length.
        return datetime.fromisoformat(found[1] + found[2].replace("Z", "+00:00"))
    except ValueError:
        return None
