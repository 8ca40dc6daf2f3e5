"""Applications on the official clients, each in a process: Python's platform SDK, and the clients for Node.

The scripts are in ``tests/sdk``. They make the calls that a test hands to them, all at the same time.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any, ClassVar

from conftest import ROOT, Server
from sdk_processes import SDK_PYTHON

Outcome = dict[str, Any]


def python_call(
    method: str, *args: Any, touch: str | None = None, values: int | None = None, **kwargs: Any
) -> dict[str, Any]:
    """Return a call of a method of Python's client.

    Args:
        touch: A file to create once the first event of a stream has arrived.
        values: How many values must have arrived before that, of a function that returns a list.
    """
    return {"method": method, "args": args, "kwargs": kwargs, "touch": touch, "values": values}


class Applications:
    """A process that makes calls to the emulator."""

    def __init__(self, *command: str, environment: dict[str, str]) -> None:
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, cwd=ROOT / "tests/sdk/typescript"
        )

    def send(self, message: Any) -> None:
        """Write a line of JSON."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message).encode() + b"\n")
        self.process.stdin.flush()

    def start(self, *calls: dict[str, Any]) -> None:
        """Make calls at the same time, each with a client of its own; :meth:`finish` returns what came of them."""
        self.send(calls)

    def finish(self) -> list[Outcome]:
        """Return, for each call that was started, either ``returned``, or ``raised`` and the fields of the error."""
        assert self.process.stdout is not None
        outcomes: list[Outcome] = json.loads(self.process.stdout.readline())
        return outcomes

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        self.process.communicate()


class PlatformSdk(Applications):
    """Clients of Python's platform SDK, which read the emulator's address and a token from their environment.

    To import the SDK takes longer than most tests, so a test uses the process of an earlier one, if there is one.
    """

    _free: ClassVar[list[subprocess.Popen[bytes]]] = []

    def __init__(self, server: Server) -> None:
        self._environment = {
            **server.environment,
            "FOUNDRY_HOSTNAME": server.urls["https"].removeprefix("https://"),
            "FOUNDRY_TOKEN": "app-token",
            "REQUESTS_CA_BUNDLE": f"{server.environment['TWISTED_CM_STATE_DIR']}/ca.pem",
        }
        self._unfinished = 0
        while self._free:
            self.process = self._free.pop()
            if self.process.poll() is None:
                return
        super().__init__(
            # The SDK only warns of an error that it cannot read.
            *(SDK_PYTHON, "-W", "error::UserWarning", str(ROOT / "tests/sdk/platform_sdk.py")),
            environment=server.environment,
        )

    def start(self, *calls: dict[str, Any]) -> None:
        self._unfinished += 1
        self.send({"environment": self._environment, "calls": calls})

    def finish(self) -> list[Outcome]:
        outcomes = super().finish()
        self._unfinished -= 1
        return outcomes

    def close(self) -> None:
        """Leave the process to the next test, unless it is busy."""
        if self._unfinished:
            super().close()
        else:
            self._free.append(self.process)

    def outcome(self, method: str, *args: Any, **kwargs: Any) -> Outcome:
        """Make one call; return its outcome."""
        self.start(python_call(method, *args, **kwargs))
        return self.finish()[0]

    def __call__(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Make one call; return its result."""
        outcome = self.outcome(method, *args, **kwargs)
        assert "returned" in outcome, outcome
        return outcome["returned"]


class Osdk(Applications):
    """Clients of ``@osdk/client`` and ``@osdk/foundry.functions``."""

    def __init__(self, server: Server, scheme: str = "http", ontology: str | None = None) -> None:
        super().__init__(
            *("node", "functions.mjs"),
            environment={
                **server.environment,
                "FOUNDRY_URL": server.urls[scheme],
                "FOUNDRY_TOKEN": "app-token",
                "NODE_EXTRA_CA_CERTS": f"{server.environment['TWISTED_CM_STATE_DIR']}/ca.pem",
                **({} if ontology is None else {"ONTOLOGY": ontology}),
            },
        )

    def outcome(self, **call: Any) -> Outcome:
        """Make one call; return its outcome."""
        self.start(call)
        return self.finish()[0]

    def __call__(self, **call: Any) -> Any:
        """Make one call; return its result."""
        outcome = self.outcome(**call)
        assert "returned" in outcome, outcome
        return outcome["returned"]
