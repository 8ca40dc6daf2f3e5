"""What a function takes and returns, as its runtime posted it, and how both are converted."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence

import msgspec
from attrs import field, frozen

from ...model.queries import VERSION
from ...model.types import JSONValue
from ..errors import invalid_request
from ..function_schemas import CANNOT_PARSE_INPUTS, CANNOT_PARSE_OUTPUT, is_foundry_form
from ..json_body import finite_float, to_json
from . import errors
from .api_types import api_type, api_type_of_json_schema, api_type_of_value, unsupported
from .values import ANY, Conversion, ExactNumber, Unfit, array_of, conversion

_RAW = msgspec.json.Decoder(msgspec.Raw)

_TOO_DEEP = "JSON that is nested too deeply"

#: Matches how a value begins: the brackets of the arrays around its first element, and what comes then.
_BEGINNING = re.compile(rb"((?:[ \t\r\n]|\[)*)(.?)", re.DOTALL)

#: Matches a number without a fraction.
_WHOLE_NUMBER = re.compile(rb"-?[0-9]+(?![0-9.eE])")


class NotAValue(Exception):
    """Bytes that are not one JSON value."""


@frozen
class Parameter:
    """A parameter of a function.

    Attributes:
        required: Whether it has to be sent.
        nullable: Whether the function takes null for it. If not, a parameter that is null was not sent.
        conversion: How its values are converted.
        types: How the functions API and the ontologies API describe it.
    """

    required: bool
    nullable: bool
    conversion: Conversion
    types: tuple[JSONValue, JSONValue]

    def type(self, in_ontology: bool) -> JSONValue:
        """Return how an API describes it."""
        return self.types[in_ontology]


@frozen
class Signature:
    """What a function takes and returns.

    Attributes:
        parameters: Its parameters by name, those that are known.
        is_open: Whether it takes others, too.
        output: How its results are converted.
        elements: How the values of its results are converted if it streams them.
        output_types: How the functions API and the ontologies API describe its results.
        description: What the module says of it, or ``None``.
    """

    parameters: Mapping[str, Parameter]
    is_open: bool
    output: Conversion
    elements: Conversion
    output_types: tuple[JSONValue, JSONValue]
    description: str | None
    _alike: bool = field(init=False)
    _is_exact: bool = field(init=False)

    @_alike.default
    def _parameters_are_alike(self) -> bool:
        return all(each.conversion.same and (each.nullable or each.required) for each in self.parameters.values())

    @_is_exact.default
    def _parameters_are_exact(self) -> bool:
        return any(each.conversion.is_exact for each in self.parameters.values())

    def query_of(self, parameters: bytes, in_ontology: bool) -> bytes:
        """Check parameters, and return the query that the module reads.

        Args:
            parameters: A JSON object in UTF-8, known to be valid.
            in_ontology: Whether errors are to name types as the ontologies API does.

        Raises:
            ApiError: 400, if a parameter is missing, unknown or not of its type.
        """
        if self.is_open and not self.parameters:
            return parameters
        try:
            values = json.loads(parameters, parse_float=_exact if self._is_exact else finite_float)
        except RecursionError:
            raise invalid_request(f"'parameters' is {_TOO_DEEP}.", field="parameters") from None
        except ValueError as error:
            raise invalid_request(f"'parameters' cannot be read: {error}.", field="parameters") from None
        missing = [name for name, each in self.parameters.items() if each.required and name not in values]
        if missing:
            raise errors.missing_parameters(missing)
        if not self.is_open and not values.keys() <= self.parameters.keys():
            unknown = [name for name in values if name not in self.parameters]
            raise errors.unknown_parameters(unknown, list(self.parameters))
        query = {}
        for name, value in values.items():
            parameter = self.parameters.get(name, UNKNOWN_PARAMETER)
            if value is None and not parameter.required and not parameter.nullable:
                continue
            try:
                query[name] = parameter.conversion.inward(value)
            except Unfit as error:
                where = f" at {error.pointer}" if error.pointer else ""
                raise errors.invalid_parameter(
                    name, parameter.type(in_ontology), f"{error.why}{where}", value
                ) from None
        return parameters if self._alike else to_json(query)

    def is_whole(self, value: bytes) -> bool:
        """Return whether the only value of a result is all that the function returned, and not the start of a stream.

        The schema of a function that streams is that of a function which returns an array of the same values.
        """
        return self.output is self.elements or self.output.looks_right(outline(value))

    def value_of(self, result: bytes, of_stream: bool = False) -> bytes:
        """Return a value that the function returned as the API has it, as JSON.

        Args:
            result: The value, as the module posted it.
            of_stream: Whether it is one of the values that the function streams.

        Raises:
            NotAValue: The bytes are not one JSON value.
        """
        return _outward(self.elements if of_stream else self.output, result)

    def array_of(self, values: Sequence[bytes]) -> bytes:
        """Return the values that the function streamed as the API has them, as one JSON array.

        Args:
            values: JSON values, as the module posted them.

        Raises:
            NotAValue: One of them is nested too deeply.
        """
        # One text is read much faster than a million of them.
        return _outward(array_of(self.elements), b"[" + b",".join(values) + b"]")


#: How the API describes what nobody has described.
_ANY_TYPE = (unsupported("any"),) * 2

#: A parameter that a schema allows and does not describe.
UNKNOWN_PARAMETER = Parameter(False, True, ANY, _ANY_TYPE)

#: The signature of a function of which nothing is known.
UNKNOWN = Signature({}, True, ANY, ANY, _ANY_TYPE, None)


def signature_of_constant(value: JSONValue) -> Signature:
    """Return the signature of a query that takes anything, and always returns the same value."""
    return Signature({}, True, ANY, ANY, (api_type_of_value(value),) * 2, None)


def describe(signature: Signature, api_name: str, rid: str, in_ontology: bool) -> dict[str, JSONValue]:
    """Return what an API says of a query."""
    return {
        "apiName": api_name,
        **({} if signature.description is None else {"description": signature.description}),
        "displayName": api_name,
        "parameters": {
            name: {"dataType": each.type(in_ontology), "required": each.required}
            for name, each in signature.parameters.items()
        },
        "output": signature.output_types[in_ontology],
        "rid": rid,
        "version": VERSION,
        "typeReferences": {},
    }


def signature_of(payload: JSONValue, issues: tuple[str, ...] = ()) -> Signature:
    """Return what a function takes and returns.

    Args:
        payload: Its schema as posted, in Foundry's form or as a JSON Schema of its query.
        issues: What of the schema was not understood.
    """
    description = payload.get("description")
    if not isinstance(description, str):
        description = None
    if not is_foundry_form(payload):
        is_open = payload.get("additionalProperties") is not False
        return Signature(_of_json_schema(payload), is_open, ANY, ANY, _ANY_TYPE, description)
    inputs: dict[str, Parameter] = {}
    if CANNOT_PARSE_INPUTS not in issues:
        inputs = {each["name"]: _parameter(each) for each in payload["inputs"]}
    # The Python SDK posts no inputs for a function whose input has no type hint.
    is_open = not inputs
    if CANNOT_PARSE_OUTPUT in issues:
        return Signature(inputs, is_open, ANY, ANY, _ANY_TYPE, description)
    output = payload["output"]["single"]["dataType"]
    whole = conversion(output)
    kind = output["type"]
    elements = conversion(output[kind]["elementsType"]) if kind in ("list", "set") else whole
    return Signature(inputs, is_open, whole, elements, _types(output), description)


def _parameter(posted: JSONValue) -> Parameter:
    nullable = posted["dataType"]["type"] == "optionalType"
    # The Python SDK fills in a field of an optional type even if it declares it as required.
    required = posted.get("required", True) and not nullable
    return Parameter(required, nullable, conversion(posted["dataType"]), _types(posted["dataType"]))


def _types(data_type: JSONValue) -> tuple[JSONValue, JSONValue]:
    return api_type(data_type, False), api_type(data_type, True)


def _of_json_schema(schema: JSONValue) -> dict[str, Parameter]:
    """Return the parameters that a JSON Schema describes. Their values are checked elsewhere, by the whole schema."""
    properties = schema.get("properties")
    required = schema.get("required", [])
    return {
        name: Parameter(name in required, True, ANY, (api_type_of_json_schema(each),) * 2)
        for name, each in (properties.items() if isinstance(properties, dict) else ())
    }


def _outward(conversion: Conversion, text: bytes) -> bytes:
    """Return a value that a module posted as the API has it, both as JSON.

    Raises:
        NotAValue: The text is not one JSON value.
    """
    strict = _is_json(text)
    if conversion.same and strict:
        return text
    try:
        value = conversion.outward(_read(text, conversion.is_exact))
        return to_json(value if strict else _finite(value))
    except RecursionError:
        raise NotAValue(_TOO_DEEP) from None


def _is_json(text: bytes) -> bool:
    try:
        _RAW.decode(text)
        text.decode("utf-8")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return True


def outline(text: bytes) -> JSONValue:
    """Return a value like the first one in a text, as far as :attr:`.Conversion.looks_right` looks at it.

    Of an array it has the first element. Of an object it has nothing, so this is fast for values of any length.
    """
    found = _BEGINNING.match(text)
    assert found is not None
    depth, first = found[1].count(b"["), found[2]
    value: JSONValue
    if first == b"]" and depth:
        depth, value = depth - 1, []
    else:
        value = _leaf(first, text[found.start(2) : found.start(2) + 20])
    for _ in range(depth):
        value = [value]
    return value


def _leaf(first: bytes, text: bytes) -> JSONValue:
    if first == b"{":
        return {}
    if first == b'"':
        return text[1:].partition(b'"')[0].decode("utf-8", "replace")
    if first in (b"t", b"f"):
        return first == b"t"
    return None if first == b"n" else 0 if _WHOLE_NUMBER.match(text) else 0.0


def _exact(text: str) -> float:
    finite_float(text)
    return ExactNumber(text)


def _read(text: bytes, is_exact: bool = False) -> JSONValue:
    try:
        return json.loads(text, parse_float=ExactNumber if is_exact else None)
    except RecursionError:
        raise NotAValue(_TOO_DEEP) from None
    except ValueError:
        raise NotAValue("something that is not JSON") from None


def _finite(value: JSONValue) -> JSONValue:
    """Return a value without numbers that JSON does not have, which Python's writer writes."""
    if isinstance(value, float) and not math.isfinite(value):
        return ANY.outward(value)
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
