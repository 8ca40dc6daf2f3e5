"""Which environment variables and files does a module process need?

The names are those of Foundry's own containers; a comment beside each says which SDK reads it.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote, urlsplit

import click
import yaml
from attrs import field, frozen

from ..config.module_settings import RESERVED, ModuleSettings
from ..config.state_dir import make_private_directory, write_private
from ..model.paths import MULTIPASS, replica_path
from ..model.replicas import REPLICA_PREFIX
from ..model.tokens import OAuthClient

#: The names of a replica's files that :func:`write_environment` writes.
_FILES = {
    "token": "module-auth-token",
    "ca": "ca.pem",
    "connection": "connection.json",
    "source_credentials": "source-credentials.json",
    "source_configurations": "source-configurations.json",
    "services": "service-discovery.yaml",
    "build_token": "build-token",
    "resources": "resource-aliases.json",
}

#: The variables that a module does not get from the environment of the command that starts it: tokens of the emulator,
#: since the module has one of its own, and what only the emulator and the seed may say.
_LEFT_OUT = RESERVED | {"TWISTED_CM_ADMIN_TOKEN", "TWISTED_CM_TOKEN"}

#: Seconds for which the directory of a replica is not taken for abandoned.
_NEW_FOR = 60.0


class CannotWriteFiles(click.ClickException):
    """The files of a module process cannot be written; the message says what to do."""


@contextmanager
def _writing_in(directory: Path) -> Iterator[None]:
    """Raise :class:`CannotWriteFiles` for what goes wrong with the files of a directory."""
    try:
        yield
    except OSError as error:
        raise CannotWriteFiles(
            f"Cannot write {error.filename or directory}: {error.strerror}. Choose another directory with --state-dir."
        ) from None


@frozen
class EmulatorAccess:
    """How a module process reaches an emulator, and as which replica.

    Attributes:
        runtime_id: The runtime.
        replica_id: The replica.
        module_auth_token: The replica's token.
        max_concurrent_tasks: How many unfinished jobs may be on the replica.
        url: The base URL that the URIs are built on.
        https: The emulator's TLS address, which the Python SDK needs, or ``None``.
        ca_certificate: The CA to verify that address with, in PEM.
        deployed_app_rid: A deployed app that the runtime serves, or ``None``.
        sidecar_port: The port of a plain sidecar listener for the runtime on this machine, or ``None``.
    """

    runtime_id: str
    replica_id: str
    module_auth_token: str = field(repr=False)
    max_concurrent_tasks: int
    url: str
    https: str | None
    ca_certificate: str | None
    deployed_app_rid: str | None = None
    sidecar_port: int | None = None

    @property
    def base(self) -> str:
        """The URL under which the replica's routes are."""
        return f"{self.url}{replica_path(self.runtime_id, self.replica_id)}"

    @property
    def foundry(self) -> str:
        """The URL of the emulator in the place of Foundry: with TLS, if it has a TLS address."""
        return self.https or self.url

    @property
    def host(self) -> str:
        """The host to which the Python SDK connects."""
        return urlsplit(self.foundry).hostname or "localhost"

    @property
    def port(self) -> int:
        """The port to which the Python SDK connects."""
        # That SDK supports only TLS; without a TLS listener, it reports the failed connection itself.
        endpoint = urlsplit(self.foundry)
        return endpoint.port or (443 if endpoint.scheme == "https" else 80)


def write_environment(
    access: EmulatorAccess, settings: ModuleSettings, application: OAuthClient | None, directory: Path
) -> dict[str, str]:
    """Write the files that a module reads, for this user only, and return the variables.

    Args:
        access: How the module reaches the emulator.
        settings: What else the module finds around it, with the values of environment variables in it.
        application: The OAuth client that ``settings`` names.
        directory: Created if it does not exist.

    Raises:
        CannotWriteFiles: A file cannot be written.
    """
    files = {name: directory / file for name, file in _FILES.items()}
    contents = dict(_contents(access, settings, str(files["ca"])))
    with _writing_in(directory):
        make_private_directory(directory)
        for name, content in contents.items():
            write_private(files[name], content.encode("utf-8"))
        for name in _FILES.keys() - contents.keys():
            # What an earlier seed said no longer holds.
            files[name].unlink(missing_ok=True)
    variables = {**_variables(access), **{name: str(files[file]) for name, file in _names(contents).items()}}
    if application is not None:
        # The Python and TypeScript SDKs.
        # The seed is refused if this client has no secret.
        variables |= {"CLIENT_ID": application.client_id, "CLIENT_SECRET": application.client_secret or ""}
    return variables | dict(settings.env)


def _contents(access: EmulatorAccess, settings: ModuleSettings, ca_path: str) -> Iterator[tuple[str, str]]:
    """Return the contents of the files, by the names in :data:`_FILES`."""
    yield "token", access.module_auth_token
    yield "ca", access.ca_certificate or ""
    path = urlsplit(access.base).path
    connection = {
        "host": access.host,
        "port": access.port,
        "basePath": path,
        "getJobPath": f"{path}/job",
        "postResultPath": f"{path}/results",
        "moduleAuthToken": access.module_auth_token,
        "trustStorePath": ca_path,
    }
    yield "connection", json.dumps(connection)
    services = {
        "api_gateway": [f"{access.foundry}/api"],
        "multipass": [f"{access.foundry}{MULTIPASS}"],
        # The emulator does not serve these; the seed may say where to pass them on to.
        "stream_proxy": [f"{access.foundry}/stream-proxy/api"],
        "foundry_mio": [f"{access.foundry}/mio/api"],
        **settings.services,
    }
    yield "services", yaml.safe_dump(services)
    if settings.sources:
        yield "source_credentials", json.dumps({name: dict(each.secrets) for name, each in settings.sources.items()})
        configurations = {
            name: {
                "secrets": dict(each.secrets),
                "httpConnectionConfig": {"url": each.url},
                "sourceConfiguration": each.configuration,
            }
            for name, each in settings.sources.items()
        }
        yield "source_configurations", json.dumps(configurations)
    if settings.build_token is not None:
        yield "build_token", settings.build_token
    if settings.resources:
        # The Python SDK does without the branch, other readers do not.
        aliases = {alias: {"rid": each.rid, "branch": each.branch} for alias, each in settings.resources.items()}
        yield "resources", json.dumps(aliases)


