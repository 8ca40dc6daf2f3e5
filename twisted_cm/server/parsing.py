"""What a request says, checked."""

from __future__ import annotations

import re
from urllib.parse import unquote

from werkzeug.routing import BaseConverter, ValidationError

from ..model.types import JSONValue
from . import errors
from .transport.request import EmulatorRequest

#: The longest poll that a request may ask for, in seconds.
LONGEST_POLL = 60.0


_WAIT = re.compile(r"(?:^|,)\s*wait\s*=\s*\"?(\d{1,9})\"?\s*(?:$|[,;])", re.IGNORECASE)


def preferred_wait(request: EmulatorRequest, default: float) -> float:
    """
    How long a long-poll parks: C{Prefer: wait=N} (RFC 7240), up to a cap, else the default.

    @param default: seconds.
    @return: seconds; the answer says C{Preference-Applied} where the preference decided.
    """
    match = _WAIT.search(",".join(request.header_values("Prefer")))
    if match is None:
        return default
    wait = min(int(match.group(1)), int(LONGEST_POLL))
    request.setHeader("Preference-Applied", f"wait={wait}")
    return float(wait)


class IdConverter(BaseConverter):
    """An id in a path: percent-encoded there, decoded once, and text."""

    regex = "[^/]+"
    part_isolating = True

    def to_python(self, value: str) -> str:
        """
        @raise ValidationError: the id is not UTF-8, or holds a NUL; no route matches then.
        """
        try:
            decoded = unquote(value, errors="strict")
        except UnicodeDecodeError:
            raise ValidationError from None
        if "\0" in decoded:
            raise ValidationError
        return decoded


def text_field(body: JSONValue, name: str, required: bool = False) -> str | None:
    """
    One field of a request body that is text.

    @param body: the body, as JSON.
    @return: the text, or L{None} where the field is absent or null and not required.
    @raise ApiError: 400, naming the field, if it is of another type, or missing or blank and required.
    """
    if not isinstance(body, dict):
        raise errors.invalid_request("The request body must be a JSON object.")
    value = body.get(name)
    if value is None and not required:
        return None
    if not isinstance(value, str):
        raise errors.invalid_request(f"'{name}' must be a string.", field=name)
    if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
        raise errors.invalid_request(f"'{name}' holds a character that is not allowed.", field=name)
    if not value.strip():
        if required:
            raise errors.invalid_request(f"'{name}' must not be blank.", field=name)
        return None
    return value


def query_parameter(request: EmulatorRequest, name: str, required: bool = False) -> str | None:
    """
    @return: a parameter of the request's query string, or L{None} where it is absent or blank and not required.
    @raise ApiError: 400, naming it, if it is there twice, not UTF-8, or missing or blank and required.
    """
    values = request.args.get(name.encode("ascii"), [])
    if len(values) > 1:
        raise errors.invalid_request(f"'{name}' is there twice.", field=name)
    try:
        text = values[0].decode("utf-8") if values else None
    except UnicodeDecodeError:
        raise errors.invalid_request(f"'{name}' is not UTF-8.", field=name) from None
    return text_field({name: text}, name, required)


def flag_field(body: JSONValue, name: str) -> bool:
    """
    @return: one field of a request body that is true or false; absent or null is false.
    @raise ApiError: 400, naming the field, if it is anything else.
    """
    value = body.get(name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise errors.invalid_request(f"'{name}' must be true or false.", field=name)
    return value
