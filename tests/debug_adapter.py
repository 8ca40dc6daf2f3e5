"""A client of the Debug Adapter Protocol, which editors speak to ``debugpy``."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from subprocess import Popen
from typing import Any

from sdk_processes import until


class DebugAdapter:
    """A debugger that is attached to one process.

    Attributes:
        events: The events that have arrived and were not asked for yet.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(60)
        self._connection = connection
        self._received = connection.makefile("rb")
        self._sent = 0
        self.events: list[Any] = []
        self._subprocesses: list[DebugAdapter] = []

    @classmethod
    def connect(cls, host: str, port: int, process: Popen[bytes]) -> DebugAdapter:
        """Connect as soon as a process listens."""

        def connected() -> socket.socket | None:
            try:
                return socket.create_connection((host, port))
            except ConnectionRefusedError:
                return None

        return cls(until(connected, process))

    def close(self) -> None:
        """Close the connections to the process and its subprocesses, which lets them run on."""
        for subprocess in self._subprocesses:
            subprocess.close()
        self._received.close()
        self._connection.close()

    def debug(self, breakpoint: tuple[Path, int], **configuration: Any) -> None:
        """Launch a process or attach to one, as a configuration of VS Code says, and set a breakpoint."""
        path, line = breakpoint
        self.request("initialize", adapterID="python", pathFormat="path", linesStartAt1=True, columnsStartAt1=True)
        started = self._send(configuration["request"], configuration)
        self.event("initialized")
        self.request("setBreakpoints", source={"path": str(path)}, breakpoints=[{"line": line}])
        self.request("configurationDone")
        self._response(started)

    def subprocess(self, breakpoint: tuple[Path, int], process: Popen[bytes]) -> DebugAdapter:
        """Attach to the next process that the debugged one starts."""
        configuration = self.event("debugpyAttach")
        attached = DebugAdapter.connect(configuration["connect"]["host"], configuration["connect"]["port"], process)
        self._subprocesses.append(attached)
        attached.debug(breakpoint, **configuration)
        return attached

    def stopped(self) -> int:
        """Wait until the process stands at a breakpoint; return the id of the thread."""
        body = self.event("stopped")
        assert body["reason"] == "breakpoint"
        thread: int = body["threadId"]
        return thread

    def local_variables(self, thread: int) -> dict[str, str]:
        """Return the local variables of the function in which a thread has stopped."""
        frame = self.request("stackTrace", threadId=thread)["stackFrames"][0]
        scope = self.request("scopes", frameId=frame["id"])["scopes"][0]
        assert scope["name"] == "Locals"
        variables = self.request("variables", variablesReference=scope["variablesReference"])["variables"]
        return {each["name"]: each["value"] for each in variables}

    def event(self, name: str) -> Any:
        """Return the body of the next event with that name."""
        while True:
            for event in self.events:
                if event["event"] == name:
                    self.events.remove(event)
                    return event.get("body")
            self._keep(self._read())

    def request(self, command: str, **arguments: Any) -> Any:
        """Send a request; return the body of its response."""
        return self._response(self._send(command, arguments))

    def _send(self, command: str, arguments: dict[str, Any]) -> int:
        self._sent += 1
        message = {"seq": self._sent, "type": "request", "command": command, "arguments": arguments}
        content = json.dumps(message).encode()
        self._connection.sendall(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        return self._sent

    def _response(self, sent: int) -> Any:
        while True:
            message = self._read()
            if message["type"] == "response" and message["request_seq"] == sent:
                assert message["success"], message
                return message.get("body")
            self._keep(message)

    def _keep(self, message: Any) -> None:
        if message["type"] == "event":
            self.events.append(message)

    def _read(self) -> Any:
        length = 0
        for line in iter(self._received.readline, b"\r\n"):
            assert line, f"the adapter closed the connection after {self.events}"
            name, _, value = line.partition(b":")
            if name == b"Content-Length":
                length = int(value)
        return json.loads(self._received.read(length))
