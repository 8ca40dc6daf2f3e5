"""What the process of a runtime or of a replica is told: its token, and the URIs of its routes."""

from __future__ import annotations

from typing import Any

from ..model.types import JSONValue
from .context import Context
from .transport.request import EmulatorRequest


def describe_session(
    context: Context, request: EmulatorRequest, runtime_id: str, token: str, path: str
) -> dict[str, JSONValue]:
    """Return a session, as JSON (contract section 1).

    Args:
        context: What the routes share.
        request: The request that asks for the session; its URIs are on the address to which the request was sent.
        runtime_id: The runtime.
        token: The module auth token for the routes.
        path: The path of the routes.
    """
    base = f"{_base_url(context, request)}{path}"
    return {
        "runtimeId": runtime_id,
        "moduleAuthToken": token,
        "getJobUri": f"{base}/job",
        "postResultUri": f"{base}/results",
        "postSchemaUri": f"{base}/schemas",
        "restartNotificationUri": f"{base}/restart",
    }


def _base_url(context: Context, request: EmulatorRequest) -> str:
    if context.addresses.base_url is not None:
        return context.addresses.base_url.rstrip("/")
    scheme = "https" if request.is_secure else "http"
    address: Any = request.host
    return f"{scheme}://{request.header('Host') or f'{address.host}:{address.port}'}"
