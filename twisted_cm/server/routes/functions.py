"""The functions of modules as the public API has them: queries (functions API, sections 1 and 4)."""

from __future__ import annotations

from attrs import frozen

from ...broker.interface import UnknownJob
from ...model.jobs import Job, JobSource, JobState
from ...model.paths import FUNCTIONS
from ...model.tokens import Principal
from ..auth import require_bearer
from ..calls.answers import execute, find_batch, read_batch, refuse_transaction
from ..calls.calls import Call, Calls, check_version, read_call
from ..calls.streaming import send_constant, send_values
from ..calls.waiting import submit_and_wait
from ..context import Context
from ..parsing import number_field, query_parameter, required_query_parameter, required_text, text_field
from ..queries import errors
from ..queries.catalog import Query
from ..routing import App, add_routes
from ..submission import submit
from ..transport.request import EmulatorRequest

#: The longest time that a request for the result of an execution parks, in seconds.
LONGEST_WAIT = 280

_ASYNC = "async_"
_CANCELED = "The execution was canceled."


@frozen
class FunctionRoutes:
    """The routes of the functions API."""

    context: Context

    def register(self, app: App) -> None:
        """Put the routes on ``app``."""
        query = f"{FUNCTIONS}/queries/<id:api_name>"
        execution = f"{FUNCTIONS}/executions/<id:execution_id>"
        add_routes(
            app,
            [
                ("GET", query, self.get),
                ("GET", f"{FUNCTIONS}/queries/getByRid", self.get_by_rid),
                ("POST", f"{FUNCTIONS}/queries/getByRidBatch", self.get_by_rid_batch),
                ("POST", f"{query}/execute", self.execute),
                ("POST", f"{query}/streamingExecute", self.streaming_execute),
                ("POST", f"{query}/streamingExecuteEvents", self.streaming_execute),
                ("POST", f"{query}/executeAsync", self.execute_async),
                ("POST", f"{execution}/getResult", self.get_result),
                ("POST", f"{execution}/cancel", self.cancel),
            ],
        )

    @property
    def _calls(self) -> Calls:
        return Calls(self.context, in_ontology=False)

    # Looking up

    async def get(self, request: EmulatorRequest, api_name: str) -> bytes:
        """Answer ``GET …/queries/{name}`` with what a query takes and returns."""
        await require_bearer(self.context, request)
        query = await self._calls.find(api_name, Call(b"", query_parameter(request, "version")))
        return request.json(query.describe(in_ontology=False))

    async def get_by_rid(self, request: EmulatorRequest) -> bytes:
        """Answer ``GET …/queries/getByRid?rid=`` in the same way."""
        await require_bearer(self.context, request)
        rid, version = required_query_parameter(request, "rid"), query_parameter(request, "version")
        query = (await self.context.catalog.by_rids()).get(rid)
        if query is None:
            raise errors.function_not_found(rid)
        check_version(query, version)
        return request.json(query.describe(in_ontology=False))

    async def get_by_rid_batch(self, request: EmulatorRequest) -> bytes:
        """Answer ``POST …/queries/getByRidBatch`` with those queries of a list that there are."""
        await require_bearer(self.context, request)
        body = await request.read_json(self.context.limits.max_body)
        wanted = [(required_text(each, "rid"), text_field(each, "version")) for each in read_batch(body)]
        found = find_batch(await self.context.catalog.by_rids(), wanted)
        return request.json({"data": [each.describe(in_ontology=False) for each in found]})

    # Calling

    async def _called(self, request: EmulatorRequest, api_name: str, prefix: str = "") -> tuple[Principal, Call, Query]:
        """Return who calls, what was sent, and the query that it is for.

        Args:
            request: The request.
            api_name: The name of the query.
            prefix: ``async_`` for an execution.
        """
        principal = await require_bearer(self.context, request)
        call = await read_call(self.context, request)
        query = await self._calls.find(api_name, call)
        refuse_transaction(request, query, prefix)
        return principal, call, query

    async def execute(self, request: EmulatorRequest, api_name: str) -> bytes:
        """Answer ``POST …/queries/{name}/execute``: run a function, park until it returns, and send its value."""
        principal, call, query = await self._called(request, api_name)
        return await execute(self._calls, request, principal, query, call)

    async def streaming_execute(self, request: EmulatorRequest, api_name: str) -> None:
        """Answer ``POST …/queries/{name}/streamingExecute`` and ``…Events`` with values as the function yields them."""
        principal, call, query = await self._called(request, api_name)
        if query.target is None:
            await send_constant(request, query.constant or b"null")
            return
        submission = await self._calls.submission(
            request, principal, query.target, query.signature, call.parameters, JobSource.FUNCTIONS_SYNC
        )
        job = await submit_and_wait(self.context, request, query.target.runtime_id, submission)
        await send_values(self._calls, request, query, job)

    async def execute_async(self, request: EmulatorRequest, api_name: str) -> bytes:
        """Answer ``POST …/queries/{name}/executeAsync``: queue a job, and send its id as that of an execution."""
        principal, call, query = await self._called(request, api_name, _ASYNC)
        if query.target is None:
            return await request.answer_in_parts(
                (b'{"type":"completed","value":', query.constant or b"null", b"}"), "application/json"
            )
        submission = await self._calls.submission(
            request, principal, query.target, query.signature, call.parameters, JobSource.FUNCTIONS_ASYNC
        )
        job = await submit(self.context, query.target.runtime_id, submission, request)
        return request.json({"type": "submitted", "executionId": job.job_id})

    # Executions

    async def _execution(self, execution_id: str, wait: float) -> Job:
        try:
            job = await self.context.broker.wait_end(execution_id, wait)
        except UnknownJob:
            raise errors.execution_not_found(execution_id) from None
        if job.submission.source is not JobSource.FUNCTIONS_ASYNC:
            raise errors.execution_not_found(execution_id)
        return job

    async def get_result(self, request: EmulatorRequest, execution_id: str) -> bytes:
        """Answer ``POST …/executions/{id}/getResult``: park until an execution has ended, and send its value."""
        await require_bearer(self.context, request)
        wait = await self._wanted_wait(request)
        # Whether it is an execution must show at once.
        job = await self._execution(execution_id, 0)
        if wait and not job.state.finished:
            job = await self._execution(execution_id, wait)
        if not job.state.finished:
            return request.json({"type": "running"})
        value = await self._calls.value(await self._calls.query_of(job), job, _ASYNC)
        return await request.answer_in_parts((b'{"type":"succeeded","value":', value, b"}"), "application/json")

    async def _wanted_wait(self, request: EmulatorRequest) -> int:
        """Return for how many seconds a request for a result parks. Without a body it does not."""
        if request.body.length == 0:
            return 0
        body = await request.read_json(self.context.limits.max_body)
        return min(number_field(body, "timeout", 0, 0, 2**31 - 1), LONGEST_WAIT)

    async def cancel(self, request: EmulatorRequest, execution_id: str) -> bytes:
        """Answer ``POST …/executions/{id}/cancel``: cancel an execution, unless it has ended."""
        await require_bearer(self.context, request)
        job = await self._execution(execution_id, 0)
        if job.state not in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED):
            await self.context.broker.cancel(execution_id, _CANCELED)
        return request.json({"id": execution_id})
