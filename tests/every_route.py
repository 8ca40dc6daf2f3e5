"""Every route, who may use it, and a request that it accepts."""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from typing import Any
from unittest.mock import patch

from attrs import frozen
from conftest import CONTOUR, RUNTIMES, SEED, Harness, make_harness, result_of
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Protocol

from twisted_cm.broker.results import ResultBody
from twisted_cm.broker.tokens import MemoryTokens
from twisted_cm.config.seed import Sidecar
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.grants import Grant
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.limits import Limits
from twisted_cm.model.queries import function_rid
from twisted_cm.model.replicas import ReplicaRequest
from twisted_cm.model.runtimes import FunctionSchema
from twisted_cm.model.tokens import IssuedToken

EMULATOR = "/_emulate/foundry/compute-modules"
MULTIPASS = "/multipass/api"
SIDECAR = "/interactive-module/api/internal-query"

AUTH_SEED = SEED.replace(
    "foundry:\n",
    "foundry:\n"
    "  oauth_clients:\n"
    "    - {client_id: app, client_secret: secret}\n"
    "    - {client_id: brief, client_secret: secret, token_lifetime: 1}\n",
)


def basic(client_id: str, secret: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"{client_id}:{secret}".encode()).decode()}


#: What a request may carry, by the name that the tables of routes use.
PRESENTED: dict[str, dict[str, str]] = {
    "nothing": {},
    "wrong bearer": {"Authorization": "Bearer wrong"},
    "wrong scheme": {"Authorization": "Token app-token"},
    "no text": {"Authorization": "Bearer \udcff", "Module-Auth-Token": "\udcff"},
    "wrong module token": {"Module-Auth-Token": "wrong"},
    "other module token": {"Module-Auth-Token": "token-two"},
    "replica token": {"Module-Auth-Token": "REPLICA"},
    "other replica token": {"Module-Auth-Token": "OTHER-REPLICA"},
    "module token as bearer": {"Authorization": "Bearer token-one"},
    "bearer as module token": {"Module-Auth-Token": "app-token"},
    "module token": {"Module-Auth-Token": "token-one"},
    "bearer": {"Authorization": "Bearer app-token"},
    "job token": {"Authorization": "TOKEN-OF-JOB"},
    "ended job token": {"Authorization": "TOKEN-OF-ENDED-JOB"},
    "admin": {"Authorization": "Bearer boss"},
    "client": basic("app", "secret"),
    "wrong client": basic("app", "wrong"),
    # The test itself gets two more, the OAuth tokens "issued" and "expired".
}
BEARERS = {"bearer", "issued", "job token"}
EVERYTHING = {*PRESENTED, "issued", "expired"}


@frozen(eq=False)
class Guard:
    """Which of :data:`PRESENTED` a route accepts, on loopback and beyond it.

    Anything else is answered with 401, or with 403 if it is in one of the two sets for that.
    On loopback there is no admin token: any bearer is an administrator, and "admin" is unknown.
    """

    loopback: AbstractSet[str]
    guarded: AbstractSet[str]
    forbidden_loopback: AbstractSet[str] = frozenset()
    forbidden_guarded: AbstractSet[str] = frozenset()

    def status(self, presented: str, guarded: bool, right: int) -> int:
        if presented in (self.guarded if guarded else self.loopback):
            return right
        return 403 if presented in (self.forbidden_guarded if guarded else self.forbidden_loopback) else 401


