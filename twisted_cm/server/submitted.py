"""The body of a request that submits a job."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import frozen

from ..model.types import JSONValue
from . import errors
from .context import Context
from .json_fields import NotReadable, find_fields, text_value
from .parsing import required_text, text_field
from .transport.request import EmulatorRequest
from .workers import Refused, TookTooLong, WorkFailed

#: The query of a submission that has none.
NO_QUERY = b"{}"

#: The fields that a route may read.
_TEXTS = ("deployedAppRid", "deployedAppBranch", "queryType", "moduleGroupName", "jobId")

#: The most bytes of a field other than the query.
_LONGEST_TEXT = 64 * 1024


@frozen
class SubmittedBody:
    """What a submission says.

    Attributes:
        query: The query, as the bytes that were sent.
    """

    query: bytes
    _fields: dict[str, JSONValue]

    def text(self, name: str) -> str | None:
        """Return a field that is text, or ``None`` if it is absent, null or blank: see :func:`.text_field`."""
        return text_field(self._fields, name)

    def required_text(self, name: str) -> str:
        """Return a field that is text and not blank: see :func:`.required_text`."""
        return required_text(self._fields, name)


async def read_submission(context: Context, request: EmulatorRequest) -> SubmittedBody:
    """Read the body of a request that submits a job. A long one is checked outside of the reactor.

    Raises:
        ApiError: 400 if the body is not a JSON object, 413 if it is too large, 503 if it cannot be kept or checked.
    """
    values = await read_fields(context, request, [*_TEXTS, "query"])
    return SubmittedBody(values.get("query", NO_QUERY), text_values(values, _TEXTS))


async def read_fields(context: Context, request: EmulatorRequest, names: Sequence[str]) -> dict[str, bytes]:
    """Return some fields of a body that is a JSON object, as the bytes that were sent.

    A long body is checked outside of the reactor.

    Raises:
        ApiError: 400 if the body is not a JSON object, 413 if it is too large, 503 if it cannot be kept or checked.
    """
    try:
        with await request.body.receive(context.limits.max_body) as received:
            if received.file is not None:
                return await context.workers.read_fields(received.take_file(), list(names))
            text = received.data
            return {name: text[start:end] for name, (start, end) in find_fields(text).items() if name in names}
    except (NotReadable, Refused) as error:
        raise errors.invalid_request(str(error), **error.parameters) from None
    except TookTooLong:
        raise errors.invalid_request("The request body could not be checked in time. Send a smaller one.") from None
    except WorkFailed as error:
        raise errors.unavailable(f"The request body cannot be checked: {error}.") from None
    except OSError as error:
        raise errors.unavailable(f"The request body cannot be kept: {error.strerror}.") from None


def text_values(fields: Mapping[str, bytes], names: Iterable[str]) -> dict[str, JSONValue]:
    """Return the fields of a body that should be text, for :func:`.text_field` to check.

    Raises:
        ApiError: 400 if one is too long.
    """
    texts: dict[str, JSONValue] = {}
    for name in names:
        if name in fields:
            if len(fields[name]) > _LONGEST_TEXT:
                raise errors.invalid_request(f"'{name}' is longer than {_LONGEST_TEXT} bytes.", field=name)
            texts[name] = text_value(fields[name])
    return texts
