"""Which runtime does a command stand for, and how does it join the server as that runtime?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from attrs import field, frozen

from ..client.api import RuntimeSession
from ..config.seed import read_seed
from ..config.seed_file import InvalidSeed
from .connection_options import CONNECTION_OPTIONS, ConnectionOptions, pass_options


@frozen(kw_only=True)
class RuntimeOptions(ConnectionOptions):
    """The runtime that a command stands for.

    Attributes:
        runtime_id: The runtime.
        deployed_app: Bind this deployed app to the runtime.
        branch: The branch of the deployed app.
        seed: A seed file to read the runtime's token from.
        module_auth_token: The runtime's token, if the user knows it.
        admin_token: Opens a session on a server that listens beyond loopback.
    """

    runtime_id: str
    deployed_app: str | None
    branch: str | None
    seed: Path | None
    module_auth_token: str | None = field(repr=False)
    admin_token: str | None = field(repr=False)

    def known_token(self) -> str | None:
        """Return the token to join the runtime with, or ``None`` if a session has to be opened.

        Raises:
            click.ClickException: The options contradict each other, or the seed is not valid.
        """
        token = self.module_auth_token
        if self.seed is not None and token is None:
            try:
                runtimes = read_seed(self.seed).runtimes
            except InvalidSeed as error:
                raise click.ClickException(str(error)) from None
            token = next((each.module_auth_token for each in runtimes if each.runtime_id == self.runtime_id), None)
        if token is not None and self.deployed_app is not None:
            raise click.UsageError(
                "--deployed-app needs a new session, but the options give an existing token. Leave out one of them."
            )
        if self.branch is not None and self.deployed_app is None:
            raise click.UsageError("--branch needs --deployed-app.")
        return token

    async def join(self, reactor: Any, token: str | None) -> RuntimeSession:
        """Join the runtime.

        Args:
            token: The result of :meth:`known_token`; ``None`` opens a session that keeps the runtime's bindings.

        Raises:
            twisted_cm.client.ComputeModulesError: The server refuses, or none answers.
        """
        client = self.client_arguments(reactor)
        if token is not None:
            return RuntimeSession.join(self.url, self.runtime_id, token, **client)
        return await RuntimeSession.open(
            self.url,
            self.runtime_id,
            self.deployed_app,
            self.branch,
            keep_bindings=True,
            admin_token=self.admin_token,
            **client,
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
            help="Use the runtime's token from this seed file, if it has one.",
        ),
        click.option(
            "--module-auth-token", metavar="TOKEN", help="Use this existing token instead of opening a session."
        ),
        click.option(
            "--admin-token",
            envvar="TWISTED_CM_ADMIN_TOKEN",
            metavar="TOKEN",
            help="Admin token, to open a session on a server that listens beyond loopback.",
        ),
        *CONNECTION_OPTIONS,
    ),
)
