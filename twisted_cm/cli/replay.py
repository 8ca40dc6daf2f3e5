"""The command that answers jobs from a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError

from ..model.printable import printable
from ..recording.read import InvalidRecording, Recording
from ..recording.replay import Replay
from .reactor import run
from .runtime_options import RuntimeOptions, runtime_options


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--timing", is_flag=True, help="Wait before each answer as long as the recorded job took.")
@runtime_options
def replay(runtime: RuntimeOptions, file: Path, timing: bool) -> None:
    """Answer jobs from a recording.

    This command takes the place of a module until Ctrl-C. FILE is what 'serve --record' wrote.

    The functions have the recorded schemas. A job gets the recorded result of the same function and query. If a query
    was recorded several times, each recording is used in turn, then the last one again and again. A job that failed
    fails again. A query that was not recorded fails, and the message shows the difference from the nearest recorded
    query. Canceled jobs are ignored. Secrets are masked in the recording, so they are masked in the results too, and
    they are ignored when queries are compared.

    The exit status is 1 if a job asked for something that was not recorded.

    \b
    Examples:
      twisted-cm serve --record jobs.jsonl
      twisted-cm replay jobs.jsonl --runtime mine --deployed-app ri.mine
    """
    known = runtime.known()
    try:
        recording = Recording(file)
    except InvalidRecording as error:
        raise click.ClickException(printable(str(error), "\n")) from None

    def say(text: str) -> None:
        click.echo(printable(text, "\n"), err=True)

    async def answer(reactor: Any) -> bool:
        async with await known.join(reactor) as session:
            player = Replay(reactor, session, recording, timing, say)
            await player.report()
            ignored = f", ignoring {recording.skipped} canceled jobs" if recording.skipped else ""
            say(f"Runtime {runtime.runtime_id} answers from {recording.size} recorded jobs{ignored}. Ctrl-C stops.")
            try:
                await player.run()
            except CancelledError:
                pass
            finally:
                say(player.summarize())
            return player.outcomes["not recorded"] == 0

    raise SystemExit(0 if run(answer) else 1)
