"""Queries that cannot be checked, because their runtime has posted no schemas."""

from __future__ import annotations

from twisted.logger import Logger

from .logged_once import LoggedOnce
from .transport.request import EmulatorRequest

#: The header of an answer whose query was not checked, though ``validate_queries`` is set, and its value.
SKIPPED_HEADER, SKIPPED = "X-Query-Validation", "skipped"


class UncheckedQueries:
    """Says that the queries of a runtime are not checked: in each answer, and once in the log.

    The log says it again after the runtime has posted schemas and lost them. If emulators share a Redis, each of them
    logs, and knows of the schemas that were posted to it or that it has checked a query against.
    """

    _log = Logger()

    def __init__(self) -> None:
        self._logged: LoggedOnce[str] = LoggedOnce()

    def skipped(self, runtime_id: str, request: EmulatorRequest | None) -> None:
        """Note that a query was not checked. If a request submitted it, say so in its answer."""
        if request is not None:
            request.setHeader(SKIPPED_HEADER, SKIPPED)
        if self._logged.is_due(runtime_id):
            self._log.warn(
                "runtime {runtime_id}: its queries are not checked, because it has posted no schemas;"
                " start its module, or restart it, so that it posts them",
                runtime_id=runtime_id,
            )

    def has_schemas(self, runtime_id: str) -> None:
        """Note that a runtime has posted schemas, so that their loss is logged."""
        self._logged.forget(runtime_id)
