"""All runtimes and bindings of one emulator."""

from __future__ import annotations

from attrs import evolve, frozen

from .runtimes import DEFAULT_BRANCH, Binding, FunctionSchema, Runtime, new_module_auth_token


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


@frozen
class SessionRequest:
    """
    What a runtime session is opened with (contract section 1).

    @ivar branch: L{None} means C{master} when a deployed app is named.
    @ivar keep_bindings: leave the runtime's other bindings as they are.
    """

    runtime_id: str
    deployed_app_rid: str | None = None
    branch: str | None = None
    display_name: str | None = None
    keep_bindings: bool = False

    def apply(self, registry: Registry) -> Runtime:
        """
        @return: the runtime of the new session, which is in C{registry} now with its bindings.
        """
        if not self.keep_bindings:
            registry.unbind(self.runtime_id)
        runtime = Runtime(self.runtime_id, new_module_auth_token())
        registry.add(runtime)
        if self.deployed_app_rid is not None:
            branch = self.branch or DEFAULT_BRANCH
            registry.bind(Binding(self.deployed_app_rid, branch, self.runtime_id, self.display_name))
        return runtime
