"""Test how JSON values are found in a stream of bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from twisted_cm.client.values import ValueParser


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_values_are_found_however_they_are_cut(size: int) -> None:
    values = [
        *(
            {"a": [1, {"b": "}"}], "ü€😀": '"\\'},
            "",
            '\\"',
            "😀",
            [],
            [[]],
            {},
            True,
            False,
            None,
            -1,
            0,
            1.5e-7,
            10**30,
        ),
        *("[", "a b", [True, "x"], float("inf"), 12),
    ]
    for text in (
        "\n".join(json.dumps(each, ensure_ascii=False) for each in values),
        " ".join(json.dumps(each) for each in values) + " \r\n",
    ):
        data = text.encode()
        parser = ValueParser()
        found: list[Any] = []
        for begin in range(0, len(data), size):
            found.extend(parser.feed(data[begin : begin + size]))
        assert [*found, *parser.feed(b"", final=True)] == values


def test_values_that_touch_are_told_apart_where_json_can() -> None:
    for text, values in (
        (b'{}[]"a""b"truefalsenull', [{}, [], "a", "b", True, False, None]),
        (b'1"a"2[3]4-5', [1, "a", 2, [3], 4, -5]),
        (b"12", [12]),
        (b"", []),
        (b" \n", []),
    ):
        parser = ValueParser()
        found = [value for byte in text for value in parser.feed(bytes([byte]))]
        assert [*found, *parser.feed(b"", final=True)] == values


@pytest.mark.parametrize(
    "text", [b"{", b'"a', b"[1, 2", b"tru", b"-", b"x", b"[}", b"1 }", b'{"a" 1}', b'"\xc3', b"1.", b"\xff"]
)
def test_what_is_not_json_is_refused(text: bytes) -> None:
    parser = ValueParser()
    with pytest.raises(ValueError):  # noqa: PT011 - of json or of the decoder
        list(parser.feed(text[:1])) + list(parser.feed(text[1:])) + list(parser.feed(b"", final=True))


def test_a_large_value_in_many_chunks_is_decoded_once() -> None:
    decoded = 0

    def counting(pairs: list[tuple[str, Any]]) -> Any:
        nonlocal decoded
        decoded += 1
        return dict(pairs)

    parser = ValueParser(counting)
    data = json.dumps([{"a": ["b" * 10] * 10}] * 1000).encode()
    found = [value for begin in range(0, len(data), 100) for value in parser.feed(data[begin : begin + 100])]
    assert len(found) == 1 and decoded == 1000
