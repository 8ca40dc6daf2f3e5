"""A call of a query: from what the application sent to the value that it gets."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import evolve, frozen

from ...broker.interface import UnknownJob
from ...model.jobs import Job, JobSource, JobState, Submission
from ...model.queries import VERSION, Ontology, function_rid
from ...model.raised import MOST_BYTES, MOST_CHARACTERS, raised_message
from ...model.runtimes import FunctionSchema
from ...model.tokens import Principal
from ..context import Context
from ..errors import ApiError, invalid_request, unavailable
from ..function_schemas import is_foundry_form
from ..idempotency import submission_key
from ..job_time_limits import ran_too_long
from ..not_connected import why_nothing_runs
from ..parsing import flag_field, text_field
from ..queries import errors
from ..queries.catalog import Query, Target
from ..queries.results import convert_result
from ..queries.signature import UNKNOWN, UNKNOWN_PARAMETER, NotAValue, Signature
from ..query_validation import UncheckableQuery
from ..submitted import read_fields, text_values
from ..transport.request import EmulatorRequest
from ..workers import Refused, TookTooLong, WorkFailed

#: Parameters and results of more bytes are converted outside of the reactor.
CONVERTED_AT_ONCE = 16 * 1024

_TEXTS = ("version", "branch", "ontology", "latestVersionResolution")
_FIELDS = ("parameters", "includePrerelease", *_TEXTS)
_RESOLUTIONS = ("PUBLISH_TIME", "SEMANTIC_VERSION")


@frozen
class Call:
    """What an application sent.

    Attributes:
        parameters: The parameters, as the bytes that were sent: a JSON object.
    """

    parameters: bytes
    version: str | None = None
    branch: str | None = None
    ontology: str | None = None


async def read_call(context: Context, request: EmulatorRequest) -> Call:
    """Read the body of a request that calls a query.

    Raises:
        ApiError: As :func:`.read_fields`; 400, too, if a field is missing or wrong.
    """
    fields = await read_fields(context, request, _FIELDS)
    texts = text_values(fields, _TEXTS)
    version, resolution = text_field(texts, "version"), text_field(texts, "latestVersionResolution")
    if resolution not in (None, *_RESOLUTIONS):
        raise invalid_request(
            f"'latestVersionResolution' must be {' or '.join(_RESOLUTIONS)}, not '{resolution}'.",
            field="latestVersionResolution",
        )
    prerelease = fields.get("includePrerelease", b"null")
    known = {b"true": True, b"false": False, b"null": None}
    includes = flag_field({"includePrerelease": known.get(prerelease, "other")}, "includePrerelease")
    if version is not None and includes:
        message = "'includePrerelease' says which version is the latest. Leave it out, or leave 'version' out."
        raise ApiError(400, "invalid_version_resolution_parameters", message, {"message": message})
    parameters = fields.get("parameters", b"null")
    if parameters == b"null":
        raise invalid_request("'parameters' is missing. Send an object; it may be empty.", field="parameters")
    if parameters[:1] != b"{":
        raise invalid_request("'parameters' must be a JSON object.", field="parameters")
    return Call(parameters, version, text_field(texts, "branch"), text_field(texts, "ontology"))


def check_version(query: Query, version: str | None) -> None:
    """Make sure that a query has the version that was asked for.

    Raises:
        ApiError: 404 if it does not.
    """
    if version is not None and version != VERSION:
        raise errors.query_version_not_found(query.api_name, version)


@frozen
class Calls:
    """What all routes of one API do with a call.

    Attributes:
        context: What the routes share.
        in_ontology: Whether this is the ontologies API. Otherwise it is the functions API.
    """

    context: Context
    in_ontology: bool

    async def find(self, api_name: str, call: Call, ontology: Ontology | None = None) -> Query:
        """Return the query that a call is for.

        Args:
            api_name: Its name.
            call: The call, which may name an ontology, too.
            ontology: The ontology to look in.

        Raises:
            ApiError: 404 if there is no such query, branch, version or ontology.
        """
        if call.ontology is not None:
            ontology = self.context.catalog.ontology(call.ontology)
        query = await self.context.catalog.find(api_name, ontology, self.in_ontology, call.branch)
        check_version(query, call.version)
        return query

    async def submission(
        self,
        request: EmulatorRequest,
        principal: Principal,
        target: Target,
        signature: Signature,
        parameters: bytes,
        source: JobSource,
    ) -> Submission:
        """Return the job that a call is for, with its parameters checked and converted.

        Raises:
            ApiError: 400 if the parameters do not fit the function, 503 if they cannot be checked.
        """
        query, app = parameters, target.binding
        if target.schema is None:
            self.context.unchecked_queries.skipped(target.runtime_id, request)
        else:
            query = await self._convert(target.schema, signature, parameters)
        return Submission(
            target.function,
            query,
            source,
            None if app is None else app.deployed_app_rid,
            None if app is None else app.branch,
            principal.login,
            key=submission_key(request, f"user {principal.login}"),
            scopes=principal.scopes,
            admin=self.context.credentials.holds_admin_token(principal),
        )

    async def _convert(self, schema: FunctionSchema, signature: Signature, parameters: bytes) -> bytes:
        try:
            if len(parameters) <= CONVERTED_AT_ONCE:
                query = signature.query_of(parameters, self.in_ontology)
            else:
                query = await self.context.workers.convert_parameters(schema, parameters, self.in_ontology)
            if is_foundry_form(schema.payload):
                return query
            violations = await self.context.workers.violations(schema, query)
        except (Refused, UncheckableQuery, TookTooLong) as error:
            raise invalid_request(f"The parameters cannot be checked: {error}.", field="parameters") from None
        except (WorkFailed, OSError) as error:
            raise unavailable(f"The parameters cannot be checked: {error}.") from None
        if violations:
            name = violations[0].pointer[1:].partition("/")[0].replace("~1", "/").replace("~0", "~")
            parameter = signature.parameters.get(name, UNKNOWN_PARAMETER)
            raise errors.invalid_parameter(
                name, parameter.type(self.in_ontology), f"does not fit its schema: {violations[0]}"
            )
        return query

    async def value(self, query: Query, job: Job, prefix: str = "") -> bytes:
        """Return the value of a job that has ended, as JSON.

        Args:
            query: The query that it ran.
            job: The job.
            prefix: ``async_`` for the errors of an execution.

        Raises:
            ApiError: The job has not succeeded, its function raised, or its result is no value.
        """
        await self.refuse_unless_returned(query, job, prefix)
        query = await self.with_schema(query)
        result = job.result
        assert result is not None
        try:
            data = await result.read(0, result.size)
            ends = await result.ends(0, result.size)
            return await self.convert_result(query, data, ends)
        except UnknownJob:
            raise errors.failed(query.rid, "The result of the job is no longer kept.", prefix) from None
        except NotAValue as error:
            raise self.invalid_output(query, str(error), prefix) from None

    async def refuse_unless_returned(self, query: Query, job: Job, prefix: str = "") -> None:
        """Raise the error for a job that has not returned anything, or not within the time that its caller has."""
        if job.state is JobState.FAILED:
            reason = job.error_message or "The job failed."
            if ran_too_long(job):
                raise errors.time_exceeded(query.rid, reason, prefix)
            raise errors.failed(query.rid, reason, prefix)
        if job.state is JobState.CANCELED:
            raise errors.canceled(query.rid, job.error_message or "The job was canceled.", prefix)
        if job.raised is not None:
            raise errors.raised(query.rid, await _all_that_was_raised(job, job.raised), prefix)
        if job.result is None or not job.state.finished:
            why = None if job.state is JobState.RUNNING else await why_nothing_runs(self.context, job.runtime_id)
            if why is not None:
                raise errors.not_available(query.rid, why, prefix)
            limit = self.context.limits.sync_timeout
            raise errors.time_exceeded(query.rid, f"The function did not return within {limit:g} seconds.", prefix)

    async def convert_result(
        self, query: Query, data: bytes, ends: Sequence[int] = (), of_stream: bool = False
    ) -> bytes:
        """Return bytes that a module posted as one JSON value of the API.

        Args:
            query: The query.
            data: A whole result, or one of the values that the function streams.
            ends: Where values of a whole result end, if they touch.
            of_stream: Whether it is one of the values.

        Raises:
            NotAValue: It is something else.
            ApiError: 500 if a long value cannot be converted.
        """
        if len(data) <= CONVERTED_AT_ONCE:
            return convert_result(query.signature, data, ends, of_stream)
        schema = None if query.target is None else query.target.schema
        try:
            return await self.context.workers.convert_result(schema, data, ends, of_stream)
        except (Refused, TookTooLong) as error:
            raise NotAValue(f"something that cannot be converted ({error})") from None
        except (WorkFailed, OSError) as error:
            raise errors.not_converted(str(error)) from None

    def invalid_output(self, query: Query, why: str, prefix: str = "") -> ApiError:
        """Make the error for a result that is no value."""
        return errors.invalid_output(query.rid, query.signature.output_types[self.in_ontology], why, prefix)

    async def with_schema(self, query: Query) -> Query:
        """Return a query with the schema that its runtime has posted meanwhile, if it had posted none before."""
        if query.target is None or query.target.schema is not None:
            return query
        found = await self.context.broker.functions(query.target.function, query.target.runtime_id)
        if not found:
            return query
        schema = found[0].schema
        signature = self.context.catalog.signature(query.target.runtime_id, schema)
        return evolve(query, signature=signature, target=evolve(query.target, schema=schema))

    async def query_of(self, job: Job) -> Query:
        """Return the query that a job ran, with the schema that its function has now."""
        function = job.submission.query_type
        target = Target(job.runtime_id, function, None, None)
        return await self.with_schema(Query(function, function_rid(job.runtime_id, function), UNKNOWN, target))


async def _all_that_was_raised(job: Job, kept: str) -> str:
    """Return what a function raised with the whole traceback, of which a job keeps the beginning."""
    if job.result is None or len(kept) < MOST_CHARACTERS:
        return kept
    try:
        return raised_message(job.job_id, await job.result.read(0, job.result.size), MOST_BYTES) or kept
    except UnknownJob:
        return kept
