"""The command line: C{twisted-cm}."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from importlib.resources import files
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click
from twisted.internet.defer import CancelledError

from . import __version__, terminal
from .credentials import DEVELOPMENT_TOKEN
from .logs import FORMATS, LEVELS_VARIABLE, Level, begin_log, parse_level
from .options import ServerOptions, make_service, server_options
from .seed import InvalidSeed, Seed, read_seed
from .shell import caller_options, connection, known_token, printable, run, runtime_options
from .tls import default_state_dir

if TYPE_CHECKING:
    from .launch import Launch
    from .service import EmulatorService

_CONTOUR = "/contour-backend-multiplexer/api/module-group-multiplexer"
_DASHBOARD = "/_emulate/foundry/compute-modules/"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="twisted-cm")
def main() -> None:
    """A local emulator of Palantir Foundry's compute modules."""


for _command in terminal.COMMANDS:
    main.add_command(_command)


# Serving


@main.command()
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

    from .service import SeedReloader, StopWithStdin, raise_file_limit

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
        f"  dashboard: {service.addresses.http}{_DASHBOARD}",
        *_describe_tokens(seed),
        "Submit a job:",
        f"  curl -H \"Authorization: Bearer {token}\" -H 'Content-Type: application/json' \\",
        f"    -d {shlex.quote(body)} {service.addresses.http}{_CONTOUR}/compute-modules/jobs/execute",
        "Ctrl-C stops.",
    ]
    print("\n".join(lines), flush=True)


def _describe_tokens(seed: Seed) -> Iterator[str]:
    """The development token, which is no secret; of those in a seed only whose they are."""
    if seed.development_token:
        yield f"  bearer token: {DEVELOPMENT_TOKEN}"
    elif seed.tokens:
        yield f"  bearer tokens of the seed: {', '.join(bearer.principal.login for bearer in seed.tokens)}"


# Starting a runtime


def _launch_variables(
    runtime_id: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
    module_auth_token: str | None,
    seed: Path | None,
    deployed_app: str | None,
    branch: str | None,
    admin_token: str | None,
) -> Mapping[str, str]:
    from .launch import CannotLaunch, bypass_proxies, launch_directory, prepare_launch, write_environment

    module_auth_token = known_token(runtime_id, module_auth_token, seed, deployed_app, branch)

    async def prepare(reactor: Any) -> Launch:
        made = connection(reactor, url, ca, state_dir)
        return await prepare_launch(url, runtime_id, module_auth_token, deployed_app, branch, admin_token, **made)

    launch = run(prepare)
    directory = launch_directory((state_dir or default_state_dir()).absolute(), runtime_id)
    try:
        return bypass_proxies(write_environment(launch, directory), os.environ)
    except CannotLaunch as error:
        raise click.ClickException(str(error)) from None


@main.command("exec", context_settings={"ignore_unknown_options": False})
@runtime_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(command: tuple[str, ...], **options: Any) -> None:
    """
    Start a runtime process: twisted-cm exec --runtime ID -- COMMAND …

    COMMAND takes this process's place under the variables that compute-module
    SDKs read, so signals reach it and its exit status is this command's.
    """
    environment = {**os.environ, **_launch_variables(**options)}
    # Python ignores this signal; a program that was started by a shell would not.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    try:
        os.execvpe(command[0], command, environment)
    except OSError as error:
        click.echo(f"Error: {command[0]}: {error.strerror}; name a program after --", err=True)
        raise SystemExit(127 if isinstance(error, FileNotFoundError) else 126) from None


@main.command()
@runtime_options
def env(**options: Any) -> None:
    """Print a runtime process's variables, for docker run --env-file."""
    for name, value in _launch_variables(**options).items():
        click.echo(f"{name}={value}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--timing", is_flag=True, help="Take as long for each job as was recorded.")
