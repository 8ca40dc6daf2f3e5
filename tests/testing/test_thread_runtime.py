"""A runtime in threads, against a server in another process."""

from __future__ import annotations

from typing import Any

from conftest import Server

from twisted_cm.testing import ThreadRuntime


def test_it_goes_on_after_refused_polls(server: Server) -> None:
    runtime = ThreadRuntime("one")

    @runtime.function
    def f(query: Any) -> Any:
        return query

    assert server.cm("faults", "add", "poll_error", "--count", "2").returncode == 0
    runtime.serve(server.urls["http"], "token-one")
    try:
        assert server.cm("submit", "ri.one", "f", "42").stdout == b"42"
    finally:
        runtime.stop()
