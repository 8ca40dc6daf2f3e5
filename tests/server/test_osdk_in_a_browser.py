"""Test a page of another origin that executes functions with the unmodified clients of OSDK."""

from __future__ import annotations

import json
import subprocess
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from conftest import ROOT, SEED, Server
from selenium import webdriver

TYPESCRIPT = ROOT / "tests/sdk/typescript"
CONSTANTS = "ri.ontology.main.ontology.constants"
CONSTANT = (
    f"foundry:\n  ontologies: [{{api_name: constants, rid: {CONSTANTS}, queries: [{{api_name: answer, result: 42}}]}}]"
)


class QuietHandler(SimpleHTTPRequestHandler):
    """Serves files of a directory, without a log."""

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def origin(tmp_path: Path) -> Iterator[str]:
    """Serve a page with the bundled clients; return its origin."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "index.html").write_text("<!doctype html><title>page</title><script src=page.js></script>")
    bundle = ("--bundle", "--format=iife", '--define:process.env.NODE_ENV="production"', f"--outfile={site}/page.js")
    subprocess.run(
        [TYPESCRIPT / "node_modules/.bin/esbuild", "page.mjs", *bundle], cwd=TYPESCRIPT, check=True, capture_output=True
    )
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(QuietHandler, directory=str(site)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


EXECUTE = """
    const done = arguments[arguments.length - 1];
    execute(...[...arguments].slice(0, -1)).then(done, error => done(`${error.message} ${error.cause?.message}`));
"""


@pytest.mark.parametrize("allowed", [True, False])
def test_a_page_executes_functions_if_its_origin_is_allowed(
    browser: webdriver.Chrome, origin: str, tmp_path: Path, state_dir: Path, allowed: bool
) -> None:
    options = ("--cors-origin", origin) if allowed else ()
    server = Server(tmp_path, state_dir, *options, seed=SEED.replace("foundry:", CONSTANT))
    try:
        browser.get(origin)
        returned = browser.execute_async_script(EXECUTE, server.urls["http"], CONSTANTS, "answer")
    finally:
        server.stop()
    if allowed:
        value, values, line = returned
        assert (value, values, json.loads(line)) == (42, [42], {"type": "data", "value": 42})
    else:
        assert "Failed to fetch" in returned
