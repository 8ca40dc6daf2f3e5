"""The runtimes of a broker in memory."""

from __future__ import annotations

from ..model.registry import Registry
from ..model.runtimes import Binding, Runtime
from ..model.tokens import fingerprint
from .interface import NotBound, UnknownRuntime


class Runtimes:
    """The runtimes of a broker with their bindings and tokens, and the seed they come from.

    Attributes:
        registry: The runtimes and bindings.
    """

    def __init__(self, seed: Registry) -> None:
        self._generated_tokens: dict[str, str] = {}
        self._by_token: dict[bytes, str] = {}
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

    def with_token(self, token: str) -> str | None:
        """Return the id of the runtime whose token was accepted, or ``None``."""
        return self._by_token.get(fingerprint(token))

    def accept_token(self, runtime: Runtime) -> None:
        """Accept the token of a runtime from now on."""
        self._by_token[fingerprint(runtime.module_auth_token)] = runtime.runtime_id

    def revoke_token(self, runtime: Runtime) -> None:
        """Accept the token of a runtime no longer."""
        self._by_token.pop(fingerprint(runtime.module_auth_token), None)

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
