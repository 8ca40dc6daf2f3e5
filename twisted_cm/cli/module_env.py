"""Which environment variables and files does a module process need?

The names are those of Foundry's own containers; a comment beside each says which SDK reads it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from ..config.state_dir import make_private_directory, write_private
from ..model.paths import runtime_path


class CannotWriteFiles(Exception):
    """The files of a module process cannot be written; the message says what to do."""


@frozen
class EmulatorAccess:
    """How a module process reaches an emulator, and as which runtime.

    Attributes:
        url: The base URL that the URIs are built on.
        https: The emulator's TLS address, which the Python SDK needs, or ``None``.
        ca_certificate: The CA to verify that address with, in PEM.
    """

    runtime_id: str
    module_auth_token: str = field(repr=False)
    url: str
    https: str | None
    ca_certificate: str | None


def write_environment(access: EmulatorAccess, directory: Path) -> dict[str, str]:
    """Write the files that a module reads, for this user only, and return the variables.

    Args:
        directory: Created if it does not exist.

    Raises:
        CannotWriteFiles: A file cannot be written.
    """
    base = f"{access.url}{runtime_path(access.runtime_id)}"
    # The Python SDK supports only TLS; without a TLS listener, it reports the failed connection itself.
    endpoint = urlsplit(access.https or access.url)
    host = endpoint.hostname or "localhost"
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    token, ca, connection = directory / "module-auth-token", directory / "ca.pem", directory / "connection.json"
    paths = {name: urlsplit(f"{base}/{name}").path for name in ("job", "results")}
    try:
        make_private_directory(directory)
        write_private(token, access.module_auth_token.encode("utf-8"))
        write_private(ca, (access.ca_certificate or "").encode("ascii"))
        write_private(
            connection,
            json.dumps(
                {
                    "host": host,
                    "port": port,
                    "getJobPath": paths["job"],
                    "postResultPath": paths["results"],
                    "moduleAuthToken": access.module_auth_token,
                    "trustStorePath": str(ca),
                }
            ).encode("utf-8"),
        )
    except OSError as error:
        raise CannotWriteFiles(
            f"Cannot write {error.filename or directory}: {error.strerror}. Choose another directory with --state-dir."
        ) from None
    variables = {
        # Every SDK.
        "GET_JOB_URI": f"{base}/job",
        "POST_RESULT_URI": f"{base}/results",
        "POST_SCHEMA_URI": f"{base}/schemas",
        "RESTART_NOTIFICATION_URI": f"{base}/restart",
        "MODULE_AUTH_TOKEN": str(token),
        # The Python SDK.
        "RUNTIME_HOST": host,
        "RUNTIME_PORT": str(port),
        "CONNECTIONS_TO_OTHER_PODS_CA_PATH": str(ca),
        # Older containers.
        "CONNECTION_TO_RUNTIME": str(connection),
    }
    if access.ca_certificate is not None:
        # The TypeScript SDK.
        variables["DEFAULT_CA_PATH"] = str(ca)
    return variables


def bypass_proxies(variables: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Add the emulator's host to ``NO_PROXY`` if the environment sets a proxy.

    An SDK would otherwise send its requests to a proxy that cannot reach the emulator.
    """
    extended = dict(variables)
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        for name in ("NO_PROXY", "no_proxy"):
            extended[name] = ",".join(filter(None, (environment.get(name), variables["RUNTIME_HOST"])))
    return extended


def runtime_directory(state_dir: Path, runtime_id: str) -> Path:
    """Return the directory for the files of one runtime's processes."""
    return state_dir / "runtimes" / quote(runtime_id, safe="").replace(".", "%2E")
