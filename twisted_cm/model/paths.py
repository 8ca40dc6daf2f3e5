"""
The URL prefixes of the emulator's routes, for both sides of the wire.

Sources: contract sections 1 to 3; C{SIDECAR} is the path at which a module in Foundry finds its runtime service.
"""

from __future__ import annotations

from urllib.parse import quote

EMULATOR = "/_emulate/foundry/compute-modules"
RUNTIMES = f"{EMULATOR}/runtimes"
DASHBOARD = f"{EMULATOR}/"
SIDECAR = "/interactive-module/api/internal-query"
CONTOUR_SERVICE = "/contour-backend-multiplexer/api"
CONTOUR = f"{CONTOUR_SERVICE}/module-group-multiplexer"
MULTIPASS = "/multipass/api"


def runtime_path(runtime_id: str) -> str:
    """
    @return: the path of a runtime's routes, its id percent-encoded.
    """
    return f"{RUNTIMES}/{quote(runtime_id, safe='')}"


def job_path(job_id: str) -> str:
    """
    @return: the Contour path of a job's routes, its id percent-encoded.
    """
    return f"{CONTOUR}/jobs/{quote(job_id, safe='')}"
