"""The command that runs the emulator."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from twisted.internet.error import ReactorNotRunning
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.python.failure import Failure

from .. import __version__
from ..config.options import ServerOptions, server_options
from ..listeners import raise_file_limit
from ..logs import FORMATS, LEVELS_VARIABLE, Level, begin_log, parse_level
from ..model.paths import CONTOUR, DASHBOARD
from ..model.tokens import DEVELOPMENT_TOKEN
from ..service import EmulatorService, SeedReloader, make_service


@click.command()
@server_options
@click.option(
    "--port-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the URLs that the server listens on to this file, as JSON.",
)
@click.option(
    "--stop-with-stdin",
    is_flag=True,
    help="Stop when standard input ends, for example when the program that started the server has exited.",
)
@click.option(
    "--log-format",
    type=click.Choice(FORMATS),
    default=FORMATS[0],
    show_default=True,
    help="Log lines for people, or one JSON object on each line.",
)
@click.option(
    "--log-level",
    "log_levels",
    type=parse_level,
    multiple=True,
    envvar=LEVELS_VARIABLE,
    metavar="[NAMESPACE=]LEVEL",
    help="Lowest level to log, for example debug or twisted_cm.broker=debug; can be repeated.  [default: info]",
)
def serve(
    port_file: Path | None, stop_with_stdin: bool, log_format: str, log_levels: tuple[Level, ...], **options: Any
) -> None:
    """Run the emulator until Ctrl-C.

    Without --seed, it accepts the token test_token_admin and has no runtimes; 'twisted-cm exec' adds one.
    The signal SIGHUP makes it read the seed file again.

    \b
    Examples:
      twisted-cm serve
      twisted-cm serve --seed seed.yaml --port 4000
      twisted-cm serve --record jobs.jsonl
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    raise_file_limit()
    server = ServerOptions(**options)
    service = make_service(reactor, server)
    begin_log(sys.stderr, log_format, log_levels)
    service.startService()
    SeedReloader(reactor, service, server.seed).startService()
    reactor.addSystemEventTrigger("before", "shutdown", _restore_signals)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    if stop_with_stdin:
        _stop_with_stdin(reactor)
    try:
        if port_file is not None:
            _write_port_file(port_file, service)
    except OSError as error:
        raise click.ClickException(
            f"Cannot write {port_file}: {error.strerror}. Choose another file with --port-file."
        ) from None
    # The banner says that Ctrl-C stops the server, so it is printed only when the reactor handles signals.
    reactor.callWhenRunning(_print_banner, service)
    reactor.run()


def _restore_signals() -> None:
    """Let a second Ctrl-C end the process at once, while the first one still waits for parked callers."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _write_port_file(path: Path, service: EmulatorService) -> None:
    # Readers wait for the file to appear, so it must appear complete.
    partial = path.with_name(path.name + ".partial")
    written: dict[str, Any] = {"http": service.addresses.http, "https": service.addresses.https}
    if service.sidecar_addresses:
        written["sidecars"] = {
            runtime_id: {"http": each.http, "https": each.https}
            for runtime_id, each in service.sidecar_addresses.items()
        }
    partial.write_text(json.dumps(written) + "\n", "utf-8")
    partial.replace(path)


def _print_banner(service: EmulatorService) -> None:
    seed = service.settings.seed
    token = DEVELOPMENT_TOKEN if service.development_token else "$TOKEN"
    rid = next((binding.deployed_app_rid for binding in seed.bindings), "ri.foundry.main.deployed-app.my-app")
    body = json.dumps({"deployedAppRid": rid, "queryType": "FUNCTION", "query": {}})
    lines = [
        f"twisted-cm {__version__}",
        *(f"  {url}" for url in service.urls()),
        f"  dashboard: {service.addresses.http}{DASHBOARD}",
        *_describe_tokens(service),
        "Submit a job:",
        f"  curl -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)} {service.addresses.http}{CONTOUR}/compute-modules/jobs/execute",
        "Ctrl-C stops.",
    ]
    print("\n".join(lines), flush=True)


def _describe_tokens(service: EmulatorService) -> Iterator[str]:
    """Show the development token, which is no secret; of the tokens in a seed, show only the logins."""
    tokens = service.settings.seed.tokens
    if service.development_token:
        yield f"  bearer token: {DEVELOPMENT_TOKEN}"
    elif tokens:
        yield f"  bearer tokens of the seed: {', '.join(bearer.principal.login for bearer in tokens)}"


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
