"""Which runtime does a command stand for, and how does it join the server as that runtime?"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import click
from attrs import Factory, evolve, field, frozen

from ..client.api import RuntimeSession
from ..config.found_seed import find_seed
from ..config.module_settings import ModuleSettings
from ..config.seed import Seed, read_seed
from ..config.seed_file import InvalidSeed
from ..model.tokens import OAuthClient
from .connection_options import CONNECTION_OPTIONS, DEFAULT_URL, ConnectionOptions, pass_options, url_of


@frozen(kw_only=True)
class RuntimeOptions(ConnectionOptions):
    """The runtime that a command stands for.

    Attributes:
        url: The server's base URL; empty if the user named none.
        runtime_id: The runtime.
        deployed_app: Bind this deployed app to the runtime.
        branch: The branch of the deployed app.
        seed: A seed file that describes the runtime.
        module_auth_token: The runtime's token, if the user knows it.
        admin_token: Opens a session on a server that listens beyond loopback.
    """

    runtime_id: str
    deployed_app: str | None
    branch: str | None
    seed: Path | None
    module_auth_token: str | None = field(repr=False)
    admin_token: str | None = field(repr=False)

    def known(self) -> KnownRuntime:
        """Return the runtime with what the seed says of it.

        Raises:
            click.ClickException: The options contradict each other, the seed is not valid, or it does not have the
                runtime.
        """
        if self.branch is not None and self.deployed_app is None:
            raise click.UsageError("--branch needs --deployed-app.")
        if self.seed is not None:
            return self._described_by(self.seed)
        # The seed of this directory need not be that of a server that is named.
        found = None if self.url else find_seed()
        return KnownRuntime(evolve(self, url=self.url or DEFAULT_URL)) if found is None else self._described_by(found)

    def _described_by(self, path: Path) -> KnownRuntime:
        try:
            seed = read_seed(path)
        except InvalidSeed as error:
            raise click.ClickException(str(error)) from None
        seeded = next((each for each in seed.runtimes if each.runtime_id == self.runtime_id), None)
        if seeded is None:
            if self.seed is None and self.deployed_app is not None:
                # A new runtime, at the server of this directory.
                return KnownRuntime(evolve(self, url=url_of(seed, path)))
            raise click.ClickException(no_such_runtime(self.runtime_id, seed, path))
        return KnownRuntime(
            evolve(
                self,
                seed=path,
                url=self.url or url_of(seed, path),
                module_auth_token=self.module_auth_token or seeded.module_auth_token,
            ),
            seeded.module,
            seed.application_of(seeded.module),
            seed.deployed_app_of(self.runtime_id),
            next((each.port or None for each in seed.sidecars if each.runtime_id == self.runtime_id), None),
        )


def no_such_runtime(runtime_id: str, seed: Seed, path: Path | None) -> str:
    """Return the message for a runtime that a seed does not have, with the nearest name or all of them."""
    names = [each.runtime_id for each in seed.runtimes]
    near = difflib.get_close_matches(runtime_id, names, n=1)
    if near:
        hint = f"Did you mean '{near[0]}'?"
    else:
        hint = f"It has: {', '.join(names)}." if names else "Add one under 'runtimes'."
    return f"{path or 'The seed'} has no runtime '{runtime_id}'. {hint}"


@frozen
class KnownRuntime:
    """A runtime with what the seed says of it.

    Attributes:
        options: The options, with the URL of the server, and with the runtime's token if it is known.
        settings: What its modules find around them.
        application: The OAuth client that ``settings`` names.
        deployed_app_rid: A deployed app that the seed binds to the runtime.
        sidecar_port: The port of the runtime's plain sidecar listener, if the seed has one.
    """

    options: RuntimeOptions
    settings: ModuleSettings = Factory(ModuleSettings)
    application: OAuthClient | None = None
    deployed_app_rid: str | None = None
    sidecar_port: int | None = None

    async def join(self, reactor: Any) -> RuntimeSession:
        """Join the runtime as its default replica.

        A known token is used as it is. Otherwise, a session is opened, which resets the runtime but keeps its bindings.

        Raises:
            click.ClickException: The options contradict each other.
            twisted_cm.client.ComputeModulesError: The server refuses, or none answers.
        """
        options = self.options
        if options.module_auth_token is None:
            return await self.reset(reactor)
        if options.deployed_app is not None:
            raise click.UsageError(
                "--deployed-app needs a new session, but the options give an existing token. Leave out one of them."
            )
        return RuntimeSession.join(
            options.url, options.runtime_id, options.module_auth_token, **options.client_arguments(reactor)
        )

    async def reset(self, reactor: Any) -> RuntimeSession:
        """Open a session of the runtime, which resets it but keeps its bindings, and its token if that is known.

        Raises:
            twisted_cm.client.ComputeModulesError: The server refuses, or none answers.
        """
        options = self.options
        return await RuntimeSession.open(
            options.url,
            options.runtime_id,
            options.deployed_app,
            options.branch,
            keep_bindings=True,
            token=options.module_auth_token,
            admin_token=options.admin_token,
            **options.client_arguments(reactor),
        )


#: Give a command the options of a runtime; it takes :class:`RuntimeOptions` as its first argument.
runtime_options = pass_options(
    RuntimeOptions,
    (
        click.option("--runtime", "runtime_id", required=True, metavar="ID", help="Runtime to stand for."),
        click.option("--deployed-app", metavar="RID", help="Bind this deployed app to the runtime."),
        click.option("--branch", help="Branch of the deployed app.  [default: master]"),
        click.option(
            "--seed",
            type=click.Path(path_type=Path),
            metavar="FILE",
            help="Seed file that describes the runtime; the server must have read it, too."
            "  [default: twisted-cm.yaml or seed.yaml of this directory, unless --url is given]",
        ),
        click.option(
            "--module-auth-token",
            metavar="TOKEN",
            help="The runtime's token.  [default: the seed's, if it has one]",
        ),
        click.option(
            "--admin-token",
            envvar="TWISTED_CM_ADMIN_TOKEN",
            metavar="TOKEN",
            help="Admin token, for a server that listens beyond loopback if the runtime's token is not known.",
        ),
        click.option(
            "--url",
            default="",
            envvar="TWISTED_CM_URL",
            help=f"Base URL of the server.  [default: the seed's port, or {DEFAULT_URL}]",
        ),
        *CONNECTION_OPTIONS[1:],
    ),
)
