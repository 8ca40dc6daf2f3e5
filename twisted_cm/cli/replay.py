"""The command that answers from a recording."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from twisted.internet.defer import CancelledError

from .connection_options import connection, known_token, runtime_options
from .printable import printable
from .reactor import run


@click.command()
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
    from ..recording.read import InvalidRecording, Recording
    from ..recording.replay import Replay

    token = known_token(runtime_id, module_auth_token, seed, deployed_app, branch)
    try:
        recording = Recording(file)
    except InvalidRecording as error:
        raise click.ClickException(printable(str(error), "\n")) from None

    def say(text: str) -> None:
        click.echo(printable(text, "\n"), err=True)

    async def stand_in(reactor: Any) -> bool:
        from ..client.api import RuntimeSession

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