OPEN = Guard(EVERYTHING, EVERYTHING)
CONTROL = Guard(EVERYTHING, {"admin"}, forbidden_guarded=BEARERS)
ADMIN = Guard(BEARERS, {"admin"}, forbidden_guarded=BEARERS)
BEARER = Guard(BEARERS, {*BEARERS, "admin"})
OTHER = {"other module token", "replica token", "other replica token"}
MODULE = Guard({"module token"}, {"module token"}, OTHER, OTHER)
MODULE_OR_BEARER = Guard({"module token", *BEARERS}, {"module token", "admin", *BEARERS}, OTHER, OTHER)
NOT_THE_REPLICA = {"module token", "other module token", "other replica token"}
REPLICA = Guard({"replica token"}, {"replica token"}, NOT_THE_REPLICA, NOT_THE_REPLICA)
NEITHER = {"other module token", "other replica token"}
REPLICA_OR_ADMIN = Guard(
    {"replica token", "module token", *BEARERS},
    {"replica token", "module token", "admin"},
    NEITHER,
    {*NEITHER, *BEARERS},
)
REPLICA_OR_BEARER = Guard(
    {"replica token", "module token", *BEARERS}, {"replica token", "module token", "admin", *BEARERS}, NEITHER, NEITHER
)
#: A module token has to be right wherever it is sent.
WRONG = {"no text", "wrong module token", "bearer as module token"}
OPENING = Guard(EVERYTHING - WRONG - OTHER, {"module token", "admin"}, OTHER, {*OTHER, *BEARERS})
#: At a sidecar, the token of a replica says which replica sends the request.
OF_ONE = {"module token", "replica token", "other replica token"}
SIDECAR_MODULE = Guard(OF_ONE, OF_ONE, {"other module token"}, {"other module token"})
#: Newer Java SDKs send no token. What is in other headers makes no difference.
UNTOKENED = EVERYTHING - WRONG - OTHER
BARE = Guard({*UNTOKENED, *OF_ONE}, {*UNTOKENED, *OF_ONE}, {"other module token"}, {"other module token"})
BARE_REPLICA = Guard(
    {*UNTOKENED, "replica token"} - {"module token"},
    {*UNTOKENED, "replica token"} - {"module token"},
    NOT_THE_REPLICA,
    NOT_THE_REPLICA,
)
INSPECTION = Guard(EVERYTHING, {"module token", "admin", *BEARERS})
METRICS = Guard(EVERYTHING, {"admin", *BEARERS})
CLIENT = Guard({"client"}, {"client"})

SUBMIT = {"deployedAppRid": "ri.one", "queryType": "f"}
BY_ID = {"id": "JOB"}
ONE = f"{RUNTIMES}/<runtime_id>"
APPS = "/contour-backend-multiplexer/api/deployed-apps"
APP = f"{APPS}/<rid>/<branch>"
FUNCTIONS = "/api/v2/functions"
ONTOLOGIES = "/api/v2/ontologies"
QUERY = f"{FUNCTIONS}/queries/<api_name>"
EXECUTION = f"{FUNCTIONS}/executions/<execution_id>"
ONTOLOGY = f"{ONTOLOGIES}/<ontology>"
CALL = {"parameters": {}}
GRANT = b"grant_type=client_credentials"

