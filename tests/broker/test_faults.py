"""Active faults, on each kind of broker."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import cycle
from typing import Any

import pytest
from broker_fixtures import MemoryFixture

from twisted_cm.broker.faults import FaultBook
from twisted_cm.broker.redis.faults import RedisFaults
from twisted_cm.model.faults import Fault, FaultKind, FaultPlan

pytestmark = pytest.mark.beside_the_reactor

KIND = FaultKind.POLL_ERROR


class Faults:
    """The faults of all members of a broker, which take turns."""

    def __init__(self, brokers: MemoryFixture) -> None:
        self._get = brokers.get
        members = brokers.members(brokers.make())
        self._books: list[Any] = [RedisFaults(each.node) if hasattr(each, "node") else FaultBook() for each in members]
        self._turn = cycle(self._books)

    def add(self, **plan: Any) -> Fault:
        """Add a fault."""
        added: Fault = self._get(next(self._turn).add(FaultPlan(**{"kind": KIND, **plan})))
        return added

    def remove(self, fault: Fault) -> bool:
        """Remove a fault. Return whether it was there."""
        removed: bool = self._get(next(self._turn).remove(fault.fault_id))
        return removed

    def replace(self, plans: Iterable[FaultPlan]) -> None:
        """Replace all faults."""
        self._get(next(self._turn).replace(plans))

    def reseed(self, *plans: FaultPlan) -> None:
        """Replace all faults by those of a seed."""
        self._get(next(self._turn).reseed(iter(plans)))

    def draw(self, kind: FaultKind = KIND, runtime_id: str = "r", function: str | None = None) -> str | None:
        """Return the message of the fault that strikes."""
        plan = self._get(next(self._turn).draw(kind, runtime_id, function))
        return None if plan is None else str(plan.message)

    def all(self) -> list[tuple[str | None, int]]:
        """Return the message of each fault, and how often it has struck. All members must say the same."""
        found = [[(each.plan.message, each.struck) for each in self._get(book.all())] for book in self._books]
        assert all(each == found[0] for each in found)
        assert {book.active for book in self._books} == {bool(found[0])}
        return found[0]


@pytest.fixture
def faults(brokers: MemoryFixture) -> Faults:
    """Provide the faults of a broker, none at first."""
    return Faults(brokers)


def test_faults_are_listed_in_the_order_they_were_added_until_they_are_removed(faults: Faults) -> None:
    assert faults.all() == []
    added = [faults.add(message=message) for message in "bca"]
    assert len({each.fault_id for each in added}) == 3
    assert faults.all() == [("b", 0), ("c", 0), ("a", 0)]
    assert faults.remove(added[1])
    assert not faults.remove(added[1])
    assert faults.all() == [("b", 0), ("a", 0)]
    assert faults.remove(added[0])
    assert faults.remove(added[2])
    assert faults.all() == []
    assert faults.draw() is None


def test_a_fault_strikes_where_its_plan_says(faults: Faults) -> None:
    faults.add(message="of g at s", runtime_id="s", function="g")
    faults.add(message="of f", function="f")
    faults.add(message="at s", runtime_id="s")
    assert faults.draw(function="f") == "of f"
    assert faults.draw(runtime_id="s", function="f") == "of f"
    assert faults.draw(runtime_id="s", function="g") == "of g at s"
    assert faults.draw(runtime_id="s") == "at s"
    assert faults.draw(function="g") is None
    assert faults.draw() is None
    assert faults.draw(FaultKind.FAIL_JOB, "s", "f") is None
    assert faults.all() == [("of g at s", 1), ("of f", 2), ("at s", 1)]


def test_the_first_fault_strikes_until_it_is_spent(faults: Faults) -> None:
    faults.add(message="first", count=2)
    faults.add(message="second", count=1)
    assert [faults.draw() for _ in range(4)] == ["first", "first", "second", None]
    faults.add(message="third")
    assert [faults.draw() for _ in range(3)] == ["third"] * 3
    assert faults.all() == [("first", 2), ("second", 1), ("third", 3)]


def test_a_fault_that_does_not_strike_leaves_it_to_the_next(faults: Faults) -> None:
    faults.add(message="seldom", probability=0.25, random_seed=1)
    faults.add(message="always")
    drawn = [faults.draw() for _ in range(40)]
    # The decisions of this seed, the same on every kind of broker.
    assert [at for at, each in enumerate(drawn) if each == "seldom"] == [0, 3, 6, 11, 14, 27, 29, 36]
    assert set(drawn) == {"seldom", "always"}


def test_faults_that_are_replaced_begin_anew(faults: Faults) -> None:
    plan = FaultPlan(KIND, message="seeded", count=1)
    faults.add(message="added")
    faults.replace([plan])
    assert [faults.draw(), faults.draw()] == ["seeded", None]
    faults.replace([plan, FaultPlan(KIND, message="other")])
    assert faults.all() == [("seeded", 0), ("other", 0)]
    assert faults.draw() == "seeded"
    faults.replace([])
    assert faults.all() == []


def test_a_seed_that_is_read_again_changes_its_faults_only_if_they_differ(faults: Faults) -> None:
    one, other = (FaultPlan(KIND, message=message, count=5) for message in ("one", "other"))
    faults.reseed(one)
    assert faults.draw() == "one"
    faults.add(message="added")
    faults.reseed(one)
    assert faults.all() == [("one", 1), ("added", 0)]
    faults.reseed(other, one)
    assert faults.all() == [("other", 0), ("one", 0)]
    faults.draw()
    faults.reseed(other, one)
    assert faults.all() == [("other", 1), ("one", 0)]
    faults.reseed(one)
    assert faults.all() == [("one", 0)]
    faults.reseed()
    assert faults.all() == []
