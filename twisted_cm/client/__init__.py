"""Clients of the emulator, on treq: for applications, for scripted runtimes, and for tests.

- :class:`ComputeModules` is an application: it submits jobs and fetches their results.
- :class:`RuntimeSession` is a runtime: it takes jobs and posts results.
- :class:`ReplicaSession` is one of several processes of a runtime, and does the same.
- :class:`EmulatorControl` inspects an emulator, injects faults and resets the emulator.

A client repeats a request that failed, after a delay, if repeating it is safe (see :class:`Retries`):

- A request that was never sent, because there was no connection, is always repeated.
- A request that the server refused for now (429 or 503 with ``Retry-After``) is repeated, unless the server has created
  a job for it.
- A request that has the same effect when it is sent twice is repeated even if its answer was lost. Such requests read
  something, cancel a job, post a complete result or post schemas.

Once they have been sent, these requests are not repeated:

- Submitting a job, since it could run twice.
- Polling, since the lost answer may have held a job. The emulator queues that job again only if it could not write the
  answer; otherwise the runtime can call :meth:`RuntimeSession.restart` or wait for the end of the job's lease.
- Opening, restarting or resetting something, since that would undo what happened in between.
- Posting a result from an iterator, since the iterator is used up.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import *  # noqa: F403 - api.py lists the names
    from .api import __all__ as __all__


def __getattr__(name: str) -> Any:
    # api.py is imported when one of its names is first used: a command imports only the client that it needs.
    if name.startswith("_") and name != "__all__":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(".api", __name__), name)
