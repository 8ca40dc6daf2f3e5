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
from twisted.internet.interfaces import IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

from .. import __version__
from ..config.options import ServerOptions, server_options
from ..config.seed import Seed
from ..logs import FORMATS, LEVELS_VARIABLE, Level, begin_log, parse_level
from ..model.paths import CONTOUR, DASHBOARD
from ..model.tokens import DEVELOPMENT_TOKEN
from ..service import EmulatorService, make_service


@click.command()
@server_options
@click.option("--port-file", type=click.Path(path_type=Path), help="Write the URLs that are listened on here, as JSON.")
@click.option(
    "--stop-with-stdin", is_flag=True, help="Stop when standard input ends, as with the program that wrote it."
)
@click.option(
    "--log-format", type=click.Choice(FORMATS), default=FORMATS[0], help="For people, or a JSON object a line."
)
@click.option(
    "--log-level",
    "log_levels",
    type=parse_level,
    multiple=True,
    envvar=LEVELS_VARIABLE,
    metavar="[NAMESPACE=]LEVEL",
    help="As debug, or twisted_cm.broker=debug; may be repeated.  [default: info]",
)
def serve(
    port_file: Path | None, stop_with_stdin: bool, log_format: str, log_levels: tuple[Level, ...], **options: Any
) -> None:
    """Run the emulator until Ctrl-C. SIGHUP reads the seed file again."""
    from twisted.internet import reactor as installed

    from ..listeners import raise_file_limit
    from ..service import SeedReloader

    reactor: Any = installed
    raise_file_limit()
    server = ServerOptions(**options)
    service = make_service(reactor, server)
    begin_log(sys.stderr, log_format, log_levels)
    service.startService()
    SeedReloader(reactor, service, server.seed).startService()
    reactor.addSystemEventTrigger("before", "shutdown", _let_signals_end_it)
    reactor.addSystemEventTrigger("before", "shutdown", service.stopService)
    if stop_with_stdin:
        StopWithStdin(reactor)
    try:
        if port_file is not None:
            _write_port_file(port_file, service)
    except OSError as error:
        raise click.ClickException(f"{port_file}: {error.strerror}; choose another file with --port-file") from None
    # Not before the reactor handles signals: whoever reads that Ctrl-C stops it may try.
    reactor.callWhenRunning(_print_banner, service)
    reactor.run()


def _let_signals_end_it() -> None:
    """Whoever presses Ctrl-C once more does not want to wait."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def _write_port_file(path: Path, service: EmulatorService) -> None:
    written: dict[str, Any] = {"http": service.addresses.http, "https": service.addresses.https}
    if service.sidecar_addresses:
        written["sidecars"] = {
            runtime_id: {"http": each.http, "https": each.https}
            for runtime_id, each in service.sidecar_addresses.items()
        }
    partial = path.with_name(path.name + ".partial")
    partial.write_text(json.dumps(written) + "\n", "utf-8")
    partial.replace(path)


def _print_banner(service: EmulatorService) -> None:
    seed = service.settings.seed
    token = DEVELOPMENT_TOKEN if seed.development_token else "$TOKEN"
    rid = next((binding.deployed_app_rid for binding in seed.bindings), "ri.foundry.main.deployed-app.my-app")
    body = json.dumps({"deployedAppRid": rid, "queryType": "FUNCTION", "query": {}})
    lines = [
        f"twisted-cm {__version__}",
        *(f"  {url}" for url in service.urls()),
        f"  dashboard: {service.addresses.http}{DASHBOARD}",
        *_describe_tokens(seed),
        "Submit a job:",
        f"  curl -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)} {service.addresses.http}{CONTOUR}/compute-modules/jobs/execute",
        "Ctrl-C stops.",
    ]
    print("\n".join(lines), flush=True)


def _describe_tokens(seed: Seed) -> Iterator[str]:
    """The development token, which is no secret; of those in a seed only whose they are."""
    if seed.development_token:
        yield f"  bearer token: {DEVELOPMENT_TOKEN}"
    elif seed.tokens:
        yield f"  bearer tokens of the seed: {', '.join(bearer.principal.login for bearer in seed.tokens)}"


@implementer(IReadDescriptor)
class StopWithStdin:
    """Stops the reactor when standard input ends; what comes before its end means nothing."""

    def __init__(self, reactor: Any) -> None:
        self._reactor = reactor
        reactor.addReader(self)

    def fileno(self) -> int:
        """See L{IReadDescriptor}."""
        return 0

    def logPrefix(self) -> str:
        """See L{IReadDescriptor}."""
        return "stdin"

    def doRead(self) -> None:
        """See L{IReadDescriptor}."""
        with suppress(InterruptedError, BlockingIOError):
            if not os.read(0, 65536):
                self._reactor.removeReader(self)
                self._reactor.stop()

    def connectionLost(self, reason: Failure) -> None:
        """See L{IReadDescriptor}: its other side is gone, or the reactor has stopped for another reason."""
        with suppress(ReactorNotRunning):
            self._reactor.stop()
