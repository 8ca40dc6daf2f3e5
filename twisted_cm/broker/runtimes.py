"""The runtimes of a broker in memory."""

from __future__ import annotations

from twisted.logger import Logger

from ..model.raised import first_line
from ..model.registry import Registry
from ..model.replicas import ModuleIdentity, Replica, ReplicaRequest
from ..model.runtimes import Binding, Runtime
from ..model.tokens import fingerprint
from .interface import NotBound, ReplicaExists, TokenInUse, UnknownReplica, UnknownRuntime


class Runtimes:
    """The runtimes of a broker with their bindings and tokens, and the seed they come from.

    Attributes:
        registry: The runtimes and bindings.
    """

    _log = Logger()

    def __init__(self, seed: Registry) -> None:
        self._generated_tokens: dict[str, str] = {}
        self._by_token: dict[bytes, ModuleIdentity] = {}
        self.reset(seed)

    def get(self, runtime_id: str) -> Runtime:
        """Return the runtime with that id.

        Raises:
            UnknownRuntime: There is none.
        """
        try:
            return self.registry.runtimes[runtime_id]
        except KeyError:
            raise UnknownRuntime(runtime_id) from None

    def resolve(self, deployed_app_rid: str, branch: str | None) -> Binding:
        """Return the active binding of a deployed app.

        Raises:
            NotBound: There is none.
        """
        binding = self.registry.resolve(deployed_app_rid, branch)
        if binding is None:
            raise NotBound(deployed_app_rid, branch)
        return binding

    def with_token(self, token: str) -> ModuleIdentity | None:
        """Return the runtime and the replica whose token was accepted, or ``None``."""
        return self._by_token.get(fingerprint(token))

    def accept_token(self, runtime: Runtime) -> None:
        """Accept the token of a runtime from now on."""
        self._by_token[fingerprint(runtime.module_auth_token)] = ModuleIdentity(runtime.runtime_id)

    def revoke_tokens(self, runtime: Runtime) -> None:
        """Accept the tokens of a runtime and of its replicas no longer."""
        self._by_token.pop(fingerprint(runtime.module_auth_token), None)
        for replica in self.registry.replicas[runtime.runtime_id].values():
            self._by_token.pop(fingerprint(replica.token), None)

    def open_replica(self, request: ReplicaRequest, now: int) -> tuple[Replica, Runtime | None]:
        """Open a replica, and accept its token.

        Returns:
            The replica, and its runtime if that is new.

        Raises:
            ReplicaExists: A replica with that id is open.
            TokenInUse: The token belongs to a runtime, or to a replica that is open.
        """
        runtime_id, wanted = request.runtime_id, request.replica_id
        if wanted is not None and self.registry.has_replica(runtime_id, wanted):
            raise ReplicaExists(runtime_id, wanted)
        if request.token is not None and self.with_token(request.token) is not None:
            raise TokenInUse(runtime_id)
        replica, added = self.registry.open_replica(request, now)
        self._by_token[fingerprint(replica.token)] = ModuleIdentity(runtime_id, replica.replica_id)
        self._log.info(
            "runtime {runtime_id}: replica {replica_id} opened, for {limit} jobs at once",
            runtime_id=runtime_id,
            replica_id=replica.replica_id,
            limit=replica.limit,
        )
        return replica, self.registry.runtimes[runtime_id] if added else None

    def close_replica(self, runtime_id: str, replica_id: str, why: str, now: int) -> None:
        """Note that a replica is gone, and accept its token no longer.

        Raises:
            UnknownReplica: There is none that can be closed.
        """
        replica = self.registry.opened_replica(runtime_id, replica_id)
        if replica is None:
            raise UnknownReplica(runtime_id, replica_id)
        self._by_token.pop(fingerprint(replica.token), None)
        self.registry.close_replica(runtime_id, replica_id, why, now)
        self._log.info(
            "runtime {runtime_id}: replica {replica_id} closed: {why}",
            runtime_id=runtime_id,
            replica_id=replica_id,
            why=first_line(why),
        )

    def reset(self, seed: Registry) -> None:
        """Replace all runtimes and bindings by those of a seed.

        A runtime without a token in the seed gets the same generated token each time.
        """
        self._seed = self._complete(seed)
        self.registry = self._seed.copy()

    def dropped_by(self, seed: Registry) -> list[str]:
        """Return the ids of the runtimes that :meth:`change_seed` would remove."""
        return self.registry.dropped_by_seed(self._seed, self._complete(seed))

    def change_seed(self, seed: Registry) -> list[str]:
        """Apply what differs from the last seed, and return the ids of the runtimes that were added."""
        old_seed, self._seed = self._seed, self._complete(seed)
        return self.registry.apply_seed_change(old_seed, self._seed)

    def _complete(self, seed: Registry) -> Registry:
        return seed.with_generated_tokens(self._generated_tokens)
