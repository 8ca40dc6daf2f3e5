"""Faults: errors and delays that the emulator injects on purpose."""

from __future__ import annotations

import enum
import hashlib
import secrets

from attrs import asdict, define, field, frozen

from .finite import finite_field
from .types import JSONValue


class FaultKind(enum.Enum):
    """What goes wrong. The values are used in the seed and on the wire."""

    #: A job reaches its poller late.
    DELAY_DISPATCH = "delay_dispatch"
    #: A result is accepted late.
    DELAY_RESULT = "delay_result"
    #: A job fails before any runtime gets it.
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
    """What goes wrong, where and how often.

    Attributes:
        runtime_id: The runtime it affects; ``None`` for all.
        function: The function it affects; ``None`` for all.
        count: How many times it strikes before it is spent; ``None`` for no limit.
        probability: The probability that it strikes at each opportunity.
        random_seed: The seed of the random decisions; ``None`` for different decisions in each run.
        seconds: The length of a delay.
        message: The message of a failure.
        status: The status that a poll is answered with, 401 or 500.
    """

    kind: FaultKind
    runtime_id: str | None = None
    function: str | None = None
    count: int | None = None
    probability: float = field(default=1.0, validator=finite_field)
    random_seed: int | None = None
    seconds: float | None = field(default=None, validator=finite_field)
    message: str | None = None
    status: int | None = None


@define(eq=False)
class Fault:
    """An active fault.

    Attributes:
        random_seed: The seed of the random decisions.
        drawn: How many random decisions were made.
        struck: How many times it has struck.
    """

    fault_id: str
    plan: FaultPlan
    random_seed: int
    drawn: int = field(default=0)
    struck: int = field(default=0)

    @property
    def spent(self) -> bool:
        """Whether it has struck as often as its plan allows."""
        return self.plan.count is not None and self.struck >= self.plan.count

    def could_strike(self, kind: FaultKind, runtime_id: str, function: str | None) -> bool:
        """Return whether the plan covers this kind of fault at this runtime and function."""
        plan = self.plan
        return plan.kind is kind and plan.runtime_id in (None, runtime_id) and plan.function in (None, function)

    def strikes(self) -> bool:
        """Decide by the plan's probability whether it strikes this time.

        Two faults with the same random seed make the same series of decisions.
        """
        if self.plan.probability >= 1:
            return True
        self.drawn += 1
        digest = hashlib.sha1(f"{self.random_seed}:{self.drawn}".encode("ascii")).digest()
        return int.from_bytes(digest[:4], "big") < self.plan.probability * 2**32


def new_fault(plan: FaultPlan) -> Fault:
    """Return a fault with a new id, and with a random seed if the plan has none."""
    seed = secrets.randbits(32) if plan.random_seed is None else plan.random_seed
    return Fault("fault_" + secrets.token_hex(6), plan, seed)


def fault_plan(item: dict[str, JSONValue]) -> FaultPlan:
    """Build a plan from a JSON object that is valid under ``#/$defs/fault`` of ``schemas/seed.json``."""
    return FaultPlan(**{**item, "kind": FaultKind(item["kind"])})


def describe_plan(plan: FaultPlan) -> dict[str, JSONValue]:
    """Return a plan as a JSON object of the seed, without the fields that are ``None``."""
    fields = {name: value for name, value in asdict(plan).items() if value is not None}
    return {**fields, "kind": plan.kind.value}


def describe_fault(fault: Fault) -> dict[str, JSONValue]:
    """Return a fault as the JSON object that inspection shows."""
    return {"fault_id": fault.fault_id, **describe_plan(fault.plan), "struck": fault.struck, "spent": fault.spent}
