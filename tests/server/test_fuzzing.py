"""That no request to any route makes the emulator fail."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import pytest
import pytest_twisted
from attrs import frozen
from conftest import SEED, Harness, make_harness
from hypothesis import given, settings
from hypothesis import strategies as st
from server.query_steps import function, listed, simple
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread, deferToThread
from wire import connect, is_well

from twisted_cm.broker.results import ResultBody
from twisted_cm.config.seed import Sidecar
from twisted_cm.config.tls import local_certificate
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.jobs import JobSource, Submission
from twisted_cm.model.limits import Limits
from twisted_cm.model.queries import function_rid
from twisted_cm.model.replicas import ReplicaRequest
from twisted_cm.server.app import emulator_app, sidecar_app
from twisted_cm.server.function_schemas import parse_function_schemas


def routes() -> list[tuple[str, str, bool]]:
    """Return the method and the rule of each route, and whether it is a sidecar's."""
    context: Any = None
    return [
        (method, rule.rule, sidecar)
        for app, sidecar in ((emulator_app(context), False), (sidecar_app(context, "one"), True))
        for rule in app.url_map.iter_rules()
        for method in sorted((rule.methods or set()) - {"HEAD"})
    ]


TEXTS = st.text(max_size=20) | st.sampled_from(["", " ", "\0", "\ud800", "../..", "a/b", "%00", "\u202e", "x" * 5000])
NUMBERS = st.integers() | st.just(10**400) | st.floats()
SCALARS = st.none() | st.booleans() | NUMBERS | TEXTS
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4), max_leaves=15
)


