"""JSON that is passed on as the bytes it is, because to parse it can change it.

A parser turns large numbers into others, and drops all but one of several equal keys.
"""

from __future__ import annotations

import json

from attrs import field, frozen

from ..model.types import JSONValue


@frozen
class RawJSON:
    """A JSON value as bytes; a query that is sent unchanged."""

    content: bytes = field(repr=False)


@frozen
class KeptJob:
    """A job that an emulator keeps, as inspection shows it.

    Attributes:
        fields: Everything about it but its query.
        query: Its query, as the bytes that were sent.
    """

    fields: dict[str, JSONValue]
    query: RawJSON

    @classmethod
    def parse(cls, content: bytes) -> KeptJob:
        """Return the job in an answer, of which the query is the last field.

        Raises:
            ValueError: The answer is not such a job.
        """
        # In a string, a quotation mark follows a backslash, so this is in no string. The query may have such a field.
        fields, found, query = content.partition(b',"query":')
        if not found:
            raise ValueError("The answer has no query.")
        return cls(dict(json.loads(fields + b"}")), RawJSON(query.rstrip()[:-1]))


def with_query(fields: dict[str, JSONValue], query: JSONValue | RawJSON) -> bytes:
    """Return the JSON of a submission.

    Args:
        fields: All fields but the query.
        query: The query.
    """
    content = query.content if isinstance(query, RawJSON) else json.dumps(query).encode()
    return json.dumps(fields).encode()[:-1] + b', "query": ' + content + b"}"