@runtime_options
def replay(
    file: Path,
    timing: bool,
    runtime_id: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
    module_auth_token: str | None,
    seed: Path | None,
    deployed_app: str | None,
    branch: str | None,
    admin_token: str | None,
) -> None:
    """
    Stand in for a runtime until Ctrl-C, with the answers that 'serve --record' wrote to FILE.

    A job is answered with what was recorded for the same function and query: the first time with the first recording
    of that, then with the next, and with the last from then on. What failed fails again; a query that was not
    recorded fails with the difference from the nearest one. Canceled jobs are passed over. Secrets are masked in the
    recording, and so in its answers, and do not count when queries are compared.

    The exit status is 1 if anything was asked for that was not recorded.
    """
    from .recording import InvalidRecording, Recording, Replay

    token = known_token(runtime_id, module_auth_token, seed, deployed_app, branch)
    try:
        recording = Recording(file)
    except InvalidRecording as error:
        raise click.ClickException(printable(str(error), "\n")) from None

    def say(text: str) -> None:
        click.echo(printable(text, "\n"), err=True)

    async def stand_in(reactor: Any) -> bool:
        from .client import RuntimeSession

        made = connection(reactor, url, ca, state_dir)
        if token is None:
            session = await RuntimeSession.open(
                url, runtime_id, deployed_app, branch, keep_bindings=True, admin_token=admin_token, **made
            )
        else:
            session = RuntimeSession.join(url, runtime_id, token, **made)
        async with session:
            player = Replay(reactor, session, recording, timing, say)
            passed = f"; {recording.skipped} canceled jobs are passed over" if recording.skipped else ""
            say(f"Runtime {runtime_id} answers from {recording.size} recorded jobs{passed}. Ctrl-C stops.")
            try:
                await player.run()
            except CancelledError:
                pass
            finally:
                say(player.summarize())
            return player.outcomes["not recorded"] == 0

    raise SystemExit(0 if run(stand_in) else 1)


# Submitting jobs


