"""How a job gets into the queue of its runtime."""

from __future__ import annotations

from ..model.faults import FaultKind
from ..model.jobs import Job, Submission
from ..model.runtimes import FunctionSchema
from . import errors
from .context import Context
from .query_validation import UncheckableQuery, check_query, is_quick
from .submitted import NO_QUERY
from .transport.request import EmulatorRequest
from .workers import Refused, TookTooLong, WorkFailed


async def submit(
    context: Context, runtime_id: str, submission: Submission, request: EmulatorRequest | None = None
) -> Job:
    """Queue a job, after a check of its query if the user asked for one.

    A fault may fail the job at once, or hold it back for ever. If the submission was sent before with the same key, its
    job is returned. If the runtime has posted no schemas, its queries are not checked.

    Args:
        request: The request that submits the job, if there is one. Its answer says if the query is not checked.

    Raises:
        ApiError: 404 if the runtime does not have the function, 400 if the query does not fit it or cannot be
            checked in time, 503 if no worker can check it.
        UnknownRuntime: There is no such runtime.
        IdempotencyKeyReused: The key was sent before with another submission.
        QueueFull: The queue of the runtime is full.
    """
    function = submission.query_type
    if submission.key is not None and (context.validate_queries or context.faults.active):
        # The checks and the faults were for the first time that it was sent.
        former = await context.broker.submitted(submission)
        if former is not None:
            if context.validate_queries:
                await _schemas(context, runtime_id, request)
            return former
    if context.validate_queries:
        schemas = await _schemas(context, runtime_id, request)
        if schemas is not None:
            await _check_query(context, schemas, function, submission.query or NO_QUERY)
    failing = dropping = None
    if context.faults.active:
        failing = await context.faults.draw(FaultKind.FAIL_JOB, runtime_id, function)
        dropping = failing or await context.faults.draw(FaultKind.DROP_JOB, runtime_id, function)
    job = await context.broker.enqueue(runtime_id, submission, held=dropping is not None)
    if failing is not None:
        await context.broker.fail_job(job.job_id, failing.message or "A fault was injected.")
    return job


async def _schemas(
    context: Context, runtime_id: str, request: EmulatorRequest | None
) -> dict[str, FunctionSchema] | None:
    """Return the schemas to check a query against. If there are none, the runtime may have any function: say so."""
    schemas = (await context.broker.runtime(runtime_id)).schemas
    if schemas is None:
        context.unchecked_queries.skipped(runtime_id, request)
    else:
        context.unchecked_queries.has_schemas(runtime_id)
    return schemas


async def _check_query(context: Context, schemas: dict[str, FunctionSchema], function: str, query: bytes) -> None:
    schema = schemas.get(function)
    if schema is None:
        raise errors.unknown_function(function, sorted(schemas))
    try:
        if is_quick(schema, query):
            violations = check_query(schema, query)
        else:
            violations = await context.workers.violations(schema, query)
    except UncheckableQuery as error:
        raise errors.invalid_request(
            f"The schema of function '{function}' cannot be applied: {error}.", field="query"
        ) from None
    except TookTooLong as error:
        raise errors.invalid_request(
            f"The query could not be checked within {error.limit:g} seconds against the schema of function"
            f" '{function}'. Simplify the schema or the query, or turn validate_queries off.",
            field="query",
        ) from None
    except Refused as error:
        raise errors.invalid_request(f"The query cannot be checked: {error}", field="query") from None
    except (WorkFailed, OSError) as error:
        raise errors.unavailable(f"The query cannot be checked: {error}.") from None
    if violations:
        raise errors.violations(f"The query does not fit function '{function}'", violations, field="query")
