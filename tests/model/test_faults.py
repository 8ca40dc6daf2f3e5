"""Plans of faults, as the seed and inspection show them."""

from __future__ import annotations

import pytest

from twisted_cm.model.faults import FaultKind, FaultPlan, describe_fault, describe_plan, fault_plan, new_fault

FULL = FaultPlan(FaultKind.POLL_ERROR, "r", "f", 3, 0.5, 7, 1.5, "no luck", 401)


@pytest.mark.parametrize("plan", [FULL, FaultPlan(FaultKind.DROP_JOB)])
def test_a_plan_is_described_as_the_seed_has_it(plan: FaultPlan) -> None:
    described = describe_plan(plan)
    assert described["kind"] == plan.kind.value
    assert None not in described.values()
    assert fault_plan(described) == plan


def test_a_fault_shows_how_often_it_struck() -> None:
    fault = new_fault(FaultPlan(FaultKind.FAIL_JOB, count=2))
    shown = []
    for _ in range(3):
        shown.append((fault.spent, describe_fault(fault)))
        fault.struck += 1
    assert [(spent, each["spent"], each["struck"]) for spent, each in shown] == [
        (False, False, 0),
        (False, False, 1),
        (True, True, 2),
    ]
    assert shown[0][1] == {
        "fault_id": fault.fault_id,
        "kind": "fail_job",
        "count": 2,
        "probability": 1.0,
        "struck": 0,
        "spent": False,
    }


def test_a_fault_without_a_count_is_never_spent() -> None:
    fault = new_fault(FaultPlan(FaultKind.FAIL_JOB))
    fault.struck = 1000
    assert not fault.spent


def test_faults_have_their_own_ids_and_random_seeds() -> None:
    one, other, given = new_fault(FULL), new_fault(FaultPlan(FaultKind.FAIL_JOB)), new_fault(FULL)
    assert one.fault_id.startswith("fault_")
    assert len({one.fault_id, other.fault_id, given.fault_id}) == 3
    assert one.random_seed == given.random_seed == 7
    assert len({new_fault(FaultPlan(FaultKind.FAIL_JOB)).random_seed for _ in range(5)}) > 1
    assert new_fault(FaultPlan(FaultKind.FAIL_JOB, random_seed=0)).random_seed == 0
