"""How does a command run a coroutine in the reactor, and report its errors?"""

from __future__ import annotations

import gc
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from ..client.errors import AnswerLost, ApiError, CannotConnect, ResultBrokenOff, TimedOut, UntrustedServer
from ..model.printable import printable

T = TypeVar("T")


def run(main: Callable[[Any], Awaitable[T]]) -> T:
    """Run one coroutine in the reactor and return its result.

    Ctrl-C cancels the coroutine. If it handles the cancellation and returns, its result counts;
    otherwise the process ends with the exit status of the signal.

    Args:
        main: A coroutine function that takes the reactor.

    Raises:
        click.ClickException: A request failed; the message is one line that says what to do.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed
    outcome: list[T | Failure] = []
    running: Deferred[T] = Deferred.fromCoroutine(main(reactor))  # type: ignore[arg-type]
    running.addBoth(outcome.append)
    interrupted: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        interrupted.append(number)
        reactor.callFromThread(running.cancel)

    def stop_when_done() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        running.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(stop_when_done)
    # Imported modules stay to the end. The garbage collector would search them again when the process exits, which
    # takes longer than a request.
    gc.freeze()
    reactor.run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    result = outcome[0]
    if not isinstance(result, Failure):
        return result
    if interrupted:
        raise SystemExit(128 + interrupted[0])
    if isinstance(result.value, click.ClickException | BrokenPipeError):
        raise result.value
    raise click.ClickException(_describe(result.value))


def _describe(error: object) -> str:
    """Return one line that says what went wrong and what to do."""
    if isinstance(error, ApiError):
        job = f" (job {error.job_id})" if error.job_id and error.job_id not in str(error) else ""
        return printable(f"{error}{job}", "\n")
    if isinstance(error, ResultBrokenOff):
        return str(error)
    said = str(error).rstrip(".")
    if isinstance(error, TimedOut):
        return f"{said}. Allow more time with --timeout."
    if isinstance(error, UntrustedServer):
        return f"{said}. Name the CA certificate to verify it with: --ca."
    if isinstance(error, CannotConnect | AnswerLost):
        return f"{said}. Start a server with 'twisted-cm serve', or name one with --url."
    return printable(f"{type(error).__name__}: {error}")
