"""``twisted-cm resend``."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from urllib.request import Request, urlopen

import pytest
from conftest import CONTOUR, Server
from terminal import Terminal, module

pytestmark = pytest.mark.shared_server

#: What a parser would change: a large integer, a long fraction, equal keys, white space and escapes; and a field that
#: looks like the one that the query is found by.
QUERY = (
    b'{"a": 123456789012345678901234567890,  "b":1.0000000000000000001, "a" : -0.0,'
    b' "c": "\\u00e9,\\"query\\":", "query":[1e400]}'
)


def submit(server: Server, path: str, fields: bytes, query: bytes = QUERY) -> None:
    """Submit a job over a plain request, so that its query is these bytes."""
    body = b"{" + fields + b', "query": ' + query + b"}"
    headers = {"Authorization": "Bearer app-token", "Content-Type": "application/json"}
    with urlopen(Request(server.urls["http"] + path, body, headers), timeout=10):
        pass


def submit_to_app(server: Server, query: bytes = QUERY) -> None:
    submit(server, f"{CONTOUR}/deployed-apps/jobs", b'"deployedAppRid": "ri.two", "queryType": "f"', query)


def submit_to_runtime(server: Server, query: bytes = QUERY) -> None:
    path = "/_emulate/foundry/compute-modules/runtimes/two/jobs"
    submit(server, path, b'"queryType": "f"', query)


def take(server: Server) -> tuple[str, bytes]:
    """Take a job as the runtime; return its id, and its query as the envelope has it."""
    envelope = module(server, "two", "/job")
    start = envelope.index(b'"query":') + len(b'"query":')
    job_id: str = json.loads(envelope)["computeModuleJobV1"]["jobId"]
    return job_id, envelope[start:].lstrip()


def answer(server: Server, result: bytes) -> tuple[str, bytes]:
    job_id, query = take(server)
    module(server, "two", f"/results/{job_id}", result)
    return job_id, query


def jobs(server: Server) -> list[dict[str, str]]:
    found: list[dict[str, str]] = json.loads(server.cm("jobs", "--json").stdout)
    return found


@pytest.mark.parametrize("submit_first", [submit_to_app, submit_to_runtime])
def test_the_same_job_is_submitted_and_its_result_printed(server: Server, submit_first: object) -> None:
    assert callable(submit_first)
    submit_first(server)
    first, sent = answer(server, b"1")
    assert sent.startswith(QUERY)
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server, b"\xff42")
        ran = server.cm("resend", first[-6:])
        again, resent = answering.result()
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"\xff42", b"")
    assert again != first and resent.startswith(QUERY)
    new, old = jobs(server)
    same = ("runtime_id", "deployed_app_rid", "deployed_app_branch", "query_type")
    assert {name: new[name] for name in same} == {name: old[name] for name in same}
    assert old["deployed_app_branch"] == ("dev" if submit_first is submit_to_app else None)


@pytest.mark.parametrize("submit_first", [submit_to_app, submit_to_runtime])
def test_a_function_that_raised_and_a_job_that_failed_are_errors(server: Server, submit_first: object) -> None:
    assert callable(submit_first)
    submit_first(server)
    answer(server, b"1")
    raised = b'{"exception": "on purpose"}'
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server, raised)
        ran = server.cm("resend", "last")
        answering.result()
        assert (ran.returncode, ran.stdout, ran.stderr) == (1, raised, b"Error: f raised: on purpose\n")

        def fail() -> str:
            job_id = take(server)[0]
            module(server, "two", f"/jobs/{job_id}/fail", b'{"message": "out of luck"}')
            return job_id

        failing = pool.submit(fail)
        ran = server.cm("resend", "last")
        job_id = failing.result()
    assert (ran.returncode, ran.stdout) == (1, b"")
    assert ran.stderr.decode() == f"Error: out of luck (job {job_id})\n"


@pytest.mark.parametrize("submit_first", [submit_to_app, submit_to_runtime])
def test_async_prints_the_new_id_at_once(server: Server, submit_first: object) -> None:
    assert callable(submit_first)
    submit_first(server)
    ran = server.cm("resend", "last", "--async")
    assert ran.returncode == 0
    new, old = jobs(server)
    assert ran.stdout.decode() == new["job_id"] + "\n" != old["job_id"] + "\n"
    assert (new["status"], new["source"]) == ("queued", old["source"])


@pytest.mark.parametrize("submit_first", [submit_to_app, submit_to_runtime])
def test_a_job_that_takes_too_long_is_canceled_while_it_is_queued(server: Server, submit_first: object) -> None:
    assert callable(submit_first)
    submit_first(server)
    ran = server.cm("resend", "last", "--timeout", "0.3")
    assert ran.returncode == 1 and b"Allow more time with --timeout." in ran.stderr
    assert [each["status"] for each in jobs(server)] == ["canceled", "queued"]


@pytest.mark.parametrize("command", ["job", "resend"])
def test_an_id_is_taken_as_tables_show_it(server: Server, command: str) -> None:
    submit_to_app(server)
    job_id = jobs(server)[0]["job_id"]
    options = ("--async",) if command == "resend" else ()
    for given in (job_id, job_id[-5:], f"…{job_id[-5:]}", "last"):
        ran = server.cm(command, given, *options)
        assert ran.returncode == 0, ran.stderr
    submit_to_app(server)
    # An end that several ids have names none.
    refused = server.cm(command, "", *options)
    assert (refused.returncode, refused.stdout) == (1, b"")
    assert b"jobs have ids that end with ''" in refused.stderr


def test_a_call_of_the_functions_api_is_sent_again_as_the_module_got_it(server: Server) -> None:
    long = {"type": "long", "long": {}}
    schema = {"functionName": "f", "inputs": [{"name": "n", "required": True, "dataType": long}]}
    module(
        server,
        "two",
        "/schemas",
        json.dumps([{**schema, "output": {"type": "single", "single": {"dataType": long}}}]).encode(),
    )
    headers = {"Authorization": "Bearer app-token", "Content-Type": "application/json"}
    url = f"{server.urls['http']}/api/v2/functions/queries/f/executeAsync"
    with urlopen(Request(url, b'{"parameters": {"n": "9007199254740993"}}', headers), timeout=10):
        pass
    _, sent = answer(server, b"1")
    assert json.loads(sent.partition(b"}")[0] + b"}") == {"n": 9007199254740993}
    assert b"submitted as\tfunctions-async\n" in server.cm("job", "last").stdout
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server, b"2")
        ran = server.cm("resend", "last")
        _, resent = answering.result()
    # The function's own value: in the functions API, a long is a string.
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"2", b"")
    assert resent.startswith(sent.partition(b"}")[0] + b"}")
    new, old = jobs(server)
    assert [(each["source"], each["deployed_app_rid"], each["deployed_app_branch"]) for each in (new, old)] == [
        ("contour-sync", "ri.two", "dev"),
        ("functions-async", "ri.two", "dev"),
    ]


def test_on_a_terminal_the_result_ends_with_a_newline(server: Server) -> None:
    submit_to_app(server, b"null")
    answer(server, b"1")
    with ThreadPoolExecutor() as pool:
        answering = pool.submit(answer, server, b"\x1b[31m42")
        assert Terminal(server, "resend", "last").end() == "\\x1b[31m42\r\n"
        answering.result()


def test_what_cannot_be_sent_again_is_an_error(server: Server) -> None:
    ran = server.cm("resend", "last")
    assert (ran.returncode, ran.stderr) == (1, b"Error: There are no jobs yet.\n")
    gone = "foundry_job_" + 32 * "0"
    ran = server.cm("resend", gone)
    expected = f"Error: The query of job '{gone}' is no longer kept. 'twisted-cm jobs' lists the jobs that are.\n"
    assert (ran.returncode, ran.stdout, ran.stderr.decode()) == (1, b"", expected)
