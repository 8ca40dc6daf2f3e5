"""The faults that all nodes share."""

from __future__ import annotations

import json
from collections.abc import Iterable

from twisted.internet.defer import Deferred, succeed
from twisted.logger import Logger
from zope.interface import implementer

from ...model.faults import Fault, FaultKind, FaultPlan, describe_plan, fault_plan, new_fault
from ..faults import IFaultBook
from .node import RedisNode
from .values import pairs, text, to_json


@implementer(IFaultBook)
class RedisFaults:
    """The faults of all nodes.

    Every node has a copy of the plans. Redis decides whether one strikes, so that each strikes as often as planned.
    """

    _log = Logger()

    def __init__(self, node: RedisNode, plans: Iterable[FaultPlan] | None = ()) -> None:
        """Load nothing yet.

        Args:
            plans: The faults of the seed; ``None`` to keep those that the other nodes have.
        """
        self._node = node
        self._faults: dict[str, Fault] = {}
        self._seed: list[FaultPlan] | None = None if plans is None else list(plans)
        node.loaded.append(self._loaded)
        node.attached.append(self._attached)

    @property
    def active(self) -> bool:
        return bool(self._faults)

    async def _attached(self) -> None:
        if self._seed is not None:
            await self._replace(to_json([describe_plan(each) for each in self._seed]), self._seed)
            self._seed = None

    def _loaded(self, registry: bytes | None, faults: list[bytes]) -> None:
        loaded = {}
        for fault_id, stored in pairs(faults).items():
            content = json.loads(stored)
            loaded[fault_id] = Fault(fault_id, fault_plan(content["plan"]), content["random_seed"])
        self._faults = loaded

    def _stored(self, fault: Fault) -> tuple[str, str]:
        return fault.fault_id, to_json({"plan": describe_plan(fault.plan), "random_seed": fault.random_seed})

    def add(self, plan: FaultPlan) -> Deferred[Fault]:
        return Deferred.fromCoroutine(self._add(plan))

    async def _add(self, plan: FaultPlan) -> Fault:
        fault = new_fault(plan)
        await self._node.noticed(await self._node.call("add_fault", *self._stored(fault)))
        self._log.warn("fault {fault_id}: {plan} is active", fault_id=fault.fault_id, plan=describe_plan(plan))
        return fault

    def remove(self, fault_id: str) -> Deferred[bool]:
        return Deferred.fromCoroutine(self._change("remove_fault", fault_id))

    def replace(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        return self._replace("", plans)

    def reseed(self, plans: Iterable[FaultPlan]) -> Deferred[None]:
        plans = list(plans)
        return self._replace(to_json([describe_plan(each) for each in plans]), plans)

    def _replace(self, seeded: str, plans: Iterable[FaultPlan]) -> Deferred[None]:
        stored = [part for plan in plans for part in self._stored(new_fault(plan))]
        return Deferred.fromCoroutine(self._change("replace_faults", seeded, *stored)).addCallback(self._log_active)

    def _log_active(self, changed: bool) -> None:
        if changed and self._faults:
            self._log.warn("faults: {count} are active", count=len(self._faults))

    async def _change(self, operation: str, *args: str) -> bool:
        reply = await self._node.send(operation, *args)
        if reply is None:
            return False
        await self._node.noticed(reply)
        return True

    def all(self) -> Deferred[list[Fault]]:
        return Deferred.fromCoroutine(self._all())

    async def _all(self) -> list[Fault]:
        for fault_id, times in pairs(await self._node.call("struck")).items():
            fault = self._faults.get(fault_id)
            if fault is not None:
                fault.struck = int(times)
        return list(self._faults.values())

    def draw(self, kind: FaultKind, runtime_id: str, function: str | None = None) -> Deferred[FaultPlan | None]:
        candidates = [each for each in self._faults.values() if each.could_strike(kind, runtime_id, function)]
        if not candidates:
            return succeed(None)
        args = []
        for each in candidates:
            plan = each.plan
            most = "" if plan.count is None else str(plan.count)
            args += [each.fault_id, most, repr(plan.probability), str(each.random_seed)]

        def drawn(fault_id: bytes | None) -> FaultPlan | None:
            if fault_id is None:
                return None
            self._log.info(
                "fault {fault_id}: {kind} strikes at runtime {runtime_id}, function {function}",
                fault_id=text(fault_id),
                kind=kind.value,
                runtime_id=runtime_id,
                function=function,
            )
            return next(each.plan for each in candidates if each.fault_id == text(fault_id))

        return self._node.call("draw", *args).addCallback(drawn)
