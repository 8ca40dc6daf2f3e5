"""Which faults are active."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from ..model.faults import Fault, FaultKind, FaultPlan, describe_plan, new_fault


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
