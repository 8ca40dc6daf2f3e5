"""Content of jobs on the dashboard is text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from selenium.webdriver.common.by import By
from server.dashboard_fixtures import ADD, BASE, Board, whole

#: Texts that would run as a script if the page inserted them as markup.
HOSTILE = [
    "<script>window.pwned = 1</script>",
    '<img src=x onerror="window.pwned = 1">',
    "javascript:window.pwned=1//'\"><svg onload=window.pwned=1>",
]


@pytest.mark.parametrize("payload", HOSTILE)
def test_what_is_in_a_job_is_text(board: Board, payload: str) -> None:
    session = json.loads(
        board.call(
            "POST", "/runtimes", {"runtimeId": payload, "deployedAppRid": f"ri.{payload}", "displayName": payload}
        )
    )

    def module(method: str, uri: str, body: Any = None) -> bytes:
        return board.call(
            method,
            uri.removeprefix(board.url + BASE),
            body,
            Module_Auth_Token=session["moduleAuthToken"],
            Content_Type=f"text/html;{payload}",
        )

    schema = {"functionName": payload, "description": payload, "inputs": [whole(payload)], "output": ADD["output"]}
    module("POST", session["postSchemaUri"], [schema])
    jobs = session["getJobUri"] + "s"
    board.open()
    job_id = json.loads(module("POST", jobs, {"queryType": payload, "query": {payload: payload}}))["job_id"]
    board.until(lambda: board.rows())
    assert board.rows()[0][0::2][:2] == [payload, payload]
    module("GET", session["getJobUri"])
    module("POST", f"{session['postResultUri']}/{job_id}", f"<html>{payload}".encode())
    board.until(lambda: board.rows()[0][1] == "succeeded")
    board.open_story()
    board.until(lambda: board.texts("#story .badge") == ["succeeded"])
    query, result, output = board.texts("#story pre")
    assert json.loads(query) == {payload: payload} and result == f"<html>{payload}" and not output
    board.button("Close", "#story").click()
    fault = {"kind": "fail_job", "message": payload, "function": payload, "runtime_id": payload}
    board.call("POST", "/faults", fault)
    module("POST", jobs, {"queryType": payload, "query": payload})
    board.until(lambda: board.rows()[0][1] == "failed")
    board.open_story()
    assert payload in board.texts("#story .timeline")[0]
    board.button("Close", "#story").click()
    card = next(each for each in board.all("#runtimes > li") if payload in each.text)
    assert card.text.count(payload) == 3
    card.find_element(By.TAG_NAME, "summary").click()
    board.until(lambda: board.texts(".functions > li > code"))
    assert board.texts(".functions > li > code") == [f"{payload}({payload}: integer) → integer"]
    board.find(".functions > li > button").click()
    assert board.label(payload) is not None
    board.button("Close", "#submit").click()
    board.until(lambda: payload in board.texts("#faults")[0])
    assert board.js("return window.pwned") is None
    assert board.js("return [document.images.length, document.scripts.length]") == [0, 1]
    assert board.js("return document.querySelectorAll('[onload], [onerror], iframe').length") == 0
