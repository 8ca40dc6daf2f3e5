"""OAuth tokens, by hand and with the two official clients."""

from __future__ import annotations

import subprocess
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from conftest import CONTOUR, ROOT, SEED, Harness, Server, make_harness
from twisted.internet.task import Clock

from twisted_cm.model.tokens import MOST_TOKENS, OAuthClient
from twisted_cm.server.credentials import Credentials

OAUTH_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  oauth_clients:\n"
    "    - {client_id: app, client_secret: 's+cr%t: ü'}\n"
    "    - {client_id: narrow, client_secret: secret, scopes: [read], token_lifetime: 60}\n",
)
TOKEN = "/multipass/api/oauth2/token"
FORM = {"Content_Type": "application/x-www-form-urlencoded"}


@pytest.fixture
def oauth() -> Iterator[Harness]:
    made = make_harness(OAUTH_SEED)
    yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


def basic(user: str, password: str) -> dict[str, str]:
    return {**FORM, "Authorization": "Basic " + b64encode(f"{user}:{password}".encode()).decode()}


@pytest_twisted.ensureDeferred
async def test_a_token_is_good_for_submitting_and_names_its_owner(oauth: Harness) -> None:
    form = b"grant_type=client_credentials&client_id=narrow&client_secret=secret&scope=read"
    status, answer, headers = await oauth.call("POST", TOKEN, form, **FORM)
    assert status == 200
    assert headers.getRawHeaders("Cache-Control") == ["no-store"]
    assert (answer["token_type"], answer["expires_in"], answer["scope"]) == ("bearer", 60, "read")
    bearer = {"Authorization": f"Bearer {answer['access_token']}"}
    _, me, _ = await oauth.call("GET", "/multipass/api/me", **bearer)
    assert me == {"id": "narrow", "username": "narrow", "scopes": ["read"], "role": "admin"}
    body = {"deployedAppRid": "ri.one", "queryType": "f"}
    assert (await oauth.call("POST", f"{CONTOUR}/deployed-apps/jobs", body, **bearer))[0] == 200
    _, envelope, _ = await oauth.module("GET", "/job")
    assert envelope["computeModuleJobV1"]["userId"] == "narrow"


@pytest.mark.parametrize("secret", ["s+cr%t: ü", "s%2Bcr%25t%3A+%C3%BC"], ids=["raw", "encoded"])
@pytest_twisted.ensureDeferred
async def test_a_secret_in_basic_is_taken_encoded_or_not(oauth: Harness, secret: str) -> None:
    status, _, _ = await oauth.call("POST", TOKEN, b"grant_type=client_credentials", **basic("app", secret))
    assert status == 200


@pytest_twisted.ensureDeferred
async def test_errors_are_those_of_rfc_6749(oauth: Harness) -> None:
    right = b"&client_id=narrow&client_secret=secret"
    grant = b"grant_type=client_credentials"
    cases: list[tuple[bytes, dict[str, str], int, str]] = [
        (right, FORM, 400, "invalid_request"),
        (b"grant_type=password" + right, FORM, 400, "unsupported_grant_type"),
        (grant + right + b"&scope=read+write", FORM, 400, "invalid_scope"),
        (grant + b"&client_id=narrow&client_secret=wrong", FORM, 401, "invalid_client"),
        (grant + b"&client_id=none&client_secret=", FORM, 401, "invalid_client"),
        (grant, FORM, 401, "invalid_client"),
        (grant, basic("narrow", "wrong"), 401, "invalid_client"),
        (grant, {**FORM, "Authorization": "Basic !"}, 401, "invalid_client"),
        (grant, {**FORM, "Authorization": "Bearer app-token"}, 401, "invalid_client"),
        (grant + right, basic("narrow", "secret"), 400, "invalid_request"),
        (grant + right + b"&scope=read&scope=read", FORM, 400, "invalid_request"),
        (grant + right + b"&x=%ff", FORM, 400, "invalid_request"),
        (b"&".join(b"x%d=1" % n for n in range(100)), FORM, 400, "invalid_request"),
        (b'{"grant_type": "client_credentials"}', {"Content_Type": "application/json"}, 400, "invalid_request"),
        (b"x" * 100_000, FORM, 413, "payload_too_large"),
    ]
    for form, headers, status, error in cases:
        answered, answer, sent = await oauth.call("POST", TOKEN, form, **headers)
        assert (answered, answer["error"]) == (status, error), form[:80]
        assert answer["errorDescription"] == answer["error_description"] != ""
        assert sent.hasHeader("WWW-Authenticate") == (status == 401 and "Authorization" in headers)


