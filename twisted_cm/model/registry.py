"""All runtimes, replicas and bindings of one emulator."""

from __future__ import annotations

from attrs import evolve, field, frozen

from .queries import PostedFunction
from .replicas import DEFAULT_REPLICA, GONE_KEPT, Replica, ReplicaRequest
from .runtimes import DEFAULT_BRANCH, Binding, FunctionSchema, Runtime, new_module_auth_token


class Registry:
    """The runtimes and bindings of one emulator, or of one seed.

    Attributes:
        runtimes: The runtimes by id.
        replicas: The replicas that were opened, by runtime and id, in the order in which they were opened. Those that
            are gone are among them; the default replicas are not.
    """

    def __init__(self) -> None:
        self.runtimes: dict[str, Runtime] = {}
        self.replicas: dict[str, dict[str, Replica]] = {}
        # Bindings by rid, then by branch.
        self._bindings: dict[str, dict[str, Binding]] = {}
        # The rids and branches that each runtime serves, in the order they were bound.
        self._by_runtime: dict[str, dict[tuple[str, str], None]] = {}

    def copy(self) -> Registry:
        """Return a registry with the same bindings and with the runtimes as new: no polls, schemas or replicas."""
        return self.with_generated_tokens({})

    def with_generated_tokens(self, generated: dict[str, str]) -> Registry:
        """Return a copy in which every runtime has a token.

        Args:
            generated: Tokens by runtime id, for the runtimes that the seed gives none. A missing one is generated and
                added, so that the same dictionary gives the same tokens each time.
        """
        copy = Registry()
        for runtime_id, runtime in self.runtimes.items():
            token = runtime.module_auth_token or generated.setdefault(runtime_id, new_module_auth_token())
            copy.add(Runtime(runtime_id, token))
        for binding in self.bindings():
            copy.bind(binding)
        return copy

    def dropped_by_seed(self, old_seed: Registry, new_seed: Registry) -> list[str]:
        """Return the ids of the runtimes here that a change of the seed removes.

        Those are runtimes of the old seed that the new seed does not have, or has with another token. A runtime that
        no seed named, because a session created it, is never among them.
        """
        return [
            runtime_id
            for runtime_id, runtime in old_seed.runtimes.items()
            if runtime_id in self.runtimes
            and (
                runtime_id not in new_seed.runtimes
                or new_seed.runtimes[runtime_id].module_auth_token != runtime.module_auth_token
            )
        ]

    def apply_seed_change(self, old_seed: Registry, new_seed: Registry) -> list[str]:
        """Change here what differs between two seeds, and nothing else.

        The runtimes that :meth:`dropped_by_seed` names are removed. Runtimes and bindings of the new seed that are
        missing are added; a runtime whose token changed is therefore removed and added.

        Returns:
            The ids of the runtimes that were added.
        """
        for runtime_id in self.dropped_by_seed(old_seed, new_seed):
            self.remove(runtime_id)
        added = [runtime_id for runtime_id in new_seed.runtimes if runtime_id not in self.runtimes]
        for runtime_id in added:
            self.add(Runtime(runtime_id, new_seed.runtimes[runtime_id].module_auth_token))
        before, after = old_seed.bindings(), new_seed.bindings()
        for binding in before:
            if binding not in after:
                self.unbind(binding)
        for binding in after:
            if binding not in before or binding.runtime_id in added:
                self.bind(binding)
        return added

    def add(self, runtime: Runtime) -> None:
        """Add a runtime, or replace the one with the same id. Its bindings stay, its replicas do not."""
        self.runtimes[runtime.runtime_id] = runtime
        self.replicas[runtime.runtime_id] = {}

    def remove(self, runtime_id: str) -> None:
        """Remove a runtime, its replicas and its bindings."""
        del self.runtimes[runtime_id]
        del self.replicas[runtime_id]
        self.unbind_runtime(runtime_id)

    def has_replica(self, runtime_id: str, replica_id: str) -> bool:
        """Return whether a runtime has a replica that is not gone."""
        if replica_id == DEFAULT_REPLICA:
            return runtime_id in self.runtimes
        return self.opened_replica(runtime_id, replica_id) is not None

    def opened_replica(self, runtime_id: str, replica_id: str) -> Replica | None:
        """Return a replica that was opened and is not gone, or ``None``. The default one was not opened."""
        replica = self.replicas.get(runtime_id, {}).get(replica_id)
        return None if replica is None or replica.gone else replica

    def open_replica(self, request: ReplicaRequest, now: int) -> tuple[Replica, bool]:
        """Add a replica, and its runtime if that is not there. Nothing that is there is reset.

        Args:
            request: The replica; none with that id may be open.
            now: Milliseconds since the epoch.

        Returns:
            The replica, and whether its runtime was added.
        """
        runtime_id = request.runtime_id
        added = runtime_id not in self.runtimes
        if added:
            self.add(Runtime(runtime_id, new_module_auth_token()))
        replica = request.replica(now)
        # A replica that is gone may be opened again, and is then the last one.
        self.replicas[runtime_id].pop(replica.replica_id, None)
        self.replicas[runtime_id][replica.replica_id] = replica
        if request.deployed_app_rid is not None:
            branch = request.branch or DEFAULT_BRANCH
            bound = self.resolve(request.deployed_app_rid, branch)
            if bound is None or bound.runtime_id != runtime_id:
                self.bind(Binding(request.deployed_app_rid, branch, runtime_id))
        return replica, added

    def close_replica(self, runtime_id: str, replica_id: str, why: str, now: int) -> list[str]:
        """Note that a replica is gone.

        Args:
            runtime_id: The runtime.
            replica_id: A replica that is open, and not the default one.
            why: Why it is gone.
            now: Milliseconds since the epoch.

        Returns:
            The ids of the replicas that were gone before and are forgotten now.
        """
        replicas = self.replicas[runtime_id]
        replicas[replica_id].ended_at, replicas[replica_id].ended_why = now, why
        gone = sorted((each for each in replicas.values() if each.gone), key=lambda each: each.ended_at or 0)
        forgotten = [each.replica_id for each in gone[:-GONE_KEPT]]
        for each in forgotten:
            del replicas[each]
        return forgotten

    def bind(self, binding: Binding) -> None:
        """Bind a deployed app on its branch. If another runtime serves it, take it over."""
        branches = self._bindings.setdefault(binding.deployed_app_rid, {})
        key = (binding.deployed_app_rid, binding.branch)
        former = branches.get(binding.branch)
        if former is not None:
            self._by_runtime[former.runtime_id].pop(key)
        branches[binding.branch] = binding
        self._by_runtime.setdefault(binding.runtime_id, {})[key] = None

    def unbind(self, binding: Binding) -> None:
        """Remove one binding. Do nothing if it is not here, or was replaced by another."""
        branches = self._bindings.get(binding.deployed_app_rid, {})
        if branches.get(binding.branch) == binding:
            del self._by_runtime[binding.runtime_id][(binding.deployed_app_rid, binding.branch)]
            self._delete(binding.deployed_app_rid, binding.branch)

    def unbind_runtime(self, runtime_id: str) -> None:
        """Remove every binding of one runtime."""
        for rid, branch in self._by_runtime.pop(runtime_id, {}):
            self._delete(rid, branch)

    def _delete(self, rid: str, branch: str) -> None:
        branches = self._bindings[rid]
        del branches[branch]
        if not branches:
            del self._bindings[rid]

    def bindings(self) -> list[Binding]:
        """Return every binding."""
        return [binding for branches in self._bindings.values() for binding in branches.values()]

    def bindings_of(self, runtime_id: str) -> list[Binding]:
        """Return the bindings of one runtime, in the order they were made."""
        return [self._bindings[rid][branch] for rid, branch in self._by_runtime.get(runtime_id, {})]

    def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding | None:
        """Return the active binding of a deployed app, or ``None``.

        Args:
            deployed_app_rid: The deployed app.
            branch: The branch asked for; ``None`` for the first one that is active.
        """
        branches = self._bindings.get(deployed_app_rid, {})
        if branch is not None:
            binding = branches.get(branch)
            return binding if binding is not None and binding.active else None
        return next((binding for binding in branches.values() if binding.active), None)

    def functions(self, name: str, runtime_id: str | None = None) -> list[PostedFunction]:
        """Return the functions of that name that runtimes have posted, sorted by runtime.

        Args:
            name: The name of the functions.
            runtime_id: The only runtime to look at; ``None`` for all.
        """
        return [
            PostedFunction(each.runtime_id, tuple(self.bindings_of(each.runtime_id)), each.schemas[name])
            for each in sorted(self.runtimes.values(), key=lambda runtime: runtime.runtime_id)
            if each.schemas is not None and name in each.schemas and runtime_id in (None, each.runtime_id)
        ]

    def put_schemas(self, runtime_id: str, schemas: list[FunctionSchema], now: int) -> None:
        """Record the schemas that a runtime posted, in place of those that it posted before.

        Args:
            runtime_id: A runtime of this registry.
            schemas: One for each function.
            now: Milliseconds since the epoch.
        """
        runtime = self.runtimes[runtime_id]
        runtime.schemas = {schema.function_name: evolve(schema, posted_at=now) for schema in schemas}
        runtime.last_schema_post_at = now


@frozen
class SessionRequest:
    """A request to open a session of a runtime (contract section 1).

    Attributes:
        branch: ``None`` means ``master`` if a deployed app is named.
        keep_bindings: Keep the runtime's other bindings.
        token: The module auth token that the runtime is to have; ``None`` for a generated one.
    """

    runtime_id: str
    deployed_app_rid: str | None = None
    branch: str | None = None
    display_name: str | None = None
    keep_bindings: bool = False
    token: str | None = field(default=None, repr=False)

    def apply(self, registry: Registry) -> Runtime:
        """Add the runtime with its binding to ``registry``, and return it."""
        if not self.keep_bindings:
            registry.unbind_runtime(self.runtime_id)
        runtime = Runtime(self.runtime_id, self.token or new_module_auth_token())
        registry.add(runtime)
        if self.deployed_app_rid is not None:
            branch = self.branch or DEFAULT_BRANCH
            registry.bind(Binding(self.deployed_app_rid, branch, self.runtime_id, self.display_name))
        return runtime