def mostly(right: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Draw the right value three times out of four: a route that refuses one value checks no other."""
    return st.integers(0, 3).flatmap(lambda chance: other if chance == 0 else st.just(right))


def json_object(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 3).flatmap(
        lambda chance: st.fixed_dictionaries({}, optional=fields) if chance == 0 else st.fixed_dictionaries(fields)
    )


RID = function_rid("one", "g")
JOB = mostly("QUEUED", st.sampled_from(["RUNNING", "ENDED", "x"]) | VALUES)
SUBMISSION = json_object(
    deployedAppRid=mostly("ri.one", VALUES),
    deployedAppBranch=mostly("master", VALUES),
    queryType=mostly("f", st.just("g") | VALUES),
    query=st.fixed_dictionaries({"number": NUMBERS, "day": mostly("2024-02-30", TEXTS)}) | VALUES,
)
REFERENCE = json_object(id=JOB, jobHandle=mostly(None, JOB.map(lambda job: json.dumps({"jobId": job})) | VALUES))
DATA_TYPE = st.recursive(
    st.sampled_from([{"type": "string"}, {"type": "date"}, {"type": "double"}, {"type": "none"}]) | VALUES,
    lambda inner: inner.map(lambda each: {"type": "list", "list": {"elementsType": each}}),
    max_leaves=4,
)
JSON_SCHEMA = json_object(
    **{
        "type": VALUES,
        "$ref": mostly("#", TEXTS),
        "$id": VALUES,
        "$schema": mostly("http://json-schema.org/draft-07/schema#", VALUES),
        "properties": VALUES,
        "pattern": TEXTS,
    }
)
SCHEMA = json_object(
    functionName=mostly("f", VALUES),
    inputs=mostly([], VALUES | st.lists(json_object(name=TEXTS, dataType=DATA_TYPE, required=VALUES), max_size=3)),
    output=mostly({"type": "single", "single": {"dataType": {"type": "string"}}}, DATA_TYPE),
)
DATE_TIMES = st.from_regex(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", fullmatch=True)
CALL = json_object(
    parameters=st.fixed_dictionaries({"number": NUMBERS, "day": mostly("2024-02-30", TEXTS)})
    | json_object(
        long=mostly("1", VALUES),
        entries=mostly([{"key": 1, "value": "1"}], VALUES),
        point=json_object(at=mostly("2021-05-01T05:00:00Z", VALUES), more=VALUES),
    )
    | VALUES,
    version=mostly("0.0.0", VALUES),
    branch=mostly("master", VALUES),
    ontology=mostly("local", VALUES),
    latestVersionResolution=mostly("PUBLISH_TIME", VALUES),
    includePrerelease=mostly(False, VALUES),
)
#: The bodies that routes read, by how their rules end.
BODIES_OF: dict[str, st.SearchStrategy[Any]] = {
    "/runtimes": json_object(
        runtimeId=mostly("one", VALUES),
        deployedAppRid=mostly("ri.new", VALUES),
        branch=mostly("dev", VALUES),
        displayName=mostly("x", VALUES),
        keepBindings=mostly(True, VALUES),
    ),
    "/schemas": SCHEMA
    | st.lists(SCHEMA | json_object(name=mostly("g", TEXTS), schema=JSON_SCHEMA), max_size=3)
    | st.dictionaries(TEXTS, JSON_SCHEMA, max_size=3),
    "/faults": st.sampled_from([kind.value for kind in FaultKind]).flatmap(
        lambda kind: json_object(kind=mostly(kind, VALUES), probability=SCALARS, count=SCALARS, random_seed=SCALARS)
    ),
    "/replicas": json_object(
        replicaId=mostly("new", VALUES),
        maxConcurrentTasks=mostly(2, VALUES),
        deployedAppRid=mostly("ri.new", VALUES),
        branch=mostly("dev", VALUES),
    ),
    **{
        f"/queries/<id:api_name>/{action}": CALL
        for action in ("execute", "streamingExecute", "streamingExecuteEvents", "executeAsync")
    },
    "/getResult": json_object(timeout=mostly(0, VALUES)),
    "/functions/queries/getByRidBatch": st.lists(json_object(rid=mostly(RID, VALUES), version=VALUES), max_size=3),
    "/queryTypes/getByRidBatch": json_object(
        requests=st.lists(json_object(queryTypeRid=mostly(RID, VALUES), functionVersion=VALUES), max_size=3)
    ),
    "/execute": SUBMISSION,
    "/deployed-apps/jobs": SUBMISSION,
    "/<id:runtime_id>/jobs": SUBMISSION,
    "/module-group-multiplexer/jobs": REFERENCE
    | json_object(
        moduleGroupName=mostly("one", VALUES),
        queryType=mostly("f", VALUES),
        query=VALUES,
        jobId=mostly(None, VALUES),
    ),
    "/dev-mode": json_object(automaticUpgradesUntil=mostly("2026-01-31T12:00:00Z", DATE_TIMES | VALUES)),
    "": REFERENCE,
}
GRANTED = st.sampled_from([f"foundry_{kind}_{'0' * 32}_{'0' * 48}" for kind in ("code", "refresh")])
FORM = st.fixed_dictionaries(
    {
        "grant_type": st.sampled_from(["client_credentials", "authorization_code", "refresh_token"]) | TEXTS,
        "client_id": mostly("app", TEXTS),
        "client_secret": mostly("secret", TEXTS),
        "token": TEXTS,
        "scope": TEXTS,
        "code": GRANTED | TEXTS,
        "refresh_token": GRANTED | TEXTS,
        "redirect_uri": mostly("http://localhost/callback", TEXTS),
        "code_verifier": TEXTS,
        "request": TEXTS | st.sampled_from(["bnVsbA==.x", "=.", "\u00e9.\u00e9"]),
        "user": TEXTS,
        "admin_token": TEXTS,
    }
)
#: What the page for signing in is asked for.
AUTHORIZATION = st.fixed_dictionaries(
    {
        "client_id": mostly("app", TEXTS),
        "redirect_uri": mostly("http://localhost/callback", TEXTS),
        "response_type": mostly("code", TEXTS),
    },
    optional={"state": TEXTS, "scope": TEXTS, "code_challenge": TEXTS, "code_challenge_method": mostly("S256", TEXTS)},
)


def bodies(rule: str) -> st.SearchStrategy[bytes]:
    if "/oauth2/" in rule:
        right = FORM.map(lambda form: urlencode(form, errors="surrogatepass").encode())
    else:
        values = next(values for end, values in BODIES_OF.items() if rule.endswith(end))
        right = values.map(lambda value: json.dumps(value).encode())
    other = st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode())
    return st.integers(0, 5).flatmap(lambda chance: other if chance == 0 else right)


IDS = st.sampled_from(["one", "x", "%00", "%2f..%2f", "%ff", "%ed%a0%80", "%", "."]) | TEXTS.map(
    lambda text: quote(text.encode("utf-8", "surrogatepass"), safe="") or "x"
)
RIGHT_IDS = {
    "runtime_id": mostly("one", st.just("two") | IDS),
    "replica_id": mostly("replica", st.just("default") | IDS),
    "job_id": JOB.map(lambda job: quote(str(job).encode("utf-8", "surrogatepass"), safe="") or "x"),
    "rid": mostly("ri.one", IDS),
    "branch": mostly("master", IDS),
    "fault_id": mostly("FAULT", IDS),
    "name": mostly("style.css", IDS),
    "api_name": mostly("f", st.just("g") | IDS) | mostly("g", IDS),
    "ontology": mostly("local", IDS),
    "execution_id": JOB.map(lambda job: quote(str(job).encode("utf-8", "surrogatepass"), safe="") or "x"),
}
HEADER_BYTES = st.binary(max_size=40).map(lambda value: value.translate(None, b"\r\n\0"))
FORM_TYPE = (b"Content-Type", b"application/x-www-form-urlencoded")
TOKENS = mostly(
    [(b"Authorization", b"Bearer app-token"), (b"Module-Auth-Token", b"token-one")],
    st.sampled_from(
        [
            [],
            [(b"Module-Auth-Token", b"token-one")],
            [(b"Authorization", b"Bearer app-token")],
            [(b"Authorization", b"bearer \xff"), (b"Module-Auth-Token", b"\xf0\x9f")],
            [(b"Authorization", b"Bearer \xc3\xa9"), (b"Module-Auth-Token", b"token-two")],
        ]
    ),
)
BASIC = mostly(
    [], st.sampled_from([[(b"Authorization", b"Basic " + each)] for each in (b"YXBwOnM=", b"\xff", b"/w==")])
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                b"Authorization",
                b"Module-Auth-Token",
                b"Content-Type",
                b"Prefer",
                b"Origin",
                b"Sec-Fetch-Site",
                b"Cookie",
                b"Accept",
                b"If-None-Match",
                b"Range",
                b"X-Forwarded-Host",
                b"Upgrade",
            ]
        ),
        HEADER_BYTES,
    ),
    max_size=2,
)


APP = "{client_id: app, client_secret: secret, redirect_uris: ['http://localhost/callback']}"


@pytest.fixture(scope="module")
def fuzzed(state_dir: Path) -> Iterator[Harness]:
    """Start an emulator whose time limits are too short to park, and which validates every query."""
    seed = SEED.replace("foundry:\n", "foundry:\n  oauth_clients: [APP]\n").replace("APP", APP)
    made = make_harness(
        seed.replace("compute_modules:\n", "compute_modules:\n    validate_queries: true\n"),
        certificate=local_certificate(state_dir, "127.0.0.1"),
        limits=Limits(poll_timeout=0.005, sync_timeout=0.005),
        sidecars=(Sidecar("one", 0, 0),),
    )
    for site in made.sites():
        site.head_timeout = site.body_timeout = 2
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("twisted_cm.server.refused_polls.HOLD", 0)
        yield made
    pytest_twisted.blockon(made.pool.closeCachedConnections())
    pytest_twisted.blockon(made.service.stopService())


@frozen
class Sent:
    """A request to a route."""

    target: bytes
    headers: list[tuple[bytes, bytes]]
    framing: str
    body: bytes


QUERY_STRINGS = [
    b"",
    b"?rid=%ff",
    b"?&&=&a&a",
    b"?" + b"%00" * 500,
    b"?rid=" + RID.encode(),
    b"?pageToken=x&pageSize=0",
    b"?version=1&branch=x&transactionId=y",
]


@st.composite
def requests(draw: st.DrawFn, rule: str) -> Sent:
    right = b"?rid=ri.one"
    if rule.endswith("/authorize"):
        right = b"?" + urlencode(draw(AUTHORIZATION), errors="surrogatepass").encode()
    query = draw(mostly(right, st.sampled_from(QUERY_STRINGS)))
    path = re.sub("<id:([a-z_]+)>", lambda match: draw(RIGHT_IDS[match[1]]), rule)
    tokens = [FORM_TYPE, *draw(BASIC)] if "/oauth2/" in rule else draw(TOKENS)
    if "<id:replica_id>" in rule:
        tokens = draw(mostly([(b"Module-Auth-Token", b"TOKEN")], st.just(tokens)))
    framing = draw(mostly("length", st.sampled_from(["chunks", "none"])))
    return Sent(path.encode() + query, tokens + draw(mostly([], HEADERS)), framing, draw(bodies(rule)))


#: They are parsed once: to parse them for each request takes longer than all else that happens before it.
SCHEMAS = parse_function_schemas(
    [
        {
            "name": "f",
            "schema": {"properties": {"number": {"multipleOf": 0.1, "maximum": 1e300}, "day": {"format": "date"}}},
        },
        function(
            "g",
            listed("long"),
            long=simple("long"),
            entries={"type": "map", "map": {"keysType": simple("integer"), "valuesType": simple("long")}},
            _point={"type": "anonymousCustomType", "anonymousCustomType": {"fields": {"at": simple("timestamp")}}},
        ),
    ]
)


async def exchange(harness: Harness, method: str, sent: Sent, url: str | None) -> tuple[list[int], bytes]:
    """Send a request to an emulator that has a fault and a job in each state."""
    broker = harness.broker
    await harness.service.reset()
    await broker.put_schemas("one", SCHEMAS)
    names = {b"FAULT": (await harness.service.faults.add(FaultPlan(FaultKind.DROP_JOB, "two"))).fault_id.encode()}
    names[b"TOKEN"] = (await broker.open_replica(ReplicaRequest("one", "replica"))).token.encode()
    for state in (b"ENDED", b"RUNNING", b"QUEUED"):
        job = await broker.enqueue("one", Submission("g", b"{}", JobSource.FUNCTIONS_ASYNC))
        names[state] = job.job_id.encode()
        if state != b"QUEUED":
            await broker.poll("one", 0)
        if state == b"ENDED":
            await broker.complete(job.job_id, ResultBody())

    def named(content: bytes) -> bytes:
        for name, value in names.items():
            content = content.replace(name, value)
        return content

    wire = await connect(harness, url=url)
    head = [method.encode() + b" " + named(sent.target) + b" HTTP/1.1", b"Host: localhost"]
    head += [name + b": " + named(value) for name, value in sent.headers]
    body = named(sent.body)
    if sent.framing == "length":
        head.append(b"Content-Length: %d" % len(body))
    elif sent.framing == "chunks":
        head.append(b"Transfer-Encoding: chunked")
        body = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"
    else:
        body = b""
    wire.transport.write(b"\r\n".join([*head, b"Connection: close", b"", b""]) + body)
    # A stream of events does not end.
    await wire.until(lambda: wire.closed or b": connected" in wire.received, 5)
    wire.transport.abortConnection()
    await is_well(harness)
    return wire.statuses, bytes(wire.received)


@pytest.mark.parametrize(("method", "rule", "sidecar"), routes())
@pytest_twisted.ensureDeferred
async def test_nothing_that_is_sent_to_a_route_makes_it_fail(
    fuzzed: Harness, method: str, rule: str, sidecar: bool
) -> None:
    addresses = fuzzed.service.sidecar_addresses["one"] if sidecar else fuzzed.service.addresses
    url = addresses.http

    @settings(max_examples=20, deadline=None, derandomize=True, database=None)
    @given(requests(rule))
    def run(sent: Sent) -> None:
        statuses, received = blockingCallFromThread(
            reactor, lambda: Deferred.fromCoroutine(exchange(fuzzed, method, sent, url))
        )
        assert len(statuses) == 1, received
        # No runtime takes the job of a synchronous caller.
        late = rule.endswith("/execute") and b'"error": "job_timeout"' in received
        assert statuses[0] < 500 or late, received

    await deferToThread(run)
