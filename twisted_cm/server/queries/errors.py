"""The errors of queries (functions API, section 3).

Their names, statuses and parameters are those of the classes in ``foundry_sdk.v2.functions.errors`` and
``foundry_sdk.v2.ontologies.errors``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from ...model.queries import VERSION
from ...model.raised import first_line
from ...model.types import JSONValue
from ..errors import ApiError

#: The most characters of a value that is repeated in an error.
LONGEST_SHOWN = 1000

#: What a function reports that raised an error for the user, which is known by the name of its class as in Foundry.
_USER_FACING = re.compile(r"(?:[\w.<>]+\.)?UserFacingError: (?P<message>.*)", re.DOTALL)

_TRACEBACK = "Traceback (most recent call last):"

#: Stands for a value that is not known.
_UNKNOWN = object()


def query_not_found(api_name: str, in_ontology: bool, why: str = "") -> ApiError:
    """Make the error for a name that no function has."""
    field = "query" if in_ontology else "queryApiName"
    return ApiError(404, "query_not_found", f"There is no query '{api_name}'.{why and ' '}{why}", {field: api_name})


def ambiguous_query(api_name: str, in_ontology: bool, runtimes: Iterable[str]) -> ApiError:
    """Make the error for a name that functions of several runtimes have."""
    named = ", ".join(f"'{each}'" for each in runtimes)
    return query_not_found(
        api_name,
        in_ontology,
        f"Several runtimes have a function of that name: {named}. Give each an API name under"
        " 'foundry.compute_modules.queries' in the seed.",
    )


def query_version_not_found(api_name: str, version: str) -> ApiError:
    """Make the error for a version that a query does not have."""
    return ApiError(
        404,
        "query_version_not_found",
        f"The query '{api_name}' has no version '{version}'. The version of a compute module's function is {VERSION}.",
        {"apiName": api_name, "version": version},
    )


def function_not_found(rid: str) -> ApiError:
    """Make the error for a resource identifier that no function has."""
    return ApiError(404, "function_not_found", f"There is no function '{rid}'.", {"functionRid": rid})


def ontology_not_found(name: str, known: Sequence[str]) -> ApiError:
    """Make the error for an ontology that does not exist."""
    field = "ontologyRid" if name.startswith("ri.") else "apiName"
    return ApiError(
        404, "ontology_not_found", f"There is no ontology '{name}'. There is: {', '.join(known)}.", {field: name}
    )


def execution_not_found(execution_id: str) -> ApiError:
    """Make the error for an execution that does not exist."""
    return ApiError(
        404,
        "execution_not_found",
        f"There is no execution '{execution_id}'. It was never submitted, or it is no longer kept.",
        {"executionId": execution_id},
    )


def missing_parameters(missing: Sequence[str]) -> ApiError:
    """Make the error for parameters that are required and were not sent."""
    return ApiError(400, "missing_parameter", f"Required: {', '.join(missing)}.", {"parameters": list(missing)})


def unknown_parameters(unknown: Sequence[str], expected: Sequence[str]) -> ApiError:
    """Make the error for parameters that the function does not have."""
    return ApiError(
        400,
        "unknown_parameter",
        f"Unknown: {', '.join(unknown)[:LONGEST_SHOWN]}. The function has: {', '.join(expected) or 'no parameters'}.",
        {"unknownParameters": list(unknown)[:20], "expectedParameters": list(expected)},
    )


def invalid_parameter(name: str, data_type: JSONValue, why: str, value: JSONValue = _UNKNOWN) -> ApiError:
    """Make the error for a parameter whose value is not of its type.

    Args:
        name: The parameter.
        data_type: The type, as in the API.
        why: What is wrong, as a sentence without its subject.
        value: The value, which is shown if it is known and short.
    """
    parameters: dict[str, JSONValue] = {"parameterDataType": data_type, "parameterId": name}
    if value is not _UNKNOWN and len(repr(value)) <= LONGEST_SHOWN:
        parameters["parameterValue"] = value
    return ApiError(400, "invalid_query_parameter_value", f"The parameter '{name}' {why}.", parameters)


def invalid_output(rid: str, data_type: JSONValue, why: str, prefix: str = "") -> ApiError:
    """Make the error for a result that is no value."""
    parameters = {"outputDataType": data_type, **_function(rid)}
    return ApiError(400, f"{prefix}invalid_query_output_value", f"The function returned {why}.", parameters)


def transaction_not_supported(rid: str, transaction: str, prefix: str = "") -> ApiError:
    """Make the error for a query that is to run in a transaction. The emulator has none."""
    message = f"There is no transaction '{transaction}': functions of compute modules do not run in transactions."
    return ApiError(
        400, f"{prefix}function_not_supported_with_transaction", message, {**_function(rid), "message": message}
    )


def scenario_not_found(scenario: str) -> ApiError:
    """Make the error for a scenario that a query is to run in. The emulator has none."""
    return ApiError(
        404, "ontology_scenario_not_found", f"There is no scenario '{scenario}'.", {"scenarioRid": scenario}
    )


def branch_not_found(branch: str) -> ApiError:
    """Make the error for a branch that no deployed app of a function is on."""
    return ApiError(
        404,
        "foundry_branch_not_found",
        f"No deployed app with the function is on the branch '{branch}'.",
        {"branch": branch},
    )


def invalid_page_token(token: str) -> ApiError:
    """Make the error for a page token that was not handed out."""
    return ApiError(
        400, "invalid_page_token", f"The page token '{token}' is unknown. Send it as received.", {"pageToken": token}
    )


def invalid_page_size(size: str, most: int) -> ApiError:
    """Make the error for a page size that is not a number, too small or too large."""
    return ApiError(
        400, "invalid_page_size", f"The page size must be a number from 1 to {most}, not '{size}'.", {"pageSize": size}
    )


def raised(rid: str, message: str, prefix: str = "") -> ApiError:
    """Make the error for a function that raised.

    Args:
        rid: The function.
        message: What the SDK reported, with a traceback or without one.
        prefix: ``async_`` for the result of an execution.
    """
    user_facing = _USER_FACING.fullmatch(_last_exception(message))
    if user_facing is not None:
        shown = user_facing["message"].strip()
        return ApiError(
            409, f"{prefix}query_encountered_user_facing_error", shown, {**_function(rid), "message": shown}
        )
    first = first_line(message)
    parameters: dict[str, JSONValue] = {**_function(rid), "message": first, "parameters": {}}
    if _TRACEBACK in message:
        parameters["stacktrace"] = message[message.index(_TRACEBACK) :]
    return ApiError(400, f"{prefix}query_runtime_error", first, parameters)


def _last_exception(message: str) -> str:
    """Return the exception that ends a traceback, with the name of its class; without a traceback, all of it."""
    lines = message.rpartition(_TRACEBACK)[2].splitlines(keepends=True)
    # The lines of the frames are indented.
    start = next((number for number, line in enumerate(lines) if line.strip() and not line.startswith(" ")), 0)
    return "".join(lines[start:])


def not_converted(reason: str) -> ApiError:
    """Make the error for a result that the emulator fails to convert. A 503 would make clients run the job again."""
    return ApiError(500, "internal", f"The result cannot be converted: {reason}.")


def failed(rid: str, reason: str, prefix: str = "") -> ApiError:
    """Make the error for a job that failed before its function returned or raised."""
    return ApiError(
        400, f"{prefix}query_runtime_error", reason, {**_function(rid), "message": reason, "parameters": {}}
    )


def canceled(rid: str, reason: str, prefix: str = "") -> ApiError:
    """Make the error for a job that was canceled."""
    return ApiError(400, f"{prefix}query_canceled", reason, _function(rid))


def time_exceeded(rid: str, description: str, prefix: str = "") -> ApiError:
    """Make the error for a function that took too long."""
    return ApiError(400, f"{prefix}query_time_exceeded_limit", description, _function(rid))


def not_available(rid: str, description: str, prefix: str = "") -> ApiError:
    """Make the error for a function of which no replica is connected."""
    return ApiError(500, f"{prefix}query_deployment_not_available", description, _function(rid))


def _function(rid: str) -> dict[str, JSONValue]:
    return {"functionRid": rid, "functionVersion": VERSION}
