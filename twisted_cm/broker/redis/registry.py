"""The registry of runtimes, replicas and bindings, of which every node has a copy."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TypeAlias

from attrs import asdict, define, field, frozen
from twisted.internet.defer import DeferredLock

from ...model.registry import Registry
from ...model.replicas import ModuleIdentity, Replica
from ...model.runtimes import Binding, Runtime
from ...model.tokens import fingerprint
from ...model.types import JSONValue
from ..interface import NO_LONGER_SEEDED
from .node import RedisNode
from .values import to_json


@define(eq=False)
class Shared:
    """What is kept on Redis as one JSON document.

    Attributes:
        registry: The runtimes, replicas and bindings.
        seeded: Those of the last seed.
        generated: The tokens of runtimes to which the seed gives none.
    """

    registry: Registry = field(factory=Registry)
    seeded: Registry = field(factory=Registry)
    generated: dict[str, str] = field(factory=dict)

    @classmethod
    def parse(cls, stored: bytes | None) -> Shared:
        """Read the document; ``None`` stands for an empty one."""
        if stored is None:
            return cls()
        content = json.loads(stored)
        return cls(_read_registry(content["registry"]), _read_registry(content["seeded"]), content["made_up"])

    def dump(self) -> str:
        """Return the document."""
        return to_json(
            {
                "registry": _describe_registry(self.registry),
                "seeded": _describe_registry(self.seeded),
                "made_up": self.generated,
            }
        )


def _read_registry(content: JSONValue) -> Registry:
    registry = Registry()
    for runtime_id, token in content["runtimes"].items():
        registry.add(Runtime(runtime_id, token))
    for binding in content["bindings"]:
        registry.bind(Binding(**binding))
    # A node of an earlier version writes none.
    for replica in content.get("replicas", ()):
        registry.replicas[replica["runtime_id"]][replica["replica_id"]] = Replica(**replica)
    return registry


def _describe_registry(registry: Registry) -> JSONValue:
    return {
        "runtimes": {each.runtime_id: each.module_auth_token for each in registry.runtimes.values()},
        "bindings": [asdict(each) for each in registry.bindings()],
        "replicas": [
            # Whether a replica is draining is in its record, beside what it has done.
            asdict(each, filter=lambda attribute, _: attribute.name != "draining")
            for replicas in registry.replicas.values()
            for each in replicas.values()
        ],
    }


@frozen
class Changes:
    """What follows from a change of the registry.

    Attributes:
        dismissed: The runtimes to dismiss, each with a reason.
        admitted: The runtimes to admit.
        closed: The replicas to close: the runtime, the replica, and the reason of each.
        forgotten: The replicas, by runtime, that were closed before and are no longer remembered.
        opened: The replicas to open: the runtime, the replica, and the limit of each.
    """

    dismissed: list[tuple[str, str]] = field(factory=list)
    admitted: list[str] = field(factory=list)
    closed: list[tuple[str, str, str]] = field(factory=list)
    forgotten: list[tuple[str, str]] = field(factory=list)
    opened: list[tuple[str, str, int]] = field(factory=list)


#: Changes a registry, and says what follows from it.
Change: TypeAlias = Callable[[Shared], Changes]


class SharedRegistry:
    """This node's copy of the registry.

    A change is made in a copy of the copy, and committed if no other node has committed one meanwhile. Otherwise the
    node loads the registry and makes the change again.
    """

    def __init__(self, node: RedisNode, seed: Registry | None) -> None:
        self._node = node
        self._seed = seed
        self._stored: bytes | None = None
        self._shared = Shared()
        self._module_tokens: dict[bytes, ModuleIdentity] = {}
        self._changing = DeferredLock()
        node.loaded.append(self._loaded)

    @property
    def current(self) -> Registry:
        """The runtimes and bindings, as this node knows them. Do not modify it."""
        return self._shared.registry

    def module_runtime(self, token: str) -> ModuleIdentity | None:
        """Return the runtime and the replica that a module auth token belongs to."""
        return self._module_tokens.get(fingerprint(token))

    def _loaded(self, stored: bytes | None, faults: list[bytes]) -> None:
        if stored is None and self._stored is not None:
            # Redis has lost its data: seed it again.
            self._seed = self._seed or self._shared.seeded
        if stored == self._stored:
            return
        self._stored, self._shared = stored, Shared.parse(stored)
        registry = self._shared.registry
        self._module_tokens = {
            fingerprint(each.module_auth_token): ModuleIdentity(each.runtime_id) for each in registry.runtimes.values()
        }
        for each in (each for replicas in registry.replicas.values() for each in replicas.values() if not each.gone):
            self._module_tokens[fingerprint(each.token)] = ModuleIdentity(each.runtime_id, each.replica_id)

    async def attached(self) -> None:
        """Seed a registry that is empty, or that this node has not seeded yet."""
        if self._seed is not None or self._stored is None:
            await self.reseed(self._seed or self._shared.seeded)
            self._seed = None

    async def change(self, change: Change) -> None:
        """Change the registry, and wait until every node acts on it."""
        await self._changing.acquire()
        try:
            while True:
                shared, version = Shared.parse(self._stored), self._node.version
                changes = change(shared)
                reply = await self._node.send("commit", version, shared.dump(), to_json(asdict(changes)))
                if reply != b"stale":
                    break
                await self._node.load()
        finally:
            self._changing.release()
        await self._node.noticed(reply)

    async def reset(self, registry: Registry, reason: str) -> None:
        """Replace all runtimes and bindings by those of a seed.

        Args:
            registry: The seed.
            reason: Why the jobs of all runtimes end.
        """

        def change(shared: Shared) -> Changes:
            dismissed = [(each, reason) for each in shared.registry.runtimes]
            shared.seeded = registry.with_generated_tokens(shared.generated)
            shared.registry = shared.seeded.copy()
            return Changes(dismissed, list(shared.registry.runtimes))

        await self.change(change)

    async def reseed(self, registry: Registry) -> None:
        """Apply what differs between a seed and the last one."""

        def change(shared: Shared) -> Changes:
            former, shared.seeded = shared.seeded, registry.with_generated_tokens(shared.generated)
            gone = shared.registry.dropped_by_seed(former, shared.seeded)
            added = shared.registry.apply_seed_change(former, shared.seeded)
            return Changes([(each, NO_LONGER_SEEDED) for each in gone], added)

        if self._stored is None or self._would_change(change):
            await self.change(change)

    def _would_change(self, change: Change) -> bool:
        shared = Shared.parse(self._stored)
        before = shared.dump()
        change(shared)
        return shared.dump() != before
