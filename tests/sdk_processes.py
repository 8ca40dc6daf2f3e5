"""Modules on the official SDKs, as processes of their own, and requests of an application to them."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable
from typing import Any
from urllib.request import Request, urlopen

from conftest import CONTOUR, ROOT, Server

SDK_PYTHON = str(ROOT / ".venv-sdk" / "bin" / "python")


def get(server: Server, path: str) -> Any:
    with urlopen(Request(server.urls["http"] + path, headers={"Authorization": "Bearer app-token"})) as answer:
        return json.load(answer)


def contour(server: Server, method: str, path: str, body: Any = None) -> bytes:
    """A request of an application."""
    headers = {"Authorization": "Bearer app-token"}
    data = None if body is None else json.dumps(body).encode()
    with urlopen(Request(server.urls["http"] + CONTOUR + path, data, headers, method=method), timeout=60) as answer:
        content: bytes = answer.read()
        return content


def submission(function: str, query: Any, rid: str = "ri.one") -> Any:
    return {"deployedAppRid": rid, "queryType": function, "query": query}


def execute(server: Server, function: str, query: Any, rid: str = "ri.one") -> bytes:
    return contour(server, "POST", "/compute-modules/jobs/execute", submission(function, query, rid))


def until(condition: Callable[[], Any], process: subprocess.Popen[bytes]) -> Any:
    """Wait until something holds, for as long as the process that brings it about lives."""
    for _ in range(600):
        found = condition()
        if found:
            return found
        assert process.poll() is None, process.communicate()[0].decode()
        time.sleep(0.05)
    raise AssertionError("never became true")


Launch = Callable[..., "subprocess.Popen[bytes]"]
