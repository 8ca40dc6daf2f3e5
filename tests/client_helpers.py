"""What tests of the client share: clients of a harness's emulator, and streams between them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any, TypeVar

from conftest import Harness, pause
from twisted.internet import reactor
from twisted.internet.defer import Deferred

from twisted_cm.client import ComputeModules, ResultStream, Retries, RuntimeSession

T = TypeVar("T")

#: Retries that do not slow a test down.
QUICK = Retries(attempts=5, initial=0.01, maximum=2)


def start(coroutine: Coroutine[Any, Any, T]) -> Deferred[T]:
    """Run a coroutine while the test goes on."""
    return Deferred.fromCoroutine(coroutine)


def application(harness: Harness, scheme: str = "http", **options: Any) -> ComputeModules:
    """Return a client with a valid token; the test closes it."""
    url, more = _reach(harness, scheme, options)
    return ComputeModules(url, "app-token", **more)


def runtime(harness: Harness, scheme: str = "http", **options: Any) -> RuntimeSession:
    """Return a session of the seeded runtime ``one``; the test closes it."""
    url, more = _reach(harness, scheme, options)
    return RuntimeSession.join(url, "one", "token-one", **more)


def _reach(harness: Harness, scheme: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    addresses = harness.service.addresses
    ca = addresses.ca_certificate if scheme == "https" else None
    return getattr(addresses, scheme), {"ca_certificate": ca, "retries": QUICK, **options}


def sockets_and_timers() -> set[Any]:
    """Return the sockets and timers of the reactor, which are what trial would report as left behind."""
    return {*reactor.getReaders(), *reactor.getWriters(), *reactor.getDelayedCalls()}


async def until(condition: Callable[[], Any]) -> None:
    """Wait until a condition holds, at most 5 seconds or so."""
    for _ in range(1000):
        if condition():
            return
        await pause(0.005)
    raise AssertionError(f"never became true: {condition}")


async def never_ending(*chunks: bytes) -> AsyncIterator[bytes]:
    """Yield the chunks, then wait until the iteration is canceled."""
    for chunk in chunks:
        yield chunk
    await Deferred()


async def begin_stream(
    modules: ComputeModules, module: RuntimeSession, chunks: AsyncIterator[bytes]
) -> tuple[ResultStream, Deferred[bytes], Deferred[None]]:
    """Start a job whose result the runtime streams; return the stream, its first chunk and the runtime's post."""
    stream = modules.stream("ri.one", "f")
    first = start(stream.__anext__())
    job = await module.poll()
    assert job is not None
    return stream, first, start(module.post_result(job.job_id, chunks))
