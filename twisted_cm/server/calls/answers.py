"""What the functions API and the ontologies API answer alike."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ...model.jobs import JobSource
from ...model.queries import VERSION
from ...model.tokens import Principal
from ...model.types import JSONValue
from ..errors import invalid_request
from ..parsing import query_parameter
from ..queries import errors
from ..queries.catalog import Query
from ..transport.request import EmulatorRequest
from .calls import Call, Calls
from .waiting import submit_and_wait

#: The most queries that are asked for at once.
MOST_IN_BATCH = 100


async def execute(calls: Calls, request: EmulatorRequest, principal: Principal, query: Query, call: Call) -> bytes:
    """Run a query, park its caller until it returns, and answer with its value.

    Raises:
        ApiError: The query cannot be run, or has not returned.
    """
    value = query.constant
    if query.target is not None:
        submission = await calls.submission(
            request, principal, query.target, query.signature, call.parameters, JobSource.FUNCTIONS_SYNC
        )
        job = await submit_and_wait(calls.context, request, query.target.runtime_id, submission, to_end=True)
        value = await calls.value(query, job)
    return await request.answer_in_parts((b'{"value":', value or b"null", b"}"), "application/json")


def refuse_transaction(request: EmulatorRequest, query: Query, prefix: str = "") -> None:
    """Refuse a call that is to run in a transaction or in a scenario, of which the emulator has none.

    Args:
        request: The request of the call.
        query: The query.
        prefix: ``async_`` for an execution.

    Raises:
        ApiError: The call names one.
    """
    transaction = query_parameter(request, "transactionId")
    if transaction is not None:
        raise errors.transaction_not_supported(query.rid, transaction, prefix)
    scenario = query_parameter(request, "scenarioRid")
    if scenario is not None:
        raise errors.scenario_not_found(scenario)


def read_batch(body: JSONValue) -> list[JSONValue]:
    """Return the elements of a body that asks for several queries.

    Raises:
        ApiError: 400 if it is no array of such a length.
    """
    if not isinstance(body, list) or not 0 < len(body) <= MOST_IN_BATCH:
        raise invalid_request(f"The request must have an array of 1 to {MOST_IN_BATCH} objects.")
    return body


def find_batch(known: Mapping[str, Query], wanted: Iterable[tuple[str, str | None]]) -> list[Query]:
    """Return those of the queries that there are.

    Args:
        known: The queries by their resource identifiers.
        wanted: Resource identifiers, each with a version or ``None``.
    """
    return [known[rid] for rid, version in wanted if rid in known and version in (None, VERSION)]
