"""Run one coroutine in the reactor."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from .printable import printable

T = TypeVar("T")


def run(main: Callable[[Any], Awaitable[T]]) -> T:
    """
    Run one coroutine in the reactor, turning what can go wrong with a server into one line.

    Ctrl-C cancels it.  One that ends well all the same, since this is how it is meant to end, has its result returned.

    @param main: takes the reactor.
    """
    from twisted.internet import reactor as installed

    reactor: Any = installed

    from ..client.errors import AnswerLost, ApiError, CannotConnect, ResultBrokenOff, TimedOut, UntrustedServer

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
    reactor.run()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    result = outcome[0]
    if not isinstance(result, Failure):
        return result
    if interrupted:
        raise SystemExit(128 + interrupted[0])
    error = result.value
    if isinstance(error, ApiError):
        hint = f" (job {error.job_id})" if error.job_id and error.job_id not in str(error) else ""
        raise click.ClickException(printable(f"{error}{hint}", "\n"))
    if isinstance(error, TimedOut):
        raise click.ClickException(f"{str(error).rstrip('.')}; allow more with --timeout")
    if isinstance(error, ResultBrokenOff):
        raise click.ClickException(str(error))
    if isinstance(error, UntrustedServer):
        raise click.ClickException(f"{error}; name the CA to verify it with: --ca")
    if isinstance(error, CannotConnect | AnswerLost):
        raise click.ClickException(f"{error}; start a server with 'twisted-cm serve' or name one with --url")
    if isinstance(error, click.ClickException | BrokenPipeError):
        raise error
    raise click.ClickException(printable(f"{type(error).__name__}: {error}"))