#: Every route: who may use it, a body that it accepts, and the status of the answer.
#: Synchronous callers time out at once in these tests, and every job that a route asks about is done.
ROUTES: dict[str, tuple[Guard, Any, int]] = {
    f"GET {EMULATOR}/info": (OPEN, None, 200),
    f"GET {EMULATOR}": (OPEN, None, 308),
    f"GET {EMULATOR}/": (OPEN, None, 200),
    f"GET {EMULATOR}/dashboard/<name>": (OPEN, None, 200),
    "GET /openapi.json": (OPEN, None, 200),
    "GET /metrics": (METRICS, None, 200),
    "GET /healthz": (OPEN, None, 200),
    "GET /readyz": (OPEN, None, 200),
    f"POST {RUNTIMES}": (CONTROL, {"runtimeId": "new"}, 200),
    f"GET {RUNTIMES}": (BEARER, None, 200),
    f"GET {ONE}": (BEARER, None, 200),
    f"DELETE {ONE}": (ADMIN, None, 204),
    f"POST {ONE}/jobs": (MODULE_OR_BEARER, {"queryType": "f"}, 201),
    f"GET {ONE}/jobs/<job_id>": (INSPECTION, None, 200),
    f"GET {ONE}/job": (MODULE, None, 200),
    f"POST {ONE}/schemas": (MODULE, [{"name": "g"}], 200),
    f"POST {ONE}/results/<job_id>": (MODULE, b"result", 204),
    f"POST {ONE}/restart": (MODULE, None, 200),
    f"POST {ONE}/replicas": (OPENING, {}, 201),
    f"GET {ONE}/replicas": (BEARER, None, 200),
    f"GET {ONE}/replicas/<replica_id>": (REPLICA_OR_BEARER, None, 200),
    f"DELETE {ONE}/replicas/<replica_id>": (REPLICA_OR_ADMIN, None, 204),
    f"GET {ONE}/replicas/<replica_id>/job": (REPLICA, None, 200),
    f"POST {ONE}/replicas/<replica_id>/schemas": (REPLICA, [{"name": "g"}], 200),
    f"POST {ONE}/replicas/<replica_id>/results/<job_id>": (REPLICA, b"result", 204),
    f"POST {ONE}/replicas/<replica_id>/restart": (REPLICA, None, 200),
    f"GET {EMULATOR}/jobs": (BEARER, None, 200),
    f"GET {EMULATOR}/jobs/<job_id>": (BEARER, None, 200),
    f"POST {ONE}/jobs/<job_id>/fail": (MODULE, {"message": "out of luck"}, 204),
    f"GET {EMULATOR}/events": (BEARER, None, 200),
    f"GET {ONE}/module/output": (BEARER, None, 200),
    # The emulator has not started the module of this runtime.
    f"POST {ONE}/module/restart": (CONTROL, None, 400),
    f"POST {EMULATOR}/reset": (CONTROL, None, 204),
    f"GET {EMULATOR}/faults": (CONTROL, None, 200),
    f"POST {EMULATOR}/faults": (CONTROL, {"kind": "drop_job"}, 201),
    f"DELETE {EMULATOR}/faults": (CONTROL, None, 204),
    f"DELETE {EMULATOR}/faults/<fault_id>": (CONTROL, None, 204),
    # Without the query or the form of a client, the answer is a page that says so.
    f"GET {MULTIPASS}/oauth2/authorize": (OPEN, None, 400),
    f"POST {MULTIPASS}/oauth2/authorize": (OPEN, b"request=x", 400),
    f"POST {MULTIPASS}/oauth2/token": (CLIENT, GRANT, 200),
    f"POST {MULTIPASS}/oauth2/revoke_token": (CLIENT, b"token=x", 200),
    f"GET {MULTIPASS}/me": (BEARER, None, 200),
    "GET /api/v2/admin/users/getCurrent": (BEARER, None, 200),
    f"POST {CONTOUR}/compute-modules/jobs/execute": (BEARER, SUBMIT, 504),
    f"POST {CONTOUR}/deployed-apps/jobs/execute": (BEARER, SUBMIT, 504),
    f"POST {CONTOUR}/deployed-apps/jobs": (BEARER, SUBMIT, 200),
    f"POST {CONTOUR}/jobs": (BEARER, {"moduleGroupName": "one", "queryType": "f"}, 200),
    f"GET {CONTOUR}/jobs/<job_id>/status": (BEARER, None, 200),
    f"PUT {CONTOUR}/jobs/status/v2": (BEARER, BY_ID, 200),
    f"PUT {CONTOUR}/jobs/status/v3": (BEARER, BY_ID, 200),
    f"GET {CONTOUR}/jobs/<job_id>/result": (BEARER, None, 200),
    f"PUT {CONTOUR}/jobs/result/v2": (BEARER, BY_ID, 200),
    f"PUT {CONTOUR}/jobs/result/v3": (BEARER, BY_ID, 200),
    f"DELETE {CONTOUR}/jobs/<job_id>": (BEARER, None, 204),
    f"DELETE {CONTOUR}/jobs": (BEARER, BY_ID, 204),
    f"DELETE {CONTOUR}/jobs/v3": (BEARER, BY_ID, 204),
    f"PUT {CONTOUR}/jobs/<job_id>/soft-cancel": (BEARER, None, 204),
    f"GET {CONTOUR}/schemas": (BEARER, None, 200),
    f"GET {APP}/function-schemas": (BEARER, None, 200),
    f"GET {APP}/status": (BEARER, None, 200),
    f"GET {QUERY}": (BEARER, None, 200),
    f"GET {FUNCTIONS}/queries/getByRid": (BEARER, None, 200),
    f"POST {FUNCTIONS}/queries/getByRidBatch": (BEARER, [{"rid": "ri.a.b.c.d"}], 200),
    f"POST {QUERY}/execute": (BEARER, CALL, 400),
    f"POST {QUERY}/streamingExecute": (BEARER, CALL, 200),
    f"POST {QUERY}/streamingExecuteEvents": (BEARER, CALL, 200),
    f"POST {QUERY}/executeAsync": (BEARER, CALL, 200),
    f"POST {EXECUTION}/getResult": (BEARER, {}, 200),
    f"POST {EXECUTION}/cancel": (BEARER, None, 200),
    f"GET {ONTOLOGIES}": (BEARER, None, 200),
    f"GET {ONTOLOGY}": (BEARER, None, 200),
    f"GET {ONTOLOGY}/queryTypes": (BEARER, None, 200),
    f"GET {ONTOLOGY}/queryTypes/<api_name>": (BEARER, None, 200),
    f"POST {ONTOLOGY}/queryTypes/getByRidBatch": (BEARER, {"requests": [{"queryTypeRid": "ri.a.b.c.d"}]}, 200),
    f"POST {ONTOLOGY}/queries/<api_name>/execute": (BEARER, CALL, 400),
    f"PUT {APP}/dev-mode": (BEARER, {}, 204),
    f"GET {APPS}/<rid>": (BEARER, None, 200),
    f"GET {APPS}/<rid>/v2": (BEARER, None, 200),
}
_OF_MODULES = (
    ("GET", "/job", None, 200),
    ("POST", "/schemas", [{"name": "g"}], 200),
    ("POST", "/results/<job_id>", b"result", 204),
    ("POST", "/restart", None, 200),
    ("POST", "/restart-notify", None, 200),
)
SIDECAR_ROUTES: dict[str, tuple[Guard, Any, int]] = {
    f"{method} {prefix}{path}": (guard, body, 204 if (prefix, path) == (SIDECAR, "/schemas") else right)
    for prefix, guard in ((SIDECAR, SIDECAR_MODULE), ("", BARE), ("/replicas/<replica_id>", BARE_REPLICA))
    for method, path, body, right in _OF_MODULES
    if (prefix, path) != (SIDECAR, "/restart-notify")
}


