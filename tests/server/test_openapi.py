"""That the description of the routes is valid and complete, and that the server behaves as described."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from conftest import BIN, CONTOUR, ROOT, RUNTIMES, SEED, Server
from openapi_spec_validator import validate

from twisted_cm.server.app import emulator_app
from twisted_cm.server.routes.openapi import load_description


def test_it_is_openapi() -> None:
    description = load_description()
    assert description["openapi"].startswith("3.1")
    validate(description)


def test_it_describes_every_route_and_no_other() -> None:
    described = {
        (method.upper(), re.sub(r"{\w+}", "{}", path))
        for path, operations in load_description()["paths"].items()
        for method in operations
        if method != "parameters"
    }
    context: Any = None
    served = {
        (method, re.sub(r"<id:\w+>", "{}", rule.rule))
        for rule in emulator_app(context).url_map.iter_rules()
        for method in rule.methods or ()
        if method != "HEAD"
    }
    assert described == served


class _Runtime(threading.Thread):
    """Answers every job of one runtime until the test stops it."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.stopped = False

    def run(self) -> None:
        while not self.stopped:
            try:
                with urlopen(self._request("/job", None), timeout=30) as answer:
                    if answer.status == 200:
                        job_id = json.load(answer)["computeModuleJobV1"]["jobId"]
                        urlopen(self._request(f"/results/{job_id}", b"{}"), timeout=30).close()
            except HTTPError as error:
                # Requests of the test delete and reset the runtime.
                error.close()
                self.reset()

    def reset(self) -> None:
        body = json.dumps({"runtimeId": "one", "deployedAppRid": "ri.one"}).encode()
        with urlopen(Request(self.url + RUNTIMES, body)) as answer:
            self.token = json.load(answer)["moduleAuthToken"]

    token = "token-one"

    def _request(self, path: str, body: bytes | None) -> Request:
        return Request(f"{self.url}{RUNTIMES}/one{path}", body, {"Module-Auth-Token": self.token})


@pytest.fixture
def answering(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    seed = SEED.replace("foundry:\n", "foundry:\n  oauth_clients: [{client_id: app, client_secret: secret}]\n")
    started = Server(tmp_path, state_dir, "--poll-timeout", "0.05", "--sync-timeout", "5", seed=seed)
    runtime = _Runtime(started.urls["http"])
    runtime.start()
    yield started
    runtime.stopped = True
    runtime.join()
    started.stop()


#: The tokens for the routes, and values that schemathesis cannot guess.
CONFIGURATION = """
[[operations]]
include-tag = "runtime"
exclude-operation-id = ["deleteRuntime", "openSession"]
headers = {{ Module-Auth-Token = "token-two", Authorization = "Bearer app-token" }}
parameters = {{ runtimeId = "two", jobId = "{direct}" }}

[[operations]]
include-tag = "contour"
exclude-operation-id = ["cancel", "softCancel"]
headers = {{ Authorization = "Bearer app-token" }}
parameters = {{ jobId = "{succeeded}", rid = "ri.one", branch = "master" }}

[[operations]]
include-operation-id = ["listJobs"]
headers = {{ Authorization = "Bearer app-token" }}

[[operations]]
include-operation-id = ["deleteRuntime", "openSession", "cancel", "softCancel"]
headers = {{ Authorization = "Bearer app-token" }}
parameters = {{ runtimeId = "another", jobId = "{queued}" }}
"""


@pytest.mark.long
def test_the_server_answers_as_described(answering: Server, tmp_path: Path) -> None:
    """Run schemathesis against a server: no 5xx, and each status and body as described."""
    configuration = tmp_path / "schemathesis.toml"
    headers = {"Authorization": "Bearer app-token"}
    jobs = {}
    for name, path, body in (
        ("direct", f"{RUNTIMES}/two/jobs", {"queryType": "f"}),
        ("queued", f"{CONTOUR}/deployed-apps/jobs", {"deployedAppRid": "ri.two", "queryType": "f"}),
        ("succeeded", f"{CONTOUR}/deployed-apps/jobs", {"deployedAppRid": "ri.one", "queryType": "f"}),
    ):
        with urlopen(Request(answering.urls["http"] + path, json.dumps(body).encode(), headers)) as answer:
            job = json.load(answer)
            jobs[name] = job.get("job_id") or job["id"]
    configuration.write_text(CONFIGURATION.format(**jobs))
    checks = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
    done = subprocess.run(
        [
            str(BIN / "schemathesis"),
            *("--config-file", str(configuration)),
            *("run", answering.urls["http"] + "/openapi.json"),
            *("--checks", f"{checks},response_headers_conformance"),
            # The stream of events never ends.
            *("--exclude-operation-id", "streamEvents"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", "12", "--seed", "1"),
            *("--header", "Prefer: wait=0", "--request-timeout", "20", "--max-redirects", "0"),
            *("--no-color", "--warnings", "off"),
            *("--generation-database", "none", "--suppress-health-check", "all"),
        ],
        capture_output=True,
        text=True,
        timeout=240,
        cwd=tmp_path,
        # Few variables: for each request, the client looks through all of them for proxies. The directory has tables of
        # Unicode that Hypothesis makes once.
        env={"PATH": os.environ["PATH"], "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    found = re.search(r"Tested: (\d+)", done.stdout)
    assert found is not None
    described = load_description()["paths"].values()
    # All routes but the stream of events, and the description itself, which schemathesis leaves out.
    assert int(found[1]) == sum(method != "parameters" for operations in described for method in operations) - 2
