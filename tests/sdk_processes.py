"""What tests with the official SDKs share: the SDK's interpreter, and requests of an application."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from conftest import CONTOUR, ROOT, Server

#: The interpreter of the environment that has the official Python SDK.
SDK_PYTHON = str(ROOT / ".venv-sdk" / "bin" / "python")

#: Starts a module as a process; the ``launch`` fixture is one.
Launch = Callable[..., "subprocess.Popen[bytes]"]


def get(server: Server, path: str, token: str = "app-token") -> Any:
    """Return the JSON at a path of the server."""
    with urlopen(Request(server.urls["http"] + path, headers={"Authorization": f"Bearer {token}"})) as answer:
        return json.load(answer)


def contour(server: Server, method: str, path: str, body: Any = None) -> bytes:
    """Send a request of an application to a Contour route; return the content of the answer."""
    headers = {"Authorization": "Bearer app-token"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(server.urls["http"] + CONTOUR + path, data, headers, method=method), timeout=60) as answer:
        content: bytes = answer.read()
        return content


def submission(function: str, query: Any, rid: str = "ri.one") -> Any:
    """Return the body that submits a job."""
    return {"deployedAppRid": rid, "queryType": function, "query": query}


def execute(server: Server, function: str, query: Any, rid: str = "ri.one") -> bytes:
    """Run a function; return its result."""
    return contour(server, "POST", "/compute-modules/jobs/execute", submission(function, query, rid))


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """Wait until a condition holds, at most 30 seconds; return what it returned.

    Raises:
        AssertionError: The condition did not hold in time, or the process ended.
    """
    for _ in range(600):
        found = condition()
        if found:
            return found
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.05)
    raise AssertionError("never became true")
