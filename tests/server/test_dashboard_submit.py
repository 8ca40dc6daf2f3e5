"""Submitting a job from the dashboard."""

from __future__ import annotations

import json
from typing import Any

import pytest
from selenium.webdriver.support.select import Select
from server.dashboard_fixtures import ADD, DASHBOARD_SEED, Board, Runtime

SEARCH = {
    "functionName": "search",
    "schema": {
        "type": "object",
        "properties": {
            "text": {"type": "string", "description": "What to look for"},
            "limit": {"type": "integer", "default": 10},
            "where": {"$ref": "#/$defs/where"},
            "tags": {"type": "object", "additionalProperties": {"type": "number"}},
            "order": {"enum": ["up", "down"]},
        },
        "required": ["text", "where"],
        "$defs": {
            "where": {"type": "object", "properties": {"kind": {"anyOf": [{"type": "string"}, {"type": "null"}]}}}
        },
    },
}


def test_a_job_is_submitted_with_the_form_of_its_function(board: Board) -> None:
    board.module("POST", "/schemas", [ADD, SEARCH])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.texts(".functions > li > code"))
    assert board.texts(".functions > li > code") == [
        "add(a: integer, b: integer, more?: list<integer>, exact: boolean, c?: integer) → integer",
        'search(text: string, limit?: integer, where: where, tags?: object, order?: "up" | "down")',
    ]

    def sum_up(job: Any) -> bytes:
        query = job["query"]
        return json.dumps({"sum": query["a"] + query["b"] + sum(query["more"])}).encode()

    with Runtime(board, sum_up):
        board.find("button[aria-label='Run add']").click()
        board.label("a").send_keys("2")
        # A required field is empty, so the browser refuses to submit the form.
        board.button("Submit", "#submit").click()
        assert board.js("return document.activeElement.matches(':invalid')")
        board.label("b").send_keys("40")
        board.find("#submit legend input").click()
        for number in ("100", "1000", "5"):
            board.button("Add to more").click()
            board.browser.switch_to.active_element.send_keys(number)
        board.all("#submit .one button")[2].click()
        board.label("exact").click()
        board.button("Edit as JSON").click()
        shown = json.loads(board.find("#submit-json").get_property("value"))
        assert shown == {"a": 2, "b": 40, "more": [100, 1000], "exact": True}
        board.button("Edit as a form").click()
        assert board.label("b").get_property("value") == "40"
        board.button("Submit", "#submit").click()
        board.until(lambda: board.texts("#story h2") == ["add\nsucceeded"])
    assert json.loads(board.texts("#story pre")[1]) == {"sum": 1142}
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    assert board.job(job["job_id"])["query"] == shown


def test_a_json_schema_makes_a_form_too(board: Board) -> None:
    board.module("POST", "/schemas", [SEARCH])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run search']"))
    board.find("button[aria-label='Run search']").click()
    board.label("text").send_keys("</textarea>")
    assert board.label("limit").get_property("value") == "10"
    board.label("kind").send_keys("k")
    board.find("#submit fieldset fieldset legend input").click()
    board.button("Add to tags").click()
    board.label("Key").send_keys("__proto__")
    board.label("Value").send_keys("12345678901234567890")
    Select(board.label("order")).select_by_visible_text("down")
    board.button("Submit", "#submit").click()
    board.until(lambda: board.texts("#story h2 .badge"))
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    query = board.job(job["job_id"])["query"]
    assert query == {
        "text": "</textarea>",
        "limit": 10,
        "where": {"kind": "k"},
        "tags": {"__proto__": 12345678901234567890},
        "order": "down",
    }
    assert '"__proto__": 12345678901234567890' in board.texts("#story pre")[0]


def test_json_is_sent_as_it_was_written(board: Board) -> None:
    board.open()
    board.until(lambda: board.all("#runtimes > li > button"))
    board.all("#runtimes > li > button")[1].click()
    board.label("Function").send_keys("any")
    editor = board.label("Query as JSON")
    editor.clear()
    editor.send_keys('{"n": 9007199254740993')
    board.button("Submit", "#submit").click()
    assert "This is not JSON" in board.find("#submit [role=alert]").text
    editor.send_keys("}")
    board.button("Submit", "#submit").click()
    board.until(lambda: board.texts("#story h2 .badge"))
    assert board.texts("#story pre")[0] == '{\n  "n": 9007199254740993\n}'
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    assert board.job(job["job_id"], "two")["query"] == {"n": 9007199254740993}


@pytest.mark.parametrize("board", [DASHBOARD_SEED + "    validate_queries: true\n"], indirect=True)
def test_a_refused_job_says_why(board: Board) -> None:
    board.module("POST", "/schemas", [ADD])
    board.open()
    board.until(lambda: board.all("#runtimes > li > button"))
    board.all("#runtimes > li > button")[0].click()
    board.label("Function").send_keys("add")
    board.button("Submit", "#submit").click()
    board.until(lambda: "'a' is a required property" in board.find("#submit [role=alert]").text)
    (message,) = board.errors()
    assert "400" in message
