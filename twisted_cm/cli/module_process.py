"""How does a command run a module as its child?"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import FrameType
from typing import Any

import psutil

#: The signals that are passed on to the module as they are. Ctrl-C is not among them: see :class:`ModuleProcess`.
_PASSED_ON = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)

#: The option of Linux's ``prctl`` that sends a signal to a process when its parent has ended.
_PR_SET_PDEATHSIG = 1


class ModuleProcess:
    """The process of a module, in the process group of this one.

    Ctrl-C ends the module as Foundry ends a container, with SIGTERM, because SDKs answer SIGINT with tracebacks: the
    module ignores SIGINT, and this process sends the other signal. A second Ctrl-C kills the module. On Linux, the
    module is also killed if this process is.

    Attributes:
        interrupted: Whether :meth:`interrupt` was called, for example by Ctrl-C.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start the process.

        Raises:
            OSError: The program cannot be run.
        """
        self.interrupted = False
        self._children: list[psutil.Process] = []
        self._process: subprocess.Popen[bytes] | None = None
        # Signals that arrive while the process starts are for the module. Other threads can still receive them.
        self._early: list[int] = []
        handled = (*_PASSED_ON, signal.SIGINT)
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, handled)
        self._handlers = {number: signal.signal(number, self._signaled) for number in handled}
        try:
            self._process = subprocess.Popen(command, env=environment, preexec_fn=_before_exec(mask))
        except OSError:
            self.close()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number in self._early:
            self.send(number)

    def _signaled(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.interrupt()
        else:
            self.send(number)

    def interrupt(self) -> None:
        """End the module with SIGTERM; the second time, with SIGKILL."""
        # The second time may come while the first one is handled.
        number, self.interrupted = signal.SIGKILL if self.interrupted else signal.SIGTERM, True
        self.send(number)

    def send(self, number: int) -> None:
        """Send a signal to the module, as soon as it has started."""
        if self._process is None:
            self._early.append(number)
            return
        with suppress(psutil.NoSuchProcess):
            self._children = psutil.Process(self._process.pid).children(recursive=True)
        self._process.send_signal(number)

    def wait(self) -> int:
        """Wait until the module has ended. Call it in a thread.

        If a signal that this process sent ended it, its children are killed: the workers of a process pool would first
        finish the jobs that they run.

        Returns:
            Its exit status, as a shell would show it: 128 plus the signal if a signal ended it.
        """
        assert self._process is not None
        code = self._process.wait()
        for child in self._children:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        return code if code >= 0 else 128 - code

    def close(self) -> None:
        """Handle signals as before. Call it in the main thread, when the module has ended or is not waited for."""
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


def _before_exec(mask: set[int | signal.Signals]) -> Callable[[], None]:
    """Return what the new process does before it runs the module's program.

    Args:
        mask: The signals that it blocks.
    """
    parent = os.getpid()
    # The new process must not load a library.
    prctl: Any = ctypes.CDLL(None).prctl if sys.platform == "linux" else None

    def prepare() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if prctl is not None:
            prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                os.kill(os.getpid(), signal.SIGKILL)

    return prepare
