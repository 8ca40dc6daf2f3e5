"""The active faults of an emulator."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import Attribute, Interface, implementer

from ..model.faults import Fault, FaultKind, FaultPlan, describe_plan, new_fault


class IFaultBook(Interface):
    """The faults of an emulator."""

    active: bool = Attribute("Whether there are any faults, spent ones too.")

    def add(plan: FaultPlan) -> Deferred[Fault]:
        """Add a fault."""

    def remove(fault_id: str) -> Deferred[bool]:
        """Remove a fault. The result is ``False`` if there is none with that id."""

    def replace(plans: Iterable[FaultPlan]) -> Deferred[None]:
        """Remove all faults and add others."""

    def reseed(plans: Iterable[FaultPlan]) -> Deferred[None]:
        """Replace all faults by those of a seed, unless the last seed had the same ones."""

    def all() -> Deferred[list[Fault]]:
        """Return all faults, spent ones too, in the order they were added."""

    def draw(kind: FaultKind, runtime_id: str, function: str | None = None) -> Deferred[FaultPlan | None]:
        """Decide whether a fault strikes now. Most emulators have no faults, so look first whether any are active.

        Returns:
            The plan of the first fault that strikes, or ``None``.
        """


@implementer(IFaultBook)
class FaultBook:
    """The faults of an emulator that is one process."""

    _log = Logger()

    def __init__(self, plans: Iterable[FaultPlan] = ()) -> None:
        """Begin with the faults of the seed."""
        self._faults: dict[str, Fault] = {}
        self._seeded = list(plans)
        for plan in self._seeded:
            self._add(plan)

    @property
    def active(self) -> bool:
        return bool(self._faults)

    def add(self, plan: FaultPlan) -> Deferred[Fault]:
        return succeed(self._add(plan))

    def _add(self, plan: FaultPlan) -> Fault:
        fault = new_fault(plan)
        self._faults[fault.fault_id] = fault
        self._log.warn("fault {fault_id}: {plan} is active", fault_id=fault.fault_id, plan=describe_plan(plan))
        return fault

    def remove(self, fault_id: str) -> Deferred[bool]:
        return succeed(self._faults.pop(fault_id, None) is not None)

    def replace(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        if self._faults:
            self._log.warn("faults: {count} removed", count=len(self._faults))
        self._faults.clear()
        for plan in plans:
            self._add(plan)
        return succeed(None)

    def reseed(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        former, self._seeded = self._seeded, list(plans)
        return succeed(None) if former == self._seeded else self.replace(self._seeded)

    def all(self) -> Deferred[list[Fault]]:
        return succeed(list(self._faults.values()))

    def draw(self, kind: FaultKind, runtime_id: str, function: str | None = None) -> Deferred[FaultPlan | None]:
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
