"""The emulator under twistd: ``twistd compute-modules``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import click
from twisted.application.service import IService
from twisted.logger import Logger
from twisted.python import usage

from .config.options import ServerOptions, server_options
from .listeners import raise_file_limit
from .model.tokens import DEVELOPMENT_TOKEN
from .supervisor.service import log_line, supervise

_log = Logger()


@click.command("compute-modules")
@server_options
def _command(**options: object) -> None:
    """Run a local emulator of Palantir Foundry's compute modules."""


class Options(usage.Options):
    """The options as twistd expects them, parsed by click, so that they are the same as those of ``twisted-cm serve``.

    Attributes:
        server: The options as they were given.
    """

    server: ServerOptions

    def parseOptions(self, options: Sequence[str] | None = None) -> None:
        try:
            context = _command.make_context("twistd compute-modules", list(options or ()))
            self.server = ServerOptions(**context.params)
        except click.exceptions.Exit as exit:
            raise SystemExit(exit.exit_code) from None
        except click.ClickException as error:
            _die(error)


def makeService(options: Options) -> IService:
    """Return the service, its sockets bound. If it cannot be made, end the process with one line that says why."""
    from twisted.internet import reactor as installed

    reactor: Any = installed
    raise_file_limit()
    try:
        both = supervise(reactor, options.server)
    except click.ClickException as error:
        _die(error)
    if both.emulator.development_token:
        _log.info("bearer token: {token}", token=DEVELOPMENT_TOKEN)
    both.supervisor.output.read(log_line)
    return both


def _die(error: click.ClickException) -> NoReturn:
    print(f"twistd compute-modules: {error.format_message()}", file=sys.stderr)
    raise SystemExit(error.exit_code)