@main.command()
@click.argument("rid", required=False)
@click.argument("function", required=False)
@click.argument("query", required=False)
@click.option("--branch", help="The deployed app's branch.  [default: any that is active]")
@click.option("--async", "asynchronous", is_flag=True, help="Print the job's id and do not wait.")
@click.option("--timeout", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Wait no longer.")
@click.option("--jobs", type=click.Path(path_type=Path), metavar="FILE", help="Submit a job for each line of FILE.")
@click.option(
    "--concurrency", type=click.IntRange(1), default=8, show_default=True, help="How many of --jobs at a time."
)
@caller_options
def submit(
    rid: str | None,
    function: str | None,
    query: str | None,
    branch: str | None,
    asynchronous: bool,
    timeout: float | None,
    jobs: Path | None,
    concurrency: int,
    token: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
) -> None:
    """
    Submit a job to the deployed app RID and print its result.

    QUERY is JSON, - for standard input, or @FILE.

    With --jobs, each line of FILE (- for standard input) is a job. If FUNCTION is named, a line is a query, any JSON
    value. If not, it is an object {"function": …, "query": …, "rid": …, "branch": …}; the last two are needed only
    where RID and --branch do not say so for all. Every line is checked before anything is submitted. What became of
    each is printed in the order of the lines, as a line of JSON with its "line", "job_id", "status" and "result",
    "result_text" (no JSON), "result_base64" (no text) or "error". The status is that of the job, "raised" if the
    function raised, or "error" if there is no job. --timeout is for each job, which is then canceled. Ctrl-C prints
    what is done and cancels what is still queued. The exit status is 1 if any job did not succeed.
    """
    if jobs is not None:
        if query is not None or asynchronous:
            raise click.UsageError("--jobs takes its queries from FILE, and waits for results")
        _submit_many(jobs, rid, function, branch, concurrency, timeout, token, url, ca, state_dir)
    if rid is None or function is None:
        raise click.UsageError("Missing argument 'RID' or 'FUNCTION'.")
    found = _read_query(query or "{}")

    async def submit_one(reactor: Any) -> None:
        from .client import ComputeModules

        async with ComputeModules(url, token, **connection(reactor, url, ca, state_dir)) as modules:
            if asynchronous:
                click.echo((await modules.submit(rid, function, found, branch=branch, timeout=timeout)).id)
                return
            async for chunk in modules.stream(rid, function, found, branch=branch, timeout=timeout):
                sys.stdout.buffer.write(chunk)
                sys.stdout.buffer.flush()

    run(submit_one)


def _submit_many(
    path: Path,
    rid: str | None,
    function: str | None,
    branch: str | None,
    concurrency: int,
    timeout: float | None,
    token: str,
    url: str,
    ca: Path | None,
    state_dir: Path | None,
) -> NoReturn:
    from .batch import BadLines, Batch, JobFile
    from .client import ComputeModules, Retries

    try:
        lines = JobFile(path, rid, function, branch)
    except BadLines as error:
        problems = printable(str(error), "\n")
        raise click.ClickException(f"nothing was submitted, since these lines are no jobs:\n{problems}") from None
    except OSError as error:
        raise click.UsageError(f"{path}: {error.strerror}; name a readable file with --jobs") from None
    # Where the results are on the terminal, too, they say how far it is.
    shown = sys.stderr if sys.stderr.isatty() and not sys.stdout.isatty() else StringIO()

    async def submit_all(reactor: Any) -> bool:
        made = {**connection(reactor, url, ca, state_dir), "retries": Retries()}
        async with ComputeModules(url, token, **made) as modules:
            with click.progressbar(length=lines.count, file=shown) as bar:

                def emit(fields: dict[str, Any]) -> None:
                    click.echo(json.dumps(fields))
                    bar.update(1)

                batch = Batch(modules, iter(lines), concurrency, timeout, emit)
                interrupted = False
                try:
                    await batch.run()
                except CancelledError:
                    interrupted = True
            told = sum(batch.counts.values())
            counts = ", ".join(f"{count} {status}" for status, count in sorted(batch.counts.items())) or "none"
            click.echo(f"{told} of {lines.count} jobs: {counts}.", err=True)
            if batch.stopped is not None:
                click.echo(printable(f"No more were started: {batch.stopped}"), err=True)
            if interrupted:
                raise CancelledError
            return batch.counts["succeeded"] == lines.count

    raise SystemExit(0 if run(submit_all) else 1)


def _read_query(query: str) -> Any:
    try:
        if query == "-":
            query = sys.stdin.read()
        elif query.startswith("@"):
            query = Path(query[1:]).read_text("utf-8")
        return json.loads(query)
    except OSError as error:
        raise click.UsageError(f"{query[1:]}: {error.strerror}; name a readable file after @") from None
    except ValueError as error:
        raise click.UsageError(f"the query is not JSON: {error}") from None


# Seeds


@main.command()
@click.argument("file", type=click.Path(path_type=Path), default=Path("seed.yaml"))
def init(file: Path) -> None:
    """Write a commented starter seed to FILE (seed.yaml)."""
    try:
        with file.open("xb") as written:
            written.write(files("twisted_cm").joinpath("starter.yaml").read_bytes())
    except FileExistsError:
        raise click.ClickException(f"{file} is there already; name another file") from None
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}; name another file") from None
    click.echo(f"Wrote {file}. Start with: twisted-cm serve --seed {shlex.quote(str(file))}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Say whether FILE is a seed that serve would take."""
    try:
        seed = read_seed(file)
    except InvalidSeed as error:
        raise click.ClickException(str(error)) from None
    for warning in seed.warnings:
        click.echo(f"{file}: {warning}", err=True)
    click.echo(f"{file}: {len(seed.runtimes)} runtimes, {len(seed.bindings)} deployed apps, {len(seed.tokens)} tokens")
