"""That no secret is in the log."""

from __future__ import annotations

import json
import re
import signal
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from conftest import CONTOUR, RUNTIMES, Server
from every_route import EMULATOR, MULTIPASS

INFO = f"{EMULATOR}/info"

#: Everything that must not be in the log contains the word "hush".
HUSH_SEED = """
tokens:
  hush-bearer: {login: jane, scopes: [hush-scope]}
  hush-twice: {login: joe}
  hush-twice: {login: jim}
foundry:
  users: [{username: jane, email: hush@example.com, given_name: hush, other: hush}]
  oauth_clients: [{client_id: app, client_secret: hush-secret, redirect_uris: ["http://localhost/hush"]}]
  compute_modules:
    poll_timeout: 5
    sync_timeout: 5
    job_lease: 1
    max_attempts: 2
    runtimes:
      - {runtime_id: one, module_auth_token: hush-module-token}
      - {runtime_id: one, module_auth_token: hush-other-token}
    deployed_apps: [{deployed_app_rid: ri.one, runtime_id: one}]
"""


class Talker:
    """Sends secrets to a server.

    Attributes:
        made_up: The secrets that the server itself made.
    """

    def __init__(self, server: Server) -> None:
        self.made_up: list[str] = []
        self.address = urlsplit(server.urls["http"])

    def say(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, Any]:
        """Send a request, streamed if the body is an iterator; return the status and the body of the answer."""
        connection = HTTPConnection(self.address.hostname, self.address.port, timeout=10)
        if not isinstance(body, bytes | Iterator | None):
            body = json.dumps(body).encode()
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            connection.request(method, path, body, sent)
            response = connection.getresponse()
            content = response.read()
            location = response.getheader("Location")
            if location is not None:
                return response.status, location
            return response.status, json.loads(content) if content[:1] in (b"{", b"[") else content
        finally:
            connection.close()

    def app(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.say(method, CONTOUR + path, body, Authorization="Bearer hush-bearer")

    def module(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return self.say(method, f"{RUNTIMES}/one{path}", body, Module_Auth_Token="hush-module-token")

    def submit(self, query_type: str = "f") -> str:
        body = {"deployedAppRid": "ri.one", "queryType": query_type, "query": {"hush-key": "hush-query"}}
        status, handle = self.app("POST", "/deployed-apps/jobs", body)
        assert status == 200
        job_id: str = handle["id"]
        return job_id

    def poll(self) -> str:
        status, envelope = self.module("GET", "/job")
        job = envelope["computeModuleJobV1"]
        assert (status, job["query"]) == (200, {"hush-key": "hush-query"})
        # The id of the job, with which its token begins, is in the log.
        self.made_up.append(job["temporaryCredentialsAuthToken"].rpartition(".")[2])
        me = self.say("GET", f"{MULTIPASS}/me", Authorization=job["authHeader"])
        assert (me[0], me[1]["username"]) == (200, "jane")
        job_id: str = job["jobId"]
        return job_id

    def status(self, job_id: str) -> str:
        kind: str = self.app("GET", f"/jobs/{job_id}/status")[1]["type"]
        return kind


def live(server: Server, talker: Talker, log: list[str]) -> list[str]:
    """Use every feature that handles secrets; return the secrets that the server itself made."""
    execute = {"deployedAppRid": "ri.one", "queryType": "f", "query": {"hush-key": "hush-query"}}
    # Valid and invalid schemas.
    assert talker.module("POST", "/schemas", [{"functionName": "f", "inputs": [], "note": "hush-schema"}])[0] == 200
    assert talker.module("POST", "/schemas", [{"functionName": "f", "type": "hush-schema"}])[0] == 400
    assert talker.module("POST", "/schemas", b"hush-schema")[0] == 400
    # A synchronous job, an asynchronous one, a stream, a late result and a different one.
    with ThreadPoolExecutor(1) as pool:
        for result in (b"hush-result", iter([b"hush-", b"result"])):
            caller = pool.submit(talker.app, "POST", "/compute-modules/jobs/execute", execute)
            job_id = talker.poll()
            assert talker.module("POST", f"/results/{job_id}", result)[0] == 204
            assert caller.result() == (200, b"hush-result")
    assert talker.module("POST", f"/results/{job_id}", b"hush-other")[0] == 409
    job_id = talker.submit()
    assert talker.module("POST", f"/results/{talker.poll()}", b"hush-result")[0] == 204
    assert talker.app("GET", f"/jobs/{job_id}/result") == (200, b"hush-result")
    assert talker.say("GET", f"{RUNTIMES}/one/jobs/{job_id}")[1]["job"]["result_body_utf8"] == "hush-result"
    # A job that fails with its process, one that is canceled, and one whose runtime goes silent.
    job_id = talker.submit()
    assert talker.poll() == job_id
    assert talker.module("POST", "/restart") == (200, [job_id])
    job_id = talker.submit()
    assert talker.app("DELETE", f"/jobs/{job_id}")[0] == 204
    assert talker.module("POST", f"/results/{job_id}", b"hush-late")[0] == 204
    job_id = talker.submit()
    assert [talker.poll(), talker.poll()] == [job_id, job_id]
    assert talker.app("PUT", "/jobs/status/v3", {"id": job_id})[1]["type"] == "failed"
    # A stream that breaks off, and a poller that disconnects.
    job_id = talker.submit()
    talker.poll()
    with pytest.raises(RuntimeError):
        talker.module("POST", f"/results/{job_id}", breaks_off())
    assert talker.app("PUT", "/jobs/status/v3", {"id": job_id})[1]["type"] == "failed"
    for kind, more in (("delay_dispatch", {"seconds": 60}), ("fail_job", {}), ("cut_result", {}), ("drop_job", {})):
        fault = {"kind": kind, "function": kind, "count": 1, **more}
        assert talker.say("POST", f"{EMULATOR}/faults", fault)[0] == 201
    job_id = talker.submit("delay_dispatch")
    with socket.create_connection((talker.address.hostname, talker.address.port)) as poller:
        head = f"GET {RUNTIMES}/one/job HTTP/1.1\r\nHost: localhost\r\nModule-Auth-Token: hush-module-token\r\n\r\n"
        poller.sendall(head.encode())
        while talker.status(job_id) != "running":
            pass
    assert talker.poll() == job_id
    assert talker.module("POST", f"/results/{job_id}", b"hush-result")[0] == 204
    for kind, expected in (("fail_job", "failed"), ("drop_job", "queued")):
        assert talker.status(talker.submit(kind)) == expected
    # OAuth tokens.
    made_up = talker.made_up
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    for secret, expected in (("hush-secret", 200), ("hush-wrong", 401)):
        grant = f"grant_type=client_credentials&client_id=app&client_secret={secret}".encode()
        status, answer = talker.say("POST", f"{MULTIPASS}/oauth2/token", grant, **form)
        assert status == expected
        made_up += [answer["access_token"]] if expected == 200 else []
    token = made_up[-1]
    assert talker.say("GET", f"{MULTIPASS}/me", Authorization=f"Bearer {token}")[1]["username"] == "app"
    revocation = f"token={token}&client_id=app&client_secret=hush-secret".encode()
    assert talker.say("POST", f"{MULTIPASS}/oauth2/revoke_token", revocation, **form)[0] == 200
    # A user who signs in.
    target = "http%3A%2F%2Flocalhost%2Fhush"
    query = f"client_id=app&redirect_uri={target}&response_type=code&state=hush&scope=offline_access"
    page = talker.say("GET", f"{MULTIPASS}/oauth2/authorize?{query}")[1].decode()
    sealed, user = (re.search(f'name="{name}" value="([^"]*)"', page) for name in ("request", "user"))
    assert sealed is not None and user is not None
    chosen = f"request={sealed[1]}&user={user[1]}".encode()
    status, location = talker.say("POST", f"{MULTIPASS}/oauth2/authorize", chosen, **form)
    assert status == 303
    code = location.partition("code=")[2].partition("&")[0]
    secret = "client_id=app&client_secret=hush-secret"
    redeem = f"grant_type=authorization_code&code={code}&redirect_uri={target}&{secret}".encode()
    status, answer = talker.say("POST", f"{MULTIPASS}/oauth2/token", redeem, **form)
    assert status == 200
    made_up += [sealed[1], code, answer["access_token"], answer["refresh_token"]]
    assert talker.say("POST", f"{MULTIPASS}/oauth2/token", redeem, **form)[0] == 400
    # Sessions and a reset.
    for _ in range(2):
        made_up.append(talker.say("POST", RUNTIMES, {"runtimeId": "new", "displayName": "hush"})[1]["moduleAuthToken"])
    assert talker.say("DELETE", f"{RUNTIMES}/new", Authorization="Bearer hush-admin")[0] == 204
    assert talker.say("POST", f"{EMULATOR}/reset")[0] == 204
    # Requests that are refused.
    for status, request, headers in (
        (400, ("POST", f"{CONTOUR}/deployed-apps/jobs", b'{"hush'), {"Authorization": "Bearer hush-bearer"}),
        (400, ("POST", RUNTIMES, {"runtimeId": {"hush": 1}}), {}),
        (401, ("GET", RUNTIMES), {"Authorization": "Bearer hush-wrong"}),
        (401, ("GET", f"{RUNTIMES}/one/job"), {"Module-Auth-Token": "hush-wrong"}),
        (401, ("GET", RUNTIMES), {"Authorization": "Basic hush-basic"}),
        (401, ("GET", RUNTIMES), {"Authorization": f"Bearer {job_id}.{made_up[0]}"}),
        (403, ("POST", f"{EMULATOR}/reset"), {"Origin": "https://hush.example"}),
        (403, ("GET", INFO), {"Host": "hush.example"}),
        (404, ("GET", "/nowhere?token=hush-token"), {}),
        (405, ("POST", f"{INFO}?token=hush-token", b"hush-body"), {}),
    ):
        assert talker.say(*request, **headers)[0] == status, request
    # Seeds that are refused.
    for seed, says in (
        ("tokens: {hush-bearer: {login: {hush: 1}}, hush bearer: {}, hush-list: [hush]}", "must be of type object"),
        ("tokens: {hush-bearer", "not YAML"),
        (HUSH_SEED.replace("module_auth_token: hush", "module_auth_token: hush hush"), "must not be blank"),
        (HUSH_SEED.replace("client_secret: hush-secret", "client_secret: [hush]"), "must be of type string"),
        (HUSH_SEED, "seed reloaded"),
    ):
        server.seed_file.write_text(seed)
        server.process.send_signal(signal.SIGHUP)
        log_until(server, says, log)
    return made_up


def breaks_off() -> Iterator[bytes]:
    yield b"hush-part"
    raise RuntimeError("the runtime went away")


def log_until(server: Server, text: str, log: list[str]) -> None:
    for line in server.process.stdout or ():
        log.append(line)
        if text in line:
            return
    raise AssertionError(f"never logged: {text}")


@pytest.mark.parametrize(
    "options", [(), ("--log-format", "json", "--log-level", "debug")], ids=["as it is", "all of it as JSON"]
)
def test_no_token_query_or_result_is_in_the_log(tmp_path: Path, state_dir: Path, options: tuple[str, ...]) -> None:
    server = Server(tmp_path, state_dir, "--admin-token", "hush-admin", *options, seed=HUSH_SEED)
    log = [server.banner]
    try:
        made_up = live(server, Talker(server), log)
    finally:
        server.process.terminate()
        log.append(server.process.communicate(timeout=10)[0])
    for line in "".join(log).splitlines():
        if options and line.startswith("{"):
            assert {"time", "level", "namespace", "message"} <= set(json.loads(line))
        assert not any(secret in line for secret in ("hush", *made_up)), line
    # The log is not empty.
    for text in ("jane", "session opened", "deleted", "queued again", "given back", "strikes", "not reloaded", "reset"):
        assert text in "".join(log), text
