"""What a fault is, and when it strikes."""

from __future__ import annotations

import enum
import hashlib
import secrets

from attrs import asdict, define, field, frozen

from .types import JSONValue


class FaultKind(enum.Enum):
    """What goes wrong.  The values are the words of the seed and of the wire."""

    #: A job reaches its poller late.
    DELAY_DISPATCH = "delay_dispatch"
    #: A result counts late.
    DELAY_RESULT = "delay_result"
    #: A job fails without a runtime having had it.
    FAIL_JOB = "fail_job"
    #: A job is accepted and never dispatched.
    DROP_JOB = "drop_job"
    #: A poll is answered with an error.
    POLL_ERROR = "poll_error"
    #: The caller's connection is cut in the middle of a result.
    CUT_RESULT = "cut_result"
    #: A job is handed to the next poll as well.
    DUPLICATE_DELIVERY = "duplicate_delivery"
    #: The module auth token is refused.
    EXPIRE_TOKEN = "expire_token"


@frozen
class FaultPlan:
    """
    One thing that is to go wrong.

    @ivar runtime_id: at which runtime; L{None} for any.
    @ivar function: with which function; L{None} for any.
    @ivar count: how many times, then never again; L{None} for as long as it is active.
    @ivar probability: how likely it is each time that it could.
    @ivar random_seed: what the probability is drawn with; L{None} for a different run each time.
    @ivar seconds: of the delay.
    @ivar message: of the failure.
    @ivar status: of the answer to a poll, 401 or 500.
    """

    kind: FaultKind
    runtime_id: str | None = None
    function: str | None = None
    count: int | None = None
    probability: float = 1.0
    random_seed: int | None = None
    seconds: float | None = None
    message: str | None = None
    status: int | None = None


@define(eq=False)
class Fault:
    """
    A plan that is active.

    @ivar random_seed: what its probability is drawn with.
    @ivar drawn: how many times it was.
    @ivar struck: how many times it has.
    """

    fault_id: str
    plan: FaultPlan
    random_seed: int
    drawn: int = field(default=0)
    struck: int = field(default=0)

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as it was to."""
        return self.plan.count is not None and self.struck >= self.plan.count

    def could_strike(self, kind: FaultKind, runtime_id: str, function: str | None) -> bool:
        """
        @return: whether it is one that goes wrong there.
        """
        plan = self.plan
        return plan.kind is kind and plan.runtime_id in (None, runtime_id) and plan.function in (None, function)

    def strikes(self) -> bool:
        """
        @return: what its probability decides this time, the same in each run with one random seed.
        """
        if self.plan.probability >= 1:
            return True
        self.drawn += 1
        digest = hashlib.sha1(f"{self.random_seed}:{self.drawn}".encode("ascii")).digest()
        return int.from_bytes(digest[:4], "big") < self.plan.probability * 2**32


def new_fault(plan: FaultPlan) -> Fault:
    """
    @return: a plan that becomes active.
    """
    seed = secrets.randbits(32) if plan.random_seed is None else plan.random_seed
    return Fault("fault_" + secrets.token_hex(6), plan, seed)


def fault_plan(item: dict[str, JSONValue]) -> FaultPlan:
    """
    @param item: a fault that fits C{#/$defs/fault} of C{schemas/seed.json}.
    """
    return FaultPlan(**{**item, "kind": FaultKind(item["kind"])})


def describe_plan(plan: FaultPlan) -> dict[str, JSONValue]:
    """
    @return: a plan as in the seed, without what it leaves open.
    """
    fields = {name: value for name, value in asdict(plan).items() if value is not None}
    return {**fields, "kind": plan.kind.value}


def describe_fault(fault: Fault) -> dict[str, JSONValue]:
    """
    @return: a fault as inspection shows it.
    """
    return {"fault_id": fault.fault_id, **describe_plan(fault.plan), "struck": fault.struck, "spent": fault.spent}
