"""The registry as JSON, of which every node has a copy."""

from __future__ import annotations

import json
from collections.abc import Callable

from attrs import asdict, define, field

from ...model.registry import Registry
from ...model.runtimes import Binding, Runtime
from ...model.types import JSONValue
from .node import to_json


@define(eq=False)
class Shared:
    """
    What every node has a copy of.

    @ivar seeded: the last seed.
    @ivar made_up: the tokens for runtimes that the seed gave none.
    """

    registry: Registry = field(factory=Registry)
    seeded: Registry = field(factory=Registry)
    made_up: dict[str, str] = field(factory=dict)

    @classmethod
    def parse(cls, stored: bytes | None) -> Shared:
        if stored is None:
            return cls()
        content = json.loads(stored)
        return cls(_read_registry(content["registry"]), _read_registry(content["seeded"]), content["made_up"])

    def dump(self) -> str:
        return to_json(
            {
                "registry": _describe_registry(self.registry),
                "seeded": _describe_registry(self.seeded),
                "made_up": self.made_up,
            }
        )


def _read_registry(content: JSONValue) -> Registry:
    registry = Registry()
    for runtime_id, token in content["runtimes"].items():
        registry.add(Runtime(runtime_id, token))
    for binding in content["bindings"]:
        registry.bind(Binding(**binding))
    return registry


def _describe_registry(registry: Registry) -> JSONValue:
    return {
        "runtimes": {each.runtime_id: each.module_auth_token for each in registry.runtimes.values()},
        "bindings": [asdict(each) for each in registry.bindings()],
    }


#: What a change to the registry asks for: runtimes to dismiss, each with a reason, and runtimes to admit.
Changes = tuple[list[tuple[str, str]], list[str]]


def after(shared: Shared, change: Callable[[Shared], Changes]) -> str:
    change(shared)
    return shared.dump()