class CountedTokens(MemoryTokens):
    """Issued tokens and grants, with a count of how often one was added or removed."""

    changes = 0

    def put(self, digest: bytes, issued: IssuedToken) -> Deferred[None]:
        self.changes += 1
        return super().put(digest, issued)

    def delete(self, digest: bytes) -> Deferred[None]:
        self.changes += 1
        return super().delete(digest)

    def put_grant(self, grant_id: str, grant: Grant, code: bytes) -> Deferred[None]:
        self.changes += 1
        return super().put_grant(grant_id, grant, code)

    def end_grant(self, grant_id: str) -> Deferred[None]:
        self.changes += 1
        return super().end_grant(grant_id)


@asynccontextmanager
async def running(**settings: Any) -> AsyncIterator[Harness]:
    """Run an emulator with OAuth clients and a sidecar for runtime ``one``.

    No replica becomes silent: on a machine that stands still for ten seconds during a request, the passing of time
    would look like something that the request has changed.
    """
    limits = Limits(poll_timeout=30, sync_timeout=0.001)
    made = make_harness(AUTH_SEED, sidecars=(Sidecar("one", 0, 0),), limits=limits, **settings)
    credentials: Any = made.service.credentials
    credentials.issued = CountedTokens(credentials.now)
    try:
        with patch.multiple("twisted_cm.model.replicas", SILENT_AFTER=math.inf, SILENT_AT_WORK_AFTER=math.inf):
            yield made
    finally:
        await made.pool.closeCachedConnections()
        await made.service.stopService()


