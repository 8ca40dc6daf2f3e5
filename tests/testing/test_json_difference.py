"""Where two JSON values differ."""

from __future__ import annotations

from typing import Any

import pytest

from twisted_cm.testing.json_difference import Ignored


def differences(recorded: Any, found: Any, *ignored: str) -> list[tuple[str, str, str]]:
    return [(each.pointer, each.recorded, each.found) for each in Ignored(ignored).differences(recorded, found)]


@pytest.mark.parametrize(
    "value", [None, 0, 1.5, "ü", True, [], {}, [1, [2]], {"a": {"b": [None]}}, float("nan"), [float("nan")]]
)
def test_a_value_does_not_differ_from_itself(value: Any) -> None:
    assert differences(value, value) == []


def test_numbers_and_the_order_of_members_are_compared_as_json() -> None:
    assert differences({"a": 1, "b": 2}, {"b": 2.0, "a": 1}) == []


@pytest.mark.parametrize(
    ("recorded", "found", "expected"),
    [
        (1, 2, ("", "1", "2")),
        (1, True, ("", "1", "true")),
        (False, 0, ("", "false", "0")),
        ("1", 1, ("", '"1"', "1")),
        ([], {}, ("", "[]", "{}")),
        ({"a": 1}, {}, ("/a", "1", "(missing)")),
        ({}, {"a": None}, ("/a", "(missing)", "null")),
        ([1], [1, 2], ("/1", "(missing)", "2")),
        ({"a/b": [{"~": 1}]}, {"a/b": [{"~": 2}]}, ("/a~1b/0/~0", "1", "2")),
        ({"": 1}, {"": 2}, ("/", "1", "2")),
    ],
)
def test_each_difference_has_its_place(recorded: Any, found: Any, expected: tuple[str, str, str]) -> None:
    assert differences(recorded, found) == [expected]


def test_all_differences_are_found() -> None:
    found = differences({"a": 1, "b": [1, 2], "c": 3}, {"a": 2, "b": [1, 3], "c": 3})
    assert [pointer for pointer, *_ in found] == ["/a", "/b/1"]


@pytest.mark.parametrize(
    ("pointer", "left"),
    [
        ("/a", ["/b/0/id", "/b/1/id"]),
        ("/b", ["/a"]),
        ("/b/0", ["/a", "/b/1/id"]),
        ("/b/0/id", ["/a", "/b/1/id"]),
        ("/b/*/id", ["/a"]),
        ("/b/*", ["/a"]),
        ("/*", []),
        ("/*/*", ["/a"]),
        ("/*/id", ["/a", "/b/0/id", "/b/1/id"]),
        ("/c", ["/a", "/b/0/id", "/b/1/id"]),
        ("/b/0/id/more", ["/a", "/b/0/id", "/b/1/id"]),
    ],
)
def test_ignored_places(pointer: str, left: list[str]) -> None:
    recorded = {"a": 1, "b": [{"id": 1}, {"id": 2}]}
    # A place is also ignored if one of the values does not have it.
    found = {"a": 2, "b": [{"id": 3}, {}]}
    assert [place for place, *_ in differences(recorded, found, pointer)] == left


def test_pointers_are_escaped() -> None:
    assert differences({"a/b": 1, "c~": 1}, {"a/b": 2, "c~": 2}, "/a~1b", "/c~0") == []


@pytest.mark.parametrize("pointer", ["", "a", "*"])
def test_pointers_that_are_not_valid(pointer: str) -> None:
    with pytest.raises(ValueError, match="not a JSON pointer"):
        Ignored([pointer])


def test_one_pointer_without_a_list() -> None:
    with pytest.raises(ValueError, match=r"write \['/a'\]"):
        Ignored("/a")


def test_long_values_are_shortened() -> None:
    ((_, recorded, _),) = differences("x" * 1000, 1)
    assert len(recorded) < 350 and recorded.endswith("(1002 characters)")
