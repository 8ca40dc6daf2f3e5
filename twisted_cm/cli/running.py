"""How does a command run an emulator and its modules, from the start to Ctrl-C?"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import wraps
from pathlib import Path
from typing import Any, TypeVar, cast

import click
from attrs import evolve, fields, frozen
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from ..config.found_seed import find_seed
from ..config.options import ServerOptions
from ..config.seed import Seed
from ..config.settings import Settings
from ..listeners import raise_file_limit
from ..logs import FORMATS, LEVELS_VARIABLE, Level, begin_log, parse_level
from ..service import EmulatorService
from ..serving.parent import parent_of
from ..supervisor.service import SupervisedEmulator, Supervisor, supervise

F = TypeVar("F", bound=Callable[..., Any])

#: The options of a command that runs an emulator, besides those of the server.
_OPTIONS = (
    click.option(
        "--reload", is_flag=True, help="Replace a module of the seed by a new process when one of its files changes."
    ),
    click.option(
        "--port-file",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Write the URLs that the server listens on to this file, as JSON.",
    ),
    click.option(
        "--stop-with-stdin",
        is_flag=True,
        help="Stop when standard input ends, for example when the program that started the server has exited.",
    ),
    click.option(
        "--log-format",
        type=click.Choice(FORMATS),
        default=FORMATS[0],
        show_default=True,
        help="Log lines for people, or one JSON object on each line.",
    ),
    click.option(
        "--log-level",
        "log_levels",
        type=parse_level,
        multiple=True,
        envvar=LEVELS_VARIABLE,
        metavar="[NAMESPACE=]LEVEL",
        help="Lowest level to log, for example debug or twisted_cm.broker=debug; can be repeated.  [default: info]",
    ),
)


@frozen(kw_only=True)
class RunOptions:
    """How an emulator runs.

    Attributes:
        reload: Whether modules are replaced when their files change.
        port_file: Gets the URLs, as JSON.
        stop_with_stdin: Whether to stop when standard input ends.
        log_format: One of :data:`.FORMATS`.
        log_levels: The lowest levels that are logged.
    """

    reload: bool
    port_file: Path | None
    stop_with_stdin: bool
    log_format: str
    log_levels: tuple[Level, ...]


def run_options(command: F) -> F:
    """Give a click command the options of a run; it takes :class:`RunOptions` as the argument ``run``."""
    names = [each.name for each in fields(RunOptions)]

    @wraps(command)
    def wrapper(**values: Any) -> Any:
        return command(run=RunOptions(**{name: values.pop(name) for name in names}), **values)

    decorated: Any = wrapper
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return cast(F, decorated)


def server_with_found_seed(options: Mapping[str, Any]) -> ServerOptions:
    """Return the options of a server, with the seed file of the current directory if they name none."""
    server = ServerOptions(**options)
    return server if server.seed is not None else evolve(server, seed=find_seed())


def run_emulator(
    options: ServerOptions,
    run: RunOptions,
    adapt: Callable[[Seed], Seed],
    started: Callable[[EmulatorService, Supervisor], None],
    workers: int = 1,
) -> None:
    """Run an emulator and the modules of its seed until Ctrl-C.

    Args:
        options: The options of the server.
        run: How it runs.
        adapt: Changes each seed that is read.
        started: Called when the reactor runs and handles signals.
        workers: How many processes serve its ports.

    Raises:
        click.ClickException: It cannot be started; the message says what to do.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    raise_file_limit()
    service: Callable[[IReactorTime, Settings], EmulatorService] = EmulatorService
    if workers > 1:
        service = parent_of(workers, run.log_format, run.log_levels)
    both = supervise(reactor, options, adapt, run.reload, service)
    begin_log(sys.stderr, run.log_format, run.log_levels)
    both.startService()
    reactor.addSystemEventTrigger("before", "shutdown", _restore_signals)
    reactor.addSystemEventTrigger("before", "shutdown", both.stopService)
    if run.stop_with_stdin:
        _stop_with_stdin(reactor)
    try:
        if run.port_file is not None:
            _write_port_file(run.port_file, both)
    except OSError as error:
        raise click.ClickException(
            f"Cannot write {run.port_file}: {error.strerror}. Choose another file with --port-file."
        ) from None
    # The banner says that Ctrl-C stops the server, so it is printed only when the reactor handles signals.
    reactor.callWhenRunning(started, both.emulator, both.supervisor)
    # What has been imported stays to the end. The garbage collector would search it again, several times at the exit.
    gc.freeze()
    reactor.run()


def _restore_signals() -> None:
    """Let a second Ctrl-C end the process at once, while the first one still waits for parked callers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _write_port_file(path: Path, both: SupervisedEmulator) -> None:
    # Readers wait for the file to appear, so it must appear complete.
    partial = path.with_name(path.name + ".partial")
    service = both.emulator
    written: dict[str, Any] = {"http": service.addresses.http, "https": service.addresses.https}
    if service.sidecar_addresses:
        written["sidecars"] = {
            runtime_id: {"http": each.http, "https": each.https}
            for runtime_id, each in service.sidecar_addresses.items()
        }
    partial.write_text(json.dumps(written) + "\n", "utf-8")
    partial.replace(path)


class _StopAtEnd(Protocol):
    """Stops the reactor when its input ends, and ignores the input itself."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        # Twisted also calls this when the reactor stops for another reason.
        with suppress(ReactorNotRunning):
            self._reactor.stop()


def _stop_with_stdin(reactor: Any) -> None:
    """Stop the reactor when standard input ends; if it is closed already, as soon as the reactor runs."""
    if sys.stdin is None:
        # Descriptor 0 may belong to something else by now.
        reactor.callWhenRunning(reactor.stop)
        return
    blocking = os.get_blocking(0)
    # StandardIO takes its output over and would make it non-blocking, so it gets the null device:
    # the banner is printed to the real standard output.
    # (mypy knows only the signature that StandardIO has on Windows.)
    harmless = os.open(os.devnull, os.O_WRONLY)
    StandardIO(_StopAtEnd(reactor), stdin=0, stdout=harmless, reactor=reactor)  # type: ignore[call-arg]
    # On a terminal, standard input and output are one open file, and non-blocking prints to it can fail.
    # Blocking input is safe, because the reactor reads only when there is something to read.
    os.set_blocking(0, blocking)