async def prepare(harness: Harness, route: str) -> dict[str, str]:
    """Go back to the seed, with two replicas, a job that is done, a queued one, a running one of ``two``, and a fault.

    Returns:
        The value for each parameter in the path of a route, and for the tokens of the replicas.
    """
    await harness.service.reset()
    job = await harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    await harness.broker.poll("one", 0)
    body = ResultBody()
    body.write(b"result")
    await harness.broker.complete(job.job_id, body)
    execution = await harness.broker.enqueue("one", Submission("f", b"{}", JobSource.FUNCTIONS_ASYNC))
    await harness.broker.put_schemas("one", [FunctionSchema("f", {})])
    replicas = [await harness.broker.open_replica(ReplicaRequest("one", each)) for each in ("replica", "other")]
    waiting = await harness.broker.enqueue("one", Submission("f", b"{}", JobSource.RUNTIME_DIRECT))
    submitted = Submission("f", b"{}", JobSource.RUNTIME_DIRECT, submitter="jane")
    running = await harness.broker.enqueue("two", submitted)
    await harness.broker.poll("two", 0)
    credentials = harness.service.credentials
    fault = await harness.service.faults.add(FaultPlan(FaultKind.DROP_JOB, function="never"))
    ends_it = route.startswith("DELETE") or "soft-cancel" in route or route.endswith(("/results/<job_id>", "/fail"))
    return {
        "runtime_id": "one",
        "replica_id": "replica",
        "REPLICA": replicas[0].token,
        "OTHER-REPLICA": replicas[1].token,
        "TOKEN-OF-JOB": f"Bearer {credentials.job_token(running)}",
        "TOKEN-OF-ENDED-JOB": f"Bearer {credentials.job_token(job)}",
        "job_id": waiting.job_id if ends_it else job.job_id,
        "fault_id": fault.fault_id,
        "api_name": "f",
        "ontology": "local",
        "execution_id": execution.job_id,
        "rid": "ri.one",
        "branch": "master",
        "name": "index.html",
    }


def state(harness: Harness) -> Any:
    """Return everything that a request could have changed."""
    snapshots = result_of(harness.broker.snapshots())
    return (
        [
            (
                each.runtime.runtime_id,
                each.runtime.module_auth_token,
                each.runtime.connected,
                each.runtime.last_poll_at,
                each.runtime.schemas,
                each.bindings,
            )
            for each in snapshots
        ],
        [
            [(each.replica.replica_id, each.state, each.replica.last_poll_at, each.job_ids) for each in replicas]
            for replicas in (result_of(harness.broker.replicas(each.runtime.runtime_id)) for each in snapshots)
        ],
        [(job.job_id, job.state, job.attempts) for job in harness.jobs()],
        [fault.fault_id for fault in result_of(harness.service.faults.all())],
        harness.service.credentials.issued.changes,
    )


class _Leaving(Protocol):
    """Closes the connection once the headers of the answer have arrived."""

    def connectionMade(self) -> None:
        self.transport.loseConnection()


#: The parameters that a route needs, by the end of its path.
_PARAMETERS = {"schemas": "?rid=ri.one", "getByRid": f"?rid={function_rid('one', 'f')}"}


async def ask(harness: Harness, route: str, body: Any, ids: dict[str, str], **headers: str) -> tuple[int, Any]:
    """Send a valid request to a route of the tables; return the status and the body of the answer."""
    method, path = route.split()
    path = re.sub(r"<(\w+)>", lambda name: ids[name.group(1)], path) + (_PARAMETERS.get(path.rpartition("/")[2], ""))
    if isinstance(body, bytes):
        data, kind = body, "application/x-www-form-urlencoded"
    else:
        data = None if body is None else json.dumps(body).replace("JOB", ids["job_id"]).encode()
        kind = "application/json"
    service = harness.service
    addresses = service.addresses if route in ROUTES else service.sidecar_addresses["one"]
    headers = {name: ids.get(value, value) for name, value in headers.items()}
    sent = {name.encode(): value.encode("utf-8", "surrogateescape") for name, value in headers.items()}
    response = await harness.http.request(
        method,
        addresses.http + path,
        data=data,
        headers={b"Content-Type": kind.encode(), **sent},
        unbuffered=True,
        allow_redirects=False,
    )
    if response.headers.getRawHeaders("Content-Type") == ["text/event-stream"]:
        # The answer never ends.
        response.original.deliverBody(_Leaving())
        return response.code, b""
    content = await response.content()
    if content and "json" in response.headers.getRawHeaders("Content-Type", [""])[0]:
        content = json.loads(content)
    return response.code, content
