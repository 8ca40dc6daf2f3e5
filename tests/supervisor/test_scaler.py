"""The number of replicas that a runtime should have, on a clock that only the test moves."""

from __future__ import annotations

import pytest

from twisted_cm.config.process_settings import Scaling
from twisted_cm.supervisor.scaler import Scaler

SCALING = Scaling(1, 3, scale_up_delay=60, scale_down_delay=1800)


def test_the_defaults_are_those_of_foundry() -> None:
    assert Scaling() == Scaling(1, 1, 0.75, 60, 0.75, 1800)


@pytest.mark.parametrize(
    ("scaling", "begin"), [(Scaling(2, 2), 2), (Scaling(0, 4), 1), (Scaling(0, 0), 0), (Scaling(3, 5), 3)]
)
def test_a_runtime_begins_with_its_least_number_but_not_with_none(scaling: Scaling, begin: int) -> None:
    assert Scaler(scaling).wanted == begin


def test_a_high_load_for_as_long_as_the_delay_adds_one_replica() -> None:
    scaler = Scaler(SCALING)
    assert scaler.look(0, 3, 0, 4) == 60
    assert scaler.look(59, 4, 0, 4) == 1
    assert scaler.wanted == 1
    scaler.look(60, 3, 0, 4)
    assert scaler.wanted == 2
    # The next one needs as long again, and there are at most three.
    for now, wanted in ((61, 2), (120, 2), (122, 3), (1000, 3)):
        scaler.look(now, 8, 0, 8)
        assert scaler.wanted == wanted, now


def test_a_moment_of_low_load_begins_the_delay_again() -> None:
    scaler = Scaler(SCALING)
    for now, running in ((0, 3), (30, 2), (40, 3), (99, 3)):
        scaler.look(now, running, 0, 4)
        assert scaler.wanted == 1
    scaler.look(100, 3, 0, 4)
    assert scaler.wanted == 2


def test_a_low_load_for_as_long_as_the_delay_removes_one_replica() -> None:
    scaler = Scaler(Scaling(0, 3, scale_up_delay=0, scale_down_delay=1800))
    scaler.look(0, 4, 0, 4)
    scaler.look(1, 8, 0, 8)
    assert scaler.wanted == 3
    assert scaler.look(10, 8, 0, 12) == 1800
    assert scaler.look(1809, 8, 0, 12) == 1
    assert scaler.wanted == 3
    scaler.look(1810, 0, 0, 12)
    assert scaler.wanted == 2
    scaler.look(1811, 0, 0, 8)
    scaler.look(3611, 0, 0, 8)
    assert scaler.wanted == 1
    scaler.look(3612, 0, 0, 4)
    scaler.look(5412, 0, 0, 4)
    assert scaler.wanted == 0


def test_a_queue_is_a_high_load() -> None:
    scaler = Scaler(Scaling(0, 2, scale_up_delay=5, scale_down_delay=5))
    scaler.look(0, 0, 1, 1)
    scaler.look(5, 0, 1, 1)
    assert scaler.wanted == 2


def test_a_job_starts_the_first_replica_at_once() -> None:
    scaler = Scaler(Scaling(0, 2))
    scaler.wanted = 0
    assert scaler.look(0, 0, 0, 0) is None
    assert scaler.wanted == 0
    scaler.look(1, 0, 1, 0)
    assert scaler.wanted == 1


def test_a_fixed_number_stays() -> None:
    scaler = Scaler(Scaling(2, 2, scale_up_delay=0, scale_down_delay=0))
    for now, running in ((0, 2), (1, 0), (5000, 0)):
        assert scaler.look(now, running, 0, 2) is None
        assert scaler.wanted == 2


def test_other_settings_hold_at_once() -> None:
    scaler = Scaler(Scaling(4, 4))
    scaler.change(Scaling(0, 2))
    assert scaler.wanted == 2
    scaler.change(Scaling(3, 3))
    assert scaler.wanted == 3
