"""How the parts of a request are read and checked."""

from __future__ import annotations

import re

from werkzeug.http import parse_list_header, parse_options_header, unquote_header_value

from ..model.texts import REFUSAL, REFUSED
from ..model.types import JSONValue
from . import errors
from .transport.request import EmulatorRequest

#: The longest wait that a request may ask for, in seconds.
LONGEST_POLL = 60.0

#: A token that a client may choose. The shortest is as long as those that people write into seeds.
_TOKEN = re.compile(r"[!-~]{8,200}")


def preferred_wait(request: EmulatorRequest, default: float) -> float:
    """Return for how long a long poll parks: as ``Prefer: wait=N`` says, up to a cap, else the default.

    The first valid ``wait`` counts, and the answer then has a ``Preference-Applied`` header (RFC 7240).

    Args:
        default: Seconds.

    Returns:
        Seconds.
    """
    sent = request.header_values("Prefer")
    if not sent:
        return default
    for preference in parse_list_header(",".join(sent)):
        option, _parameters = parse_options_header(preference)
        name, _, quoted = option.partition("=")
        value = unquote_header_value(quoted.strip())
        if name.strip().lower() == "wait" and value.isascii() and value.isdigit() and len(value) < 10:
            wait = min(int(value), int(LONGEST_POLL))
            request.setHeader("Preference-Applied", f"wait={wait}")
            return float(wait)
    return default


def text_field(body: JSONValue, name: str) -> str | None:
    """Return a field of a request body that is text, or ``None`` if it is absent, null or blank.

    Args:
        body: The body, as JSON.

    Raises:
        ApiError: 400, naming the field, if it is of another type.
    """
    value = _field(body, name)
    return None if value is None or not _text(value, name).strip() else value


def required_text(body: JSONValue, name: str) -> str:
    """Return a field of a request body that is text and not blank.

    Args:
        body: The body, as JSON.

    Raises:
        ApiError: 400, naming the field, if it is of another type, missing or blank.
    """
    value = _field(body, name)
    if value is None:
        raise errors.invalid_request(f"'{name}' is missing.", field=name)
    text = _text(value, name)
    if not text.strip():
        raise errors.invalid_request(f"'{name}' must not be blank.", field=name)
    return text


def flag_field(body: JSONValue, name: str) -> bool:
    """Return a field of a request body that is true or false; absent or null is false.

    Args:
        body: The body, as JSON.

    Raises:
        ApiError: 400, naming the field, if it is of another type.
    """
    value = _field(body, name)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise errors.invalid_request(f"'{name}' must be true or false.", field=name)
    return value


def number_field(body: JSONValue, name: str, default: int, least: int, most: int) -> int:
    """Return a field of a request body that is a whole number.

    Args:
        body: The body, as JSON.
        name: The field.
        default: The value if the field is absent or null.
        least: The least value.
        most: The greatest value.

    Raises:
        ApiError: 400, naming the field, if it is of another type or out of range.
    """
    value = _field(body, name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise errors.invalid_request(f"'{name}' must be a whole number from {least} to {most}.", field=name)
    return value


def token_field(body: JSONValue, name: str) -> str | None:
    """Return a field of a request body that is a token, or ``None`` if it is absent, null or blank.

    Args:
        body: The body, as JSON.
        name: The field.

    Raises:
        ApiError: 400, naming the field, if it cannot be a token.
    """
    token = text_field(body, name)
    if token is not None and not _TOKEN.fullmatch(token):
        raise errors.invalid_request(
            f"'{name}' must have 8 to 200 printable ASCII characters without spaces.", field=name
        )
    return token


def query_parameter(request: EmulatorRequest, name: str) -> str | None:
    """Return a parameter of the request's query string, or ``None`` if it is absent or blank.

    Raises:
        ApiError: 400, naming the parameter, if it is given twice or not UTF-8.
    """
    return text_field({name: _parameter(request, name)}, name)


def required_query_parameter(request: EmulatorRequest, name: str) -> str:
    """Return a parameter of the request's query string.

    Raises:
        ApiError: 400, naming the parameter, if it is missing, blank, given twice or not UTF-8.
    """
    return required_text({name: _parameter(request, name)}, name)


def _field(body: JSONValue, name: str) -> JSONValue:
    if not isinstance(body, dict):
        raise errors.invalid_request("The request body must be a JSON object.")
    return body.get(name)


def _text(value: JSONValue, name: str) -> str:
    if not isinstance(value, str):
        raise errors.invalid_request(f"'{name}' must be a string.", field=name)
    if REFUSED.search(value):
        raise errors.invalid_request(f"'{name}' {REFUSAL}.", field=name)
    return value


def _parameter(request: EmulatorRequest, name: str) -> str | None:
    values = request.args.get(name.encode("ascii"), [])
    if len(values) > 1:
        raise errors.invalid_request(f"'{name}' is given {len(values)} times. Give it once.", field=name)
    try:
        return values[0].decode("utf-8") if values else None
    except UnicodeDecodeError:
        raise errors.invalid_request(f"'{name}' is not UTF-8.", field=name) from None


def whole_number(request: EmulatorRequest, name: str, most: int) -> int | None:
    """Return a parameter of the query that is a whole number from 1 to ``most``, or ``None`` if it is not there.

    Raises:
        HTTPError: It is something else.
    """
    value = query_parameter(request, name)
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 20 and 1 <= int(value) <= most):
        raise errors.invalid_request(f"'{name}' must be a whole number from 1 to {most}, not '{value}'.", field=name)
    return int(value)
