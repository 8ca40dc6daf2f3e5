"""Test how whole queries and results are converted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from server.query_steps import function, listed, simple

from twisted_cm.model.queries import function_rid
from twisted_cm.server.errors import ApiError
from twisted_cm.server.queries.errors import raised
from twisted_cm.server.queries.results import convert_result
from twisted_cm.server.queries.signature import NotAValue, Signature, outline, signature_of

ROWS = {"type": "list", "list": {"elementsType": listed("long")}}


def returning(output: dict[str, Any]) -> Signature:
    return signature_of(function("f", output))


def taking(**inputs: dict[str, Any]) -> Signature:
    return signature_of(function("f", simple("string"), **inputs))


@pytest.mark.parametrize(
    ("text", "like"),
    [
        (b"[]", []),
        (b" [ [] , 1]", [[]]),
        (b"[[1, 2], [3]]", [[0]]),
        (b'[{"a": [', [{}]),
        (b'"NaN"', "NaN"),
        (b'"a long text that goes on for some time"', "a long text that go"),
        (b"-12", 0),
        (b"12.5", 0.0),
        (b"1e5", 0.0),
        (b"NaN", 0.0),
        (b"true", True),
        (b"false", False),
        (b"null", None),
    ],
)
def test_the_beginning_of_a_value_shows_what_it_is(text: bytes, like: Any) -> None:
    assert json.dumps(outline(text)) == json.dumps(like)


@pytest.mark.parametrize(
    ("output", "posted", "ends", "answered"),
    [
        (simple("long"), b" 5 ", (), b'"5"'),
        (simple("double"), b"1.50", (), b"1.50"),
        (simple("double"), b"NaN", (), b'"NaN"'),
        (simple("decimal"), b"12345678901234567890.123", (), b'"12345678901234567890.123"'),
        (listed("decimal"), b"[1.10, 2]", (), b'["1.10","2"]'),
        (listed("long"), b"[1, 2]", (), b'["1","2"]'),
        (listed("long"), b"321", (1, 2, 3), b'["3","2","1"]'),
        (listed("long"), b"321", (3,), b'["321"]'),
        (listed("double"), b"1.50 2", (), b"[1.50,2]"),
        (listed("double"), b"NaN 2", (), b'["NaN",2]'),
        (ROWS, b"[1]", (), b'[["1"]]'),
        (ROWS, b"[[1]]", (), b'[["1"]]'),
        (ROWS, b"[1][2]", (), b'[["1"],["2"]]'),
        # A function without types may stream, too.
        (simple("string"), b'{"a": 1}', (), b'{"a": 1}'),
        (simple("string"), b'{"a": 1}"b"', (), b'[{"a": 1},"b"]'),
        (simple("string"), b"12", (1, 2), b"[1,2]"),
    ],
)
def test_results_are_one_value_or_the_array_of_those_that_were_streamed(
    output: dict[str, Any], posted: bytes, ends: tuple[int, ...], answered: bytes
) -> None:
    assert convert_result(returning(output), posted, ends) == answered


@pytest.mark.parametrize("posted", [b"", b" ", b"oops", b"[1", b"\xff", b"\x1c", b"[" * 5000 + b"]" * 5000])
def test_what_is_no_value_is_refused(posted: bytes) -> None:
    with pytest.raises(NotAValue):
        convert_result(returning(simple("long")), posted)


def test_decimals_reach_the_module_with_all_their_digits() -> None:
    signature = taking(price=simple("decimal"), rate=simple("double"))
    query = signature.query_of(b'{"price": 12345678901234567890.10, "rate": 0.5}', False)
    assert json.loads(query) == {"price": "12345678901234567890.10", "rate": 0.5}


@pytest.mark.parametrize("kind", ["double", "decimal"])
def test_numbers_that_are_larger_than_numbers_can_be_are_refused(kind: str) -> None:
    for signature in (taking(x=simple(kind)), taking(x=simple(kind), a=simple("long"))):
        with pytest.raises(ApiError, match="1e400 is larger than a number can be") as refused:
            signature.query_of(b'{"x": 1e400, "a": "5"}', False)
        assert refused.value.status == 400


def test_every_function_has_a_resource_identifier_of_its_own() -> None:
    names = [("a/b", "c"), ("a", "b/c"), ("constant", "x"), ("a", "\ud800"), ("a", "\udfff")]
    assert len({function_rid(*each) for each in names}) == len(names)


CHAINED = """no: Traceback (most recent call last):
  File "m.py", line 1, in f
m.UserFacingError: try again later

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "m.py", line 2, in f
KeyError: 'password'
"""


def test_only_the_exception_that_ended_the_function_is_for_the_user() -> None:
    error = raised("ri.a.b.c.d", CHAINED)
    assert (error.status, error.error) == (400, "query_runtime_error")
    last = CHAINED.replace("m.UserFacingError: try again later", "KeyError: 'password'")
    last = last[: last.rindex("KeyError")] + "m.UserFacingError: try again\nlater\n"
    error = raised("ri.a.b.c.d", last)
    assert (error.status, error.description) == (409, "try again\nlater")
