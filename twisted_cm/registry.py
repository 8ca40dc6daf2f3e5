"""
Who is there, and what is bound to what.

Runtimes, the deployed apps bound to them, and the function schemas they
posted.  A deployed app on one branch has one runtime; one runtime may serve
several deployed apps (contract section 5).  Every look-up is by key: nothing
here grows slower with the number of runtimes.
"""

from __future__ import annotations

import secrets

from attrs import define, evolve, field, frozen

from .jobs import JSONValue

#: The branch of a deployed app that does not name one.
DEFAULT_BRANCH = "master"


@frozen
class Binding:
    """One deployed app on one branch, and the runtime that serves it."""

    deployed_app_rid: str
    branch: str
    runtime_id: str
    display_name: str | None = None
    active: bool = True


@frozen
class FunctionSchema:
    """
    What a runtime said of one of its functions.

    @ivar payload: the schema as posted, unknown keys included.
    @ivar issues: C{CANNOT_PARSE_INPUTS} and C{CANNOT_PARSE_OUTPUT}, as Foundry names them (contract section 1).
    @ivar posted_at: milliseconds since the epoch.
    """

    function_name: str
    payload: JSONValue
    issues: tuple[str, ...] = ()
    posted_at: int = 0


@define(eq=False)
class Runtime:
    """
    One runtime, as far as everybody may know it.

    @ivar module_auth_token: what its process authenticates with; empty in a seed that leaves it open.
    @ivar opened_at: when it was seeded or its session opened, in milliseconds since the epoch.
    @ivar connected: whether its process has polled since the session was opened.
    @ivar last_poll_at: milliseconds since the epoch.
    @ivar schemas: by function name; L{None} until the runtime posts for the first time.
    """

    runtime_id: str
    module_auth_token: str = field(repr=False)
    opened_at: int = 0
    connected: bool = False
    last_poll_at: int | None = None
    last_schema_post_at: int | None = None
    schemas: dict[str, FunctionSchema] | None = None


def new_module_auth_token() -> str:
    """
    @return: a token for a runtime, in the form of contract section 1.
    """
    return "foundry_module_auth_" + secrets.token_hex(24)


class Registry:
    """The runtimes and bindings of one emulator, indexed by every key they are asked for."""

    def __init__(self) -> None:
        self.runtimes: dict[str, Runtime] = {}
        self._bindings: dict[str, dict[str, Binding]] = {}
        self._by_runtime: dict[str, dict[tuple[str, str], None]] = {}

    def copy(self) -> Registry:
        """
        @return: another registry with the same runtimes, as if they had just been opened, and the same bindings.
        """
        return self.with_tokens({})

    def with_tokens(self, made_up: dict[str, str]) -> Registry:
        """
        @param made_up: tokens for the runtimes that have none, by runtime id; those that are missing are added.
        @return: a copy in which every runtime has a token.
        """
        copy = Registry()
        for runtime_id, runtime in self.runtimes.items():
            token = runtime.module_auth_token or made_up.setdefault(runtime_id, new_module_auth_token())
            copy.add(Runtime(runtime_id, token))
        for binding in self.bindings():
            copy.bind(binding)
        return copy

    def gone(self, former: Registry, seed: Registry) -> list[str]:
        """
        @return: the runtimes here that were in one seed, and in the next are not, or have another token.
        """
        return [
            runtime_id
            for runtime_id, runtime in former.runtimes.items()
            if runtime_id in self.runtimes
            and (
                runtime_id not in seed.runtimes
                or seed.runtimes[runtime_id].module_auth_token != runtime.module_auth_token
            )
        ]

    def reseed(self, former: Registry, seed: Registry) -> list[str]:
        """
        Make what differs between two seeds take effect here.

        @return: the runtimes that have been added.
        """
        for runtime_id in self.gone(former, seed):
            self.remove(runtime_id)
        added = [runtime_id for runtime_id in seed.runtimes if runtime_id not in self.runtimes]
        for runtime_id in added:
            self.add(Runtime(runtime_id, seed.runtimes[runtime_id].module_auth_token))
        before, after = former.bindings(), seed.bindings()
        for binding in before:
            if binding not in after:
                self.unbind_one(binding)
        for binding in after:
            if binding not in before or binding.runtime_id in added:
                self.bind(binding)
        return added

    def add(self, runtime: Runtime) -> None:
        """Put a runtime in, in place of one with the same id; its bindings stay."""
        self.runtimes[runtime.runtime_id] = runtime

    def remove(self, runtime_id: str) -> None:
        """Take a runtime and its bindings out."""
        del self.runtimes[runtime_id]
        self.unbind(runtime_id)

    def bind(self, binding: Binding) -> None:
        """Bind a deployed app on its branch, taking it over from whichever runtime had it."""
        branches = self._bindings.setdefault(binding.deployed_app_rid, {})
        key = (binding.deployed_app_rid, binding.branch)
        former = branches.get(binding.branch)
        if former is not None:
            self._by_runtime[former.runtime_id].pop(key)
        branches[binding.branch] = binding
        self._by_runtime.setdefault(binding.runtime_id, {})[key] = None

    def unbind_one(self, binding: Binding) -> None:
        """Take out one binding, if it is still there as it is."""
        branches = self._bindings.get(binding.deployed_app_rid, {})
        if branches.get(binding.branch) == binding:
            del branches[binding.branch]
            del self._by_runtime[binding.runtime_id][(binding.deployed_app_rid, binding.branch)]
            if not branches:
                del self._bindings[binding.deployed_app_rid]

    def bindings(self) -> list[Binding]:
        """
        @return: every binding.
        """
        return [binding for branches in self._bindings.values() for binding in branches.values()]

    def unbind(self, runtime_id: str) -> None:
        """Take out every binding of one runtime."""
        for rid, branch in self._by_runtime.pop(runtime_id, {}):
            branches = self._bindings[rid]
            del branches[branch]
            if not branches:
                del self._bindings[rid]

    def bindings_of(self, runtime_id: str) -> list[Binding]:
        """
        @return: the bindings of one runtime, in the order they were made.
        """
        return [self._bindings[rid][branch] for rid, branch in self._by_runtime.get(runtime_id, {})]

    def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding | None:
        """
        @param branch: the branch asked for, or L{None} for whichever is active.
        @return: the active binding that serves it, or L{None}.
        """
        branches = self._bindings.get(deployed_app_rid, {})
        if branch is not None:
            binding = branches.get(branch)
            return binding if binding is not None and binding.active else None
        return next((binding for binding in branches.values() if binding.active), None)

    def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema], now: int) -> None:
        """
        Record what a runtime posted: known names are updated, others added.

        @param now: milliseconds since the epoch.
        """
        runtime = self.runtimes[runtime_id]
        runtime.schemas = dict(runtime.schemas or {})
        for schema in schemas:
            runtime.schemas[schema.function_name] = evolve(schema, posted_at=now)
        runtime.last_schema_post_at = now