def _names(contents: Mapping[str, str]) -> dict[str, str]:
    """Return the files that variables name, by the variables."""
    found = {
        # Every SDK.
        "MODULE_AUTH_TOKEN": "token",
        # The Python SDK.
        "CONNECTIONS_TO_OTHER_PODS_CA_PATH": "ca",
        # Older containers.
        "CONNECTION_TO_RUNTIME": "connection",
        # get_source of the Python SDK, getServiceApi of the TypeScript SDK.
        "FOUNDRY_SERVICE_DISCOVERY_V2": "services",
        # sources and sources_v2 of the Python SDK, sources of the TypeScript SDK.
        "SOURCE_CREDENTIALS": "source_credentials",
        "SOURCE_CONFIGURATIONS_PATH": "source_configurations",
        # Modules that run in a pipeline.
        "BUILD2_TOKEN": "build_token",
        "RESOURCE_ALIAS_MAP": "resources",
    }
    if contents["ca"]:
        # The TypeScript SDK, and oauth of the Python SDK.
        found["DEFAULT_CA_PATH"] = "ca"
    return {variable: file for variable, file in found.items() if file in contents}


def _variables(access: EmulatorAccess) -> dict[str, str]:
    path = urlsplit(access.base).path
    variables = {
        # Every SDK.
        "GET_JOB_URI": f"{access.base}/job",
        "POST_RESULT_URI": f"{access.base}/results",
        "POST_SCHEMA_URI": f"{access.base}/schemas",
        "RESTART_NOTIFICATION_URI": f"{access.base}/restart",
        # The Python SDK.
        "RUNTIME_HOST": access.host,
        "RUNTIME_PORT": str(access.port),
        "MAX_CONCURRENT_TASKS": str(access.max_concurrent_tasks),
        "COMPUTE_SESSION_ID": access.replica_id,
        # Clients without an SDK, as Foundry documents them.
        "RUNTIME_API": f"{access.host}:{access.port}",
        "GET_JOB_PATH": f"{path}/job",
        "POST_RESULT_PATH": f"{path}/results",
        "FOUNDRY_COMPUTE_MODULE_RID": access.deployed_app_rid or access.runtime_id,
        # Platform SDKs in a module.
        "FOUNDRY_URL": urlsplit(access.foundry).netloc,
    }
    if access.sidecar_port is not None:
        # Newer Java SDKs, which send no token.
        sidecar = f"http://127.0.0.1:{access.sidecar_port}/replicas/{quote(access.replica_id, safe='')}"
        variables |= {
            "GET_JOB_URI_V2": f"{sidecar}/job",
            "POST_RESULT_URI_V2": f"{sidecar}/results",
            "POST_SCHEMA_URI_V2": f"{sidecar}/schemas",
        }
    return variables


def inherited_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a module gets from the environment of the command that starts it."""
    return {name: value for name, value in environment.items() if name not in _LEFT_OUT}


def bypass_proxies(variables: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Add the emulator's host to ``NO_PROXY`` if the environment sets a proxy.

    An SDK would otherwise send its requests to a proxy that cannot reach the emulator.
    """
    extended = dict(variables)
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        for name in ("NO_PROXY", "no_proxy"):
            extended[name] = ",".join(filter(None, (environment.get(name), variables["RUNTIME_HOST"])))
    return extended


@contextmanager
def claimed_directory(directory: Path) -> Iterator[None]:
    """Make the directory of a replica for the time of a command, and remove it in the end.

    Directories of commands that were killed are removed, too.

    Raises:
        CannotWriteFiles: The directory cannot be made.
    """
    with _writing_in(directory):
        make_private_directory(directory)
        claim = _claim(directory)
    try:
        for other in directory.parent.glob(f"{REPLICA_PREFIX}*"):
            with suppress(OSError):
                # A command that has just started may not have claimed its directory yet.
                if other != directory and time.time() - other.stat().st_mtime > _NEW_FOR:
                    abandoned = _claim(other)
                    if abandoned is not None:
                        shutil.rmtree(other, ignore_errors=True)
                        os.close(abandoned)
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        if claim is not None:
            os.close(claim)


def _claim(directory: Path) -> int | None:
    """Lock a directory for this process; return the lock, or ``None`` if another process has it."""
    lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(lock)
        return None
    return lock


def token_file(directory: Path) -> str | None:
    """Return the token that :func:`write_environment` wrote to a directory, or ``None``."""
    try:
        return (directory / _FILES["token"]).read_text("utf-8") or None
    except (OSError, UnicodeDecodeError):
        return None


def replica_directory(state_dir: Path, runtime_id: str, replica_id: str) -> Path:
    """Return the directory for the files of one replica."""
    runtime, replica = (quote(each, safe="").replace(".", "%2E") for each in (runtime_id, replica_id))
    return state_dir / "runtimes" / runtime / replica
