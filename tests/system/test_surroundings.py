"""What a module on an official SDK finds around it, as the seed describes it."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SEED, Server
from sdk_processes import SDK_PYTHON, Launch, execute, get

SURROUNDINGS = """module_auth_token: token-one
        max_concurrent_tasks: 2
        application: app
        build_token: ${BUILD_TOKEN}
        sources:
          Api: {url: "https://${API_HOST}/v1", secrets: {key: "a${SECRET}c"}, configuration: {type: rest}}
        resources: {input: {rid: ri.input, branch: develop}, output: {rid: ri.output}}
        services: {stream_proxy: ["https://streams.example/api"]}
        env: {GREETING: "hello $${USER}", NUMBER: 5}
"""
SECRETS = {"BUILD_TOKEN": "build-token-value", "API_HOST": "api.example", "SECRET": "secret-value"}


@pytest.fixture
def described(tmp_path: Path, state_dir: Path) -> Any:
    """Start a server whose seed says what modules of runtime ``one`` find around them."""
    seed = SEED.replace(
        "- {runtime_id: one, module_auth_token: token-one}", "- runtime_id: one\n        " + SURROUNDINGS
    )
    assert SURROUNDINGS in seed
    clients = "foundry:\n  oauth_clients: [{client_id: app, client_secret: client-secret-value}]"
    server = Server(tmp_path, state_dir, seed=seed.replace("foundry:", clients, 1))
    yield server
    server.stop()


@pytest.fixture
def server(described: Server) -> Server:
    """Let ``launch`` start modules against the server."""
    described.environment |= SECRETS
    return described


def seed_of(tmp_path: Path) -> tuple[str, str]:
    return ("--seed", str(tmp_path / "seed.yaml"))


def test_the_python_sdk_finds_all_of_it(server: Server, launch: Launch, tmp_path: Path) -> None:
    launch(SDK_PYTHON, str(ROOT / "tests/sdk/surroundings.py"), options=seed_of(tmp_path))
    found = json.loads(execute(server, "surroundings", {}))
    assert "exception" not in found, found["exception"]
    environment = found.pop("environment")
    token = found.pop("token")
    configuration = {"type": "rest"}
    assert found == {
        "secret": "asecret-valuec",
        "secret_v2": "asecret-valuec",
        "url": "https://api.example/v1",
        "configuration": configuration,
        "context_sources": {"Api": {"key": "asecret-valuec"}},
        "context_configurations": {"Api": configuration},
        "client": ["app", "client-secret-value"],
        "pipeline_token": "build-token-value",
        "resources": {"input": ["ri.input", "develop"], "output": ["ri.output", None]},
    }
    # The token that the SDK got for the module lets it in.
    assert get(server, "/multipass/api/me", token)["username"] == "app"
    (replica,) = (
        each
        for each in get(server, "/_emulate/foundry/compute-modules/runtimes/one/replicas")
        if each["replica_id"] != "default"
    )
    host = server.urls["https"].removeprefix("https://")
    path = f"/_emulate/foundry/compute-modules/runtimes/one/replicas/{replica['replica_id']}"
    expected = {
        "FOUNDRY_URL": host,
        "RUNTIME_API": host,
        "GET_JOB_PATH": f"{path}/job",
        "POST_RESULT_PATH": f"{path}/results",
        "GET_JOB_URI": f"{server.urls['http']}{path}/job",
        "COMPUTE_SESSION_ID": replica["replica_id"],
        "FOUNDRY_COMPUTE_MODULE_RID": "ri.one",
        "MAX_CONCURRENT_TASKS": "2",
        "GREETING": "hello ${USER}",
        "NUMBER": "5",
    }
    assert {name: environment.get(name) for name in expected} == expected
    connection = json.loads(Path(environment["CONNECTION_TO_RUNTIME"]).read_text())
    assert connection["basePath"] == path and connection["getJobPath"] == f"{path}/job"
    directory = Path(environment["MODULE_AUTH_TOKEN"]).parent
    assert {stat.S_IMODE(each.stat().st_mode) for each in directory.iterdir()} == {0o600}


def test_the_typescript_sdk_finds_all_of_it(server: Server, launch: Launch, tmp_path: Path) -> None:
    launch("node", str(ROOT / "tests/sdk/typescript/surroundings.js"), options=seed_of(tmp_path))
    assert json.loads(execute(server, "surroundings", {})) == {
        "secret": "asecret-valuec",
        "resource": {"rid": "ri.input", "branch": "develop"},
        "gateway": f"{server.urls['https']}/api",
        "streams": "https://streams.example/api",
        "environment": {"type": "pipelines", "buildToken": "build-token-value"},
    }


def test_no_secret_is_shown_or_logged(server: Server, launch: Launch, tmp_path: Path) -> None:
    launch(SDK_PYTHON, str(ROOT / "tests/sdk/surroundings.py"), options=seed_of(tmp_path))
    for command in (("runtimes", "--json"), ("status", "--json"), ("check", str(tmp_path / "seed.yaml"))):
        said = server.cm(*command)
        assert not any(secret in said.stdout + said.stderr for secret in (b"secret-value", b"build-token-value"))
    server.stop()
    log = server.log
    assert "runtime one: replica" in log
    assert not any(secret in log for secret in SECRETS.values())


@pytest.mark.parametrize("command", ["exec", "env"])
def test_every_variable_that_is_not_set_is_named(
    described: Server, tmp_path: Path, state_dir: Path, command: str
) -> None:
    marker, files = tmp_path / "ran", state_dir / "runtimes" / "one"
    before = set(files.iterdir()) if files.exists() else set()
    tail = ("--", "touch", str(marker)) if command == "exec" else ()
    ran = described.cm(command, "--runtime", "one", *seed_of(tmp_path), *tail)
    assert (ran.returncode, ran.stdout) == (1, b"")
    for place, name in (
        ("sources.Api.url", "API_HOST"),
        ("sources.Api.secrets.key", "SECRET"),
        ("build_token", "BUILD_TOKEN"),
    ):
        assert f"{place}: the environment variable {name} is not set; export it" in ran.stderr.decode()
    assert not marker.exists()
    assert len(get(described, "/_emulate/foundry/compute-modules/runtimes/one/replicas")) == 1
    assert (set(files.iterdir()) if files.exists() else set()) == before


def test_env_writes_the_same_and_forgets_what_the_seed_no_longer_says(server: Server, tmp_path: Path) -> None:
    def variables() -> dict[str, str]:
        ran = server.cm("env", "--runtime", "one", *seed_of(tmp_path))
        assert ran.returncode == 0, ran.stderr
        return dict(line.split("=", 1) for line in ran.stdout.decode().splitlines())

    first = variables()
    assert json.loads(Path(first["SOURCE_CREDENTIALS"]).read_text()) == {"Api": {"key": "asecret-valuec"}}
    seed = tmp_path / "seed.yaml"
    kept = [line for line in seed.read_text().splitlines() if not line.strip().startswith(("sources:", "Api:"))]
    seed.write_text("\n".join(kept))
    second = variables()
    assert first.keys() - second.keys() == {"SOURCE_CREDENTIALS", "SOURCE_CONFIGURATIONS_PATH"}
    assert not Path(first["SOURCE_CREDENTIALS"]).exists()
