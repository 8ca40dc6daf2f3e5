"""Which tests of a run are left out, and which come first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

#: The kinds of broker, as the parameters of fixtures and tests name them.
KINDS = ("memory", "redis", "nodes")


def kind_of(item: pytest.Item) -> str | None:
    """Return the kind of broker that a test runs on, if it has a variant for each kind."""
    parameters = (
        item.callspec.params.values() if isinstance(item, pytest.Function) and hasattr(item, "callspec") else ()
    )
    return next((each for each in parameters if isinstance(each, str) and each in KINDS), None)


def on_other_brokers(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Return the variants of tests that another variant covers, on another kind of broker.

    The tests of the brokers are kept on Redis, which has a library of its own, and the other tests in memory. A test
    without such a variant is kept.
    """
    variants: dict[tuple[object, str], dict[str, list[pytest.Item]]] = {}
    for item in items:
        kind = kind_of(item)
        if kind is not None:
            name = (item.parent, getattr(item, "originalname", item.name))
            variants.setdefault(name, {}).setdefault(kind, []).append(item)
    left: list[pytest.Item] = []
    for kinds in variants.values():
        (path,) = {item.path for each in kinds.values() for item in each}
        wanted = "redis" if path.parent.name == "broker" else "memory"
        if wanted in kinds:
            left += [item for kind, each in kinds.items() if kind != wanted for item in each]
    return left


def long_ones_first(items: Sequence[pytest.Item], workers: int) -> list[pytest.Item]:
    """Return tests in an order in which each worker of pytest-xdist begins with long ones.

    The workers get equal parts of the tests, one after another. Long tests of a module stay together, because they
    share fixtures. So do all tests that use the fixture ``browser``: the last worker begins with them, and with nothing
    else.
    """
    beginnings: list[list[pytest.Item]] = [[] for _ in range(workers)]
    others: list[pytest.Item] = []
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and "browser" in item.fixturenames:
            beginnings[-1].append(item)
        elif item.get_closest_marker("long") is not None:
            modules.setdefault(item.path, []).append(item)
        else:
            others.append(item)
    free = beginnings[:-1] if beginnings[-1] and workers > 1 else beginnings
    for tests in sorted(modules.values(), key=len, reverse=True):
        min(free, key=len).extend(tests)
    ordered: list[pytest.Item] = []
    for number, beginning in enumerate(beginnings):
        end = len(ordered) + (len(items) - len(ordered)) // (workers - number)
        ordered += beginning
        taken = max(end - len(ordered), 0)
        ordered += others[:taken]
        del others[:taken]
    return ordered + others
