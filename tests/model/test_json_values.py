"""Test how JSON values are found in bytes, and what is refused."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from twisted_cm.model.json_values import LONGEST_NUMBER, ValueScanner, Wants, runs_on

#: A busy machine may take long for an example.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=10), inner, max_size=5),
    max_leaves=20,
)
LAYOUTS: list[dict[str, Any]] = [{}, {"separators": (",", ":")}, {"indent": 1}, {"ensure_ascii": False}]


def cut(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    """Return data in pieces."""
    places = [0, *sorted(each % (len(data) + 1) for each in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def scan(pieces: Iterable[bytes], ends: Sequence[int] | None = None) -> list[bytes]:
    """Return all values. With ends, tell them when they are asked for."""
    scanner = ValueScanner(marked=ends is not None)
    found = []
    for final, piece in [*((False, piece) for piece in pieces), (True, b"")]:
        scanner.add(piece, final)
        while (each := scanner.find()) is not Wants.BYTES:
            if isinstance(each, bytes):
                found.append(each)
            else:
                start = scanner.ends_wanted
                end = min(start + 3, scanner.received)
                assert ends is not None and end > start
                scanner.note_ends([each for each in ends if start < each <= end], end)
    return found


def equal(one: Any, other: Any) -> bool:
    """Return whether two JSON values are the same, NaN included."""
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(equal, one, other))
    if isinstance(one, dict):
        return list(one) == list(other) and all(equal(one[key], other[key]) for key in one)
    return type(one) is type(other) and one == other


@settings(PATIENT)
@given(
    st.lists(st.tuples(JSON, st.sampled_from(LAYOUTS), st.sampled_from(["\n", " ", "\r\n\t "]))),
    st.lists(st.integers(0, 10_000)),
)
def test_values_come_out_as_they_went_in_however_they_are_cut(
    posted: list[tuple[Any, dict[str, Any], str]], cuts: list[int]
) -> None:
    values = [json.dumps(value, **layout).encode() for value, layout, _ in posted]
    data = b"".join(value + space.encode() for value, (_, _, space) in zip(values, posted, strict=True))
    assert scan(cut(data, cuts)) == values
    assert scan(data[i : i + 1] for i in range(len(data))) == values


@settings(PATIENT)
@given(
    st.lists(JSON.map(json.dumps).map(str.encode) | st.integers(-99, 99).map(b"%d".__mod__)),
    st.lists(st.integers(0, 10_000)),
)
def test_values_that_touch_are_told_apart_by_the_ends_of_chunks(values: list[bytes], cuts: list[int]) -> None:
    ends, data = [], b""
    for value in values:
        data += value
        if runs_on(value[-1:]):
            ends.append(len(data))
    assert scan(cut(data, cuts), ends) == values


@given(JSON, st.integers(0, 1000), st.binary(min_size=1, max_size=2), st.lists(st.integers(0, 1000)))
@settings(PATIENT, max_examples=300)
def test_what_python_refuses_is_refused_and_what_it_accepts_is_found(
    value: Any, where: int, damage: bytes, cuts: list[int]
) -> None:
    data = json.dumps([value], ensure_ascii=False).encode("utf-8", "replace")
    data = data[: where % len(data)] + damage + data[where % len(data) :]
    try:
        wanted: Any = json.loads(data.decode("utf-8"))
    except ValueError:
        wanted = None
    try:
        found = scan(cut(data, cuts))
    except ValueError:
        assert wanted is None
    else:
        # Several values are no JSON text, but a stream.
        values = [json.loads(each) for each in found]
        assert (len(values) == 1 and equal(values[0], wanted)) if wanted is not None else len(values) != 1
        assert b"".join(b"".join(found).split()) == b"".join(data.split())


@pytest.mark.parametrize(
    ("text", "values"),
    [
        (b"", []),
        (b" \r\n\t", []),
        (b"12", [b"12"]),
        (b'{}[]"a""b"truefalsenullNaNInfinity-Infinity', None),
        (b'1"a"2[3]4-5', [b"1", b'"a"', b"2", b"[3]", b"4", b"-5"]),
        (b"01-0.50", [b"0", b"1", b"-0.50"]),
        (b"1E+2 1.0e-5 ", [b"1E+2", b"1.0e-5"]),
        (b"123456789012345678901234567890 1.10", [b"123456789012345678901234567890", b"1.10"]),
        (b'{"b":1,"a" : 2,"b":3}\n[ ]', [b'{"b":1,"a" : 2,"b":3}', b"[ ]"]),
        (b'"\\"\\\\\\/\\u00e9\\ud800"', [b'"\\"\\\\\\/\\u00e9\\ud800"']),
        ('"ü€😀"'.encode() * 2, ['"ü€😀"'.encode()] * 2),
        (b"[" * 5000 + b"]" * 5000, [b"[" * 5000 + b"]" * 5000]),
        (b'{"a":' * 3000 + b"1" + b"}" * 3000, [b'{"a":' * 3000 + b"1" + b"}" * 3000]),
        (b"9" * 5000 + b" " + b"[" + b"9" * 5000 + b"]", [b"9" * 5000, b"[" + b"9" * 5000 + b"]"]),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 100_000])
def test_values_are_the_bytes_that_were_posted(text: bytes, values: list[bytes] | None, size: int) -> None:
    if values is None:
        values = [b"{}", b"[]", b'"a"', b'"b"', b"true", b"false", b"null", b"NaN", b"Infinity", b"-Infinity"]
    assert scan(text[i : i + size] for i in range(0, len(text), size)) == values


@pytest.mark.parametrize(
    "text",
    [
        *(b"{", b'"a', b"[1, 2", b"tru", b"-", b"x", b"[}", b"1 }", b'{"a" 1}', b'"\xc3', b"1.", b"\xff", b"1e+"),
        *(b"[1,]", b"[,1]", b"[1 2]", b'{"a":1,}', b"{1:2}", b'{"a"}', b"{,}", b'["a" "b"]', b"]", b",", b"1,2"),
        *(b"[01]", b"[.5]", b"[1.]", b"[+1]", b"[-]", b"[1e]", b"[tru]", b"[nan]", b"'a'", b"undefined", b"[True]"),
        *(b'"\n"', b'"\x00"', b'"\\x"', b'"\\u12g4"', b'["\t"]', b'{"\n":1}', b'"\xff"', b'"\xed\xa0\x80"', b'"\xc3("'),
        *(b"\xef\xbb\xbf1", b"[1]\x00", b"\x0b1", b"/**/1", b"[[[[[[[1]]]]]]", b"[[1}]", b'{"a":[}}', b"--1", b"-Inf"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 1000])
def test_what_is_not_json_is_refused(text: bytes, size: int) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of the scanner or of the decoder
        scan(text[i : i + size] for i in range(0, len(text), size))


def test_the_values_before_what_is_not_json_are_found() -> None:
    for bad in (b"x", b'"\xff"', b"[1 2]"):
        scanner = ValueScanner()
        scanner.add(b'1 "a" ' + bad)
        assert [scanner.find(), scanner.find()] == [b"1", b'"a"']
        with pytest.raises(ValueError):  # noqa: PT011 - of the scanner or of the decoder
            scanner.find()


def test_a_number_whose_end_is_noted_is_complete_at_once() -> None:
    scanner = ValueScanner(marked=True)
    scanner.add(b"12")
    assert scanner.find() is Wants.ENDS
    scanner.note_ends([1], 2)
    assert (scanner.find(), scanner.find()) == (b"1", Wants.BYTES)
    scanner.add(b"3")
    assert scanner.find() is Wants.ENDS
    scanner.note_ends([3], 3)
    assert (scanner.find(), scanner.find()) == (b"23", Wants.BYTES)


def test_ends_inside_of_other_values_do_not_matter() -> None:
    text = b'"ab1" [1,2 ,"3"] {"a4":5}'
    ends = [place + 1 for place, byte in enumerate(text) if chr(byte).isdigit()]
    assert scan([text], ends) == [b'"ab1"', b'[1,2 ,"3"]', b'{"a4":5}']


def test_a_number_without_end_is_refused() -> None:
    for begin in (b"", b"["):
        with pytest.raises(ValueError, match="more than"):
            scan([begin + b"1"] + [b"0" * 1000] * (LONGEST_NUMBER // 1000 + 1))