@pytest_twisted.ensureDeferred
async def test_a_revoked_token_is_unknown(oauth: Harness) -> None:
    credentials = b"client_id=narrow&client_secret=secret"
    _, answer, _ = await oauth.call("POST", TOKEN, b"grant_type=client_credentials&" + credentials, **FORM)
    token = answer["access_token"]
    bearer = {"Authorization": f"Bearer {token}"}
    revoke = "/multipass/api/oauth2/revoke_token"
    another = b64encode("app:s+cr%t: ü".encode()).decode()
    await oauth.call("POST", revoke, f"token={token}".encode(), **FORM, Authorization=f"Basic {another}")
    assert (await oauth.call("GET", "/multipass/api/me", **bearer))[0] == 200
    assert (await oauth.call("POST", revoke, b"token=" + token.encode(), **FORM))[0] == 401
    assert (await oauth.call("POST", revoke, credentials, **FORM))[0] == 400
    form = b"token=" + token.encode() + b"&" + credentials
    for _ in range(2):
        assert (await oauth.call("POST", revoke, form, **FORM))[0] == 200
    assert (await oauth.call("GET", "/multipass/api/me", **bearer))[0] == 401


@pytest_twisted.ensureDeferred
async def test_tokens_expire_and_their_number_is_bounded() -> None:
    clock = Clock()
    client = OAuthClient("app", "secret", token_lifetime=60)
    credentials = Credentials(clock.seconds, (), clients=[client])
    token = await credentials.issue(client, ("a",))
    clock.advance(59)
    principal = await credentials.principal(token)
    assert principal is not None and (principal.login, principal.scopes) == ("app", ("a",))
    clock.advance(1)
    assert await credentials.principal(token) is None
    first, second, *more = [await credentials.issue(client, ()) for _ in range(MOST_TOKENS + 1)]
    valid = [token for token in (first, second, *more) if await credentials.principal(token) is not None]
    assert len(valid) == MOST_TOKENS
    assert await credentials.principal(first) is None
    assert await credentials.principal(second) is not None
    credentials.replace((), ())
    assert await credentials.principal(second) is None


@pytest_twisted.ensureDeferred
async def test_me_needs_a_token(oauth: Harness) -> None:
    assert (await oauth.call("GET", "/multipass/api/me"))[0] == 401
    _, me, _ = await oauth.call("GET", "/multipass/api/me", Authorization="Bearer app-token")
    assert me["username"] == "jane"


# The official clients


@pytest.fixture
def oauth_server(tmp_path: Path, state_dir: Path) -> Iterator[Server]:
    started = Server(tmp_path, state_dir, seed=OAUTH_SEED)
    yield started
    started.stop()


def run(server: Server, state_dir: Path, *command: str) -> Any:
    environment = {
        **server.environment,
        "CA": str(state_dir / "ca.pem"),
        "NODE_EXTRA_CA_CERTS": str(state_dir / "ca.pem"),
        "URL": server.urls["https"],
        "CLIENT_SECRET": "s+cr%t: ü",
    }
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_the_python_platform_sdk_gets_refreshes_and_revokes(oauth_server: Server, state_dir: Path) -> None:
    python = str(ROOT / ".venv-sdk" / "bin" / "python")
    output = run(oauth_server, state_dir, python, str(ROOT / "tests" / "sdk" / "oauth.py"))
    assert output == ["app", "3600", "refreshed", "401"]


def test_the_typescript_oauth_client_gets_a_token(oauth_server: Server, state_dir: Path) -> None:
    output = run(oauth_server, state_dir, "node", str(ROOT / "tests" / "sdk" / "typescript" / "oauth.mjs"))
    assert output == ["app", "api:read-data,api:write-data", "invalid_client", "401"]
