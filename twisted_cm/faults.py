"""
What is to go wrong on purpose.

A L{FaultPlan} says what, where and how often; an L{IFaultBook} holds the plans
that are active and decides, each time that one could strike, whether it does.
The decisions come from a random generator of the plan's own, so a run with the
same seed goes wrong in the same places.
"""

from __future__ import annotations

import enum
import hashlib
import secrets
from collections.abc import Iterable

from attrs import asdict, define, field, frozen
from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from .jobs import JSONValue


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


class IFaultBook(Interface):
    """The faults of an emulator."""

    active: bool = Attribute("Whether there are any, spent or not.")

    def add(plan: FaultPlan) -> Deferred[Fault]:
        """
        Make a plan active.
        """

    def remove(fault_id: str) -> Deferred[bool]:
        """
        End one; L{False} if there is none with that id.
        """

    def replace(plans: Iterable[FaultPlan]) -> Deferred[None]:
        """
        End all of them, and make others active.
        """

    def reseed(plans: Iterable[FaultPlan]) -> Deferred[None]:
        """
        Do the same with the faults of a seed, unless those of the last seed were the same.
        """

    def all() -> Deferred[list[Fault]]:
        """
        Those that are active or were until they were spent, in the order they were added.
        """

    def draw(kind: FaultKind, runtime_id: str, function: str | None = None) -> Deferred[FaultPlan | None]:
        """
        Decide whether something goes wrong now: the first plan that strikes, or L{None}.
        """


@implementer(IFaultBook)
class FaultBook:
    """The faults of an emulator that is one process."""

    _log = Logger()

    def __init__(self, plans: Iterable[FaultPlan] = ()) -> None:
        """
        @param plans: those of the seed.
        """
        self._faults: dict[str, Fault] = {}
        self._seeded = list(plans)
        for plan in self._seeded:
            self._add(plan)

    @property
    def active(self) -> bool:
        """See L{IFaultBook.active}."""
        return bool(self._faults)

    def _add(self, plan: FaultPlan) -> Fault:
        fault = new_fault(plan)
        self._faults[fault.fault_id] = fault
        self._log.warn("fault {fault_id}: {plan} is active", fault_id=fault.fault_id, plan=describe_plan(plan))
        return fault

    def add(self, plan: FaultPlan) -> Deferred[Fault]:
        """See L{IFaultBook.add}."""
        return succeed(self._add(plan))

    def remove(self, fault_id: str) -> Deferred[bool]:
        """See L{IFaultBook.remove}."""
        return succeed(self._faults.pop(fault_id, None) is not None)

    def replace(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        """See L{IFaultBook.replace}."""
        if self._faults:
            self._log.warn("faults: all {count} are cleared", count=len(self._faults))
        self._faults.clear()
        for plan in plans:
            self._add(plan)
        return succeed(None)

    def reseed(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        """See L{IFaultBook.reseed}."""
        former, self._seeded = self._seeded, list(plans)
        return succeed(None) if former == self._seeded else self.replace(self._seeded)

    def all(self) -> Deferred[list[Fault]]:
        """See L{IFaultBook.all}."""
        return succeed(list(self._faults.values()))

    def draw(self, kind: FaultKind, runtime_id: str, function: str | None = None) -> Deferred[FaultPlan | None]:
        """See L{IFaultBook.draw}."""
        return succeed(self._draw(kind, runtime_id, function))

    def _draw(self, kind: FaultKind, runtime_id: str, function: str | None) -> FaultPlan | None:
        for fault in self._faults.values():
            if fault.could_strike(kind, runtime_id, function) and not fault.spent and fault.strikes():
                fault.struck += 1
                self._log.info(
                    "fault {fault_id}: {kind} strikes at runtime {runtime_id}, function {function}",
                    fault_id=fault.fault_id,
                    kind=kind.value,
                    runtime_id=runtime_id,
                    function=function,
                )
                return fault.plan
        return None


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
