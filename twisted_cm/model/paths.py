"""The URL prefixes of the emulator's routes, for the server and for its clients.

They come from sections 1 to 3 of the contract.
"""

from __future__ import annotations

from urllib.parse import quote

EMULATOR = "/_emulate/foundry/compute-modules"
RUNTIMES = f"{EMULATOR}/runtimes"
DASHBOARD = f"{EMULATOR}/"
#: Where a compute module in Foundry finds its runtime service.
SIDECAR = "/interactive-module/api/internal-query"
CONTOUR_SERVICE = "/contour-backend-multiplexer/api"
CONTOUR = f"{CONTOUR_SERVICE}/module-group-multiplexer"
MULTIPASS = "/multipass/api"
#: The page for signing in.
AUTHORIZE = f"{MULTIPASS}/oauth2/authorize"
#: Foundry's public API.
FUNCTIONS = "/api/v2/functions"
ONTOLOGIES = "/api/v2/ontologies"
ADMIN = "/api/v2/admin"

#: The first segments of the paths that the emulator answers itself, or may answer in a later version.
OWN_SEGMENTS = frozenset(
    {
        "_emulate",
        "api",
        "contour-backend-multiplexer",
        "healthz",
        "interactive-module",
        "metrics",
        "multipass",
        "openapi.json",
        "readyz",
    }
)


def runtime_path(runtime_id: str) -> str:
    """Return the path of a runtime's routes, with the id percent-encoded."""
    return f"{RUNTIMES}/{quote(runtime_id, safe='')}"


def replica_path(runtime_id: str, replica_id: str) -> str:
    """Return the path of a replica's routes, with both ids percent-encoded."""
    return f"{runtime_path(runtime_id)}/replicas/{quote(replica_id, safe='')}"


def job_path(job_id: str) -> str:
    """Return the Contour path of a job's routes, with the id percent-encoded."""
    return f"{CONTOUR}/jobs/{quote(job_id, safe='')}"
