"""
What a runtime process is started with: the variables and files that the SDKs read.

The names are those of Foundry's own containers; which SDK reads which stands
beside each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from attrs import field, frozen

from ..client.api import EmulatorControl, RuntimeSession
from ..config.state_dir import write_private
from ..model.paths import runtime_path


class CannotLaunch(Exception):
    """A runtime process cannot be prepared; the message says what to do."""


@frozen
class Launch:
    """
    How a runtime process joins an emulator.

    @ivar url: the base URL that whole URIs are built on.
    @ivar https: the emulator's TLS address, which the Python SDK needs, or L{None}.
    @ivar ca_certificate: what to verify that address with, in PEM.
    """

    runtime_id: str
    module_auth_token: str = field(repr=False)
    url: str
    https: str | None
    ca_certificate: str | None


async def prepare_launch(
    url: str,
    runtime_id: str,
    module_auth_token: str | None,
    deployed_app_rid: str | None,
    branch: str | None,
    admin_token: str | None,
    **connection: Any,
) -> Launch:
    """
    Find out how to reach the emulator, and open a session unless the token is known.

    @param module_auth_token: joins the runtime as it is; L{None} opens a session that keeps its bindings.
    @param connection: how clients of the emulator are made.
    @raise twisted_cm.client.ComputeModulesError: the emulator refuses, or there is none.
    """
    async with EmulatorControl(url, **connection) as control:
        url, info = control.url, await control.info()
    if module_auth_token is None:
        opened = RuntimeSession.open(
            url, runtime_id, deployed_app_rid, branch, keep_bindings=True, admin_token=admin_token, **connection
        )
        async with await opened as session:
            module_auth_token = session.module_auth_token
    https = url if url.startswith("https:") else info.https
    return Launch(runtime_id, module_auth_token, url, https, info.ca_certificate)


def write_environment(launch: Launch, directory: Path) -> dict[str, str]:
    """
    Write the files that the variables name, readable by this user only.

    @param directory: where to; made if it is not there.
    @return: the variables.
    @raise CannotLaunch: a file cannot be written.
    """
    base = f"{launch.url}{runtime_path(launch.runtime_id)}"
    # The Python SDK speaks TLS only; without a TLS listener it is left to fail on its own terms.
    endpoint = urlsplit(launch.https or launch.url)
    host = endpoint.hostname or "localhost"
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    token, ca, connection = directory / "module-auth-token", directory / "ca.pem", directory / "connection.json"
    paths = {name: urlsplit(f"{base}/{name}").path for name in ("job", "results")}
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_private(token, launch.module_auth_token.encode("utf-8"))
        write_private(ca, (launch.ca_certificate or "").encode("ascii"))
        write_private(
            connection,
            json.dumps(
                {
                    "host": host,
                    "port": port,
                    "getJobPath": paths["job"],
                    "postResultPath": paths["results"],
                    "moduleAuthToken": launch.module_auth_token,
                    "trustStorePath": str(ca),
                }
            ).encode("utf-8"),
        )
    except OSError as error:
        raise CannotLaunch(
            f"{error.filename or directory}: {error.strerror}; choose another directory with --state-dir"
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
    if launch.ca_certificate is not None:
        # The TypeScript SDK.
        variables["DEFAULT_CA_PATH"] = str(ca)
    return variables


def bypass_proxies(variables: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """
    A proxy meant for the Internet must not get between an SDK and the emulator.

    @return: the variables, with the emulator's host added to C{NO_PROXY} where a proxy is set.
    """
    extended = dict(variables)
    if any(name.lower() in ("http_proxy", "https_proxy", "all_proxy") for name in environment):
        for name in ("NO_PROXY", "no_proxy"):
            extended[name] = ",".join(filter(None, (environment.get(name), variables["RUNTIME_HOST"])))
    return extended


def launch_directory(state_dir: Path, runtime_id: str) -> Path:
    """
    @return: where the files of one runtime's processes are kept.
    """
    return state_dir / "runtimes" / quote(runtime_id, safe="").replace(".", "%2E")
