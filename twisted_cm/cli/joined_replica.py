"""How does a command join a runtime with a replica, and look after it?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click
from attrs import frozen
from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.internet.task import deferLater

from ..client.api import (
    ComputeModulesError,
    EmulatorControl,
    EmulatorInfo,
    InvalidModuleAuthToken,
    InvalidRequest,
    NotFound,
    ReplicaSession,
    ReplicaStatus,
)
from ..model.replicas import DEFAULT_CONCURRENT_TASKS, new_replica_id
from ..model.runtimes import new_module_auth_token
from .runtime_options import KnownRuntime

#: Seconds before a request is repeated that no server answered.
_PAUSE = 0.5

#: Seconds after its first poll within which the TypeScript SDK posts its schemas.
_SCHEMAS_FOLLOW = 1.0


@frozen
class ReplicaPlan:
    """A replica to open.

    Attributes:
        runtime: The runtime.
        replica_id: The replica's id.
        max_concurrent_tasks: How many unfinished jobs may be on it.
        token: The token that it is to have.
    """

    runtime: KnownRuntime
    replica_id: str
    max_concurrent_tasks: int
    token: str

    @classmethod
    def make(
        cls, runtime: KnownRuntime, max_concurrent_tasks: int | None, replica_id: str | None = None
    ) -> ReplicaPlan:
        """Return a plan for a new replica.

        Args:
            runtime: The runtime.
            max_concurrent_tasks: ``None`` for what the seed says.
            replica_id: ``None`` for a generated one.
        """
        limit = max_concurrent_tasks or runtime.settings.max_concurrent_tasks or DEFAULT_CONCURRENT_TASKS
        return cls(runtime, replica_id or new_replica_id(), limit, new_module_auth_token())

    async def look_at_server(self, reactor: Any) -> tuple[str, EmulatorInfo]:
        """Return the URL of the server and what it says of itself."""
        options = self.runtime.options
        async with EmulatorControl(options.url, **options.client_arguments(reactor)) as control:
            return control.url, await control.info()

    async def open(self, reactor: Any) -> ReplicaSession:
        """Open the replica.

        Raises:
            click.ClickException: The server is not the one that the seed is for.
            twisted_cm.client.ComputeModulesError: The server refuses, or none answers.
        """
        options = self.runtime.options
        try:
            return await ReplicaSession.open(
                options.url,
                options.runtime_id,
                self.replica_id,
                self.max_concurrent_tasks,
                options.deployed_app,
                options.branch,
                existing_runtime=options.seed is not None,
                token=self.token,
                module_auth_token=options.module_auth_token,
                admin_token=options.admin_token,
                **options.client_arguments(reactor),
            )
        except NotFound:
            if options.seed is None:
                raise
            raise click.ClickException(
                f"The server at {options.url} has no runtime '{options.runtime_id}', so it has not read {options.seed}."
                f" Start one with 'twisted-cm serve --seed {options.seed}', or name another one with --url."
            ) from None
        except InvalidModuleAuthToken:
            raise click.ClickException(
                f"The server at {options.url} has another token for runtime '{options.runtime_id}'. Give its token with"
                " --module-auth-token, or name another server with --url."
            ) from None

    def join(self, reactor: Any) -> ReplicaSession:
        """Use the replica, which is open."""
        options = self.runtime.options
        return ReplicaSession.join(
            options.url, options.runtime_id, self.replica_id, self.token, **options.client_arguments(reactor)
        )


class Companion:
    """Looks after an open replica while its module runs.

    It says when the module is connected, opens the replica again if the server has forgotten it, and ends the module if
    somebody has deleted the replica.
    """

    def __init__(
        self,
        reactor: Any,
        plan: ReplicaPlan,
        replica: ReplicaSession,
        say: Callable[[str], None],
        deleted: Callable[[], None],
    ) -> None:
        """Prepare to look after a replica.

        Args:
            reactor: The source of time.
            plan: How the replica was opened.
            replica: The replica.
            say: Prints a line.
            deleted: Called if somebody has deleted the replica.
        """
        self._reactor = reactor
        self._plan = plan
        self._replica = replica
        self._say = say
        self._deleted = deleted
        self._lost = False

    async def run(self) -> None:
        """Look after the replica until it is deleted, or until this is canceled."""
        connected = False
        announcing: Deferred[None] = succeed(None)
        try:
            while True:
                try:
                    status = await self._replica.status("gone" if connected else "connected", hold=True)
                    self._lost = False
                    if status.state.connected and not connected:
                        connected = True
                        announcing = Deferred.fromCoroutine(self._announce(status))
                        announcing.addErrback(lambda failure: failure.trap(CancelledError, ComputeModulesError))
                except (InvalidModuleAuthToken, NotFound):
                    connected = not await self._open_again() and connected
                except ComputeModulesError:
                    self._miss()
                    await deferLater(self._reactor, _PAUSE)
                else:
                    if status.ended_why is not None:
                        self._say(f"The replica was deleted: {status.ended_why}. The module stops.")
                        self._deleted()
                        return
        finally:
            announcing.cancel()

    async def _announce(self, status: ReplicaStatus) -> None:
        # This request follows the next one of run(). When the server has that one, the replica ends with this command.
        await deferLater(self._reactor, 0 if status.functions is not None else _SCHEMAS_FOLLOW)
        status = await self._replica.status(hold=True)
        if status.functions is None:
            reported = "no functions reported"
        else:
            reported = "1 function" if len(status.functions) == 1 else f"{len(status.functions)} functions"
        self._say(f"connected, {reported}")

    async def _open_again(self) -> bool:
        """Open a replica that the server has forgotten; return whether it is open."""
        try:
            session = await self._plan.open(self._reactor)
        except InvalidRequest:
            # An earlier attempt succeeded, but its answer was lost.
            await deferLater(self._reactor, _PAUSE)
            return True
        except (ComputeModulesError, click.ClickException) as error:
            if not self._lost:
                self._say(f"The server does not know the replica any more: {error}")
                self._lost = True
            await deferLater(self._reactor, _PAUSE)
            return False
        await session.close()
        self._lost = False
        self._say("The server was reset or started again; joined it again.")
        return True

    def _miss(self) -> None:
        if not self._lost:
            self._say("The server does not answer; the module waits for it.")
            self._lost = True
