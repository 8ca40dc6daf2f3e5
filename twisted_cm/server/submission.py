"""How a job gets into the queue of its runtime."""

from __future__ import annotations

import json

from ..model.faults import FaultKind
from ..model.jobs import Job, Submission
from . import errors
from .context import Context
from .faults import draw_fault
from .query_validation import UncheckableQuery, query_violations
from .submitted import NO_QUERY


async def submit(context: Context, runtime_id: str, submission: Submission) -> Job:
    """Queue a job, after a check of its query if the user asked for one.

    A fault may fail the job at once, or hold it back for ever.

    Raises:
        ApiError: 404 if the runtime does not have the function, 400 if the query does not fit it.
        UnknownRuntime: There is no such runtime.
        QueueFull: The queue of the runtime is full.
    """
    function = submission.query_type
    if context.validate_queries:
        await _check_query(context, runtime_id, function, submission.query or NO_QUERY)
    failing = await draw_fault(context, FaultKind.FAIL_JOB, runtime_id, function)
    dropping = failing or await draw_fault(context, FaultKind.DROP_JOB, runtime_id, function)
    job = await context.broker.enqueue(runtime_id, submission, held=dropping is not None)
    if failing is not None:
        await context.broker.fail_job(job.job_id, failing.message or "A fault was injected.")
    return job


async def _check_query(context: Context, runtime_id: str, function: str, query: bytes) -> None:
    schemas = (await context.broker.runtime(runtime_id)).schemas
    if schemas is None:
        # The runtime has not posted its functions yet, so it may have any.
        return
    schema = schemas.get(function)
    if schema is None:
        raise errors.unknown_function(function, sorted(schemas))
    try:
        violations = query_violations(schema, json.loads(query))
    except UncheckableQuery as error:
        raise errors.invalid_request(
            f"The schema of function '{function}' cannot be applied: {error}.", field="query"
        ) from None
    if violations:
        raise errors.violations(f"The query does not fit function '{function}'", violations, field="query")
