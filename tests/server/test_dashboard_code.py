"""The job in the dashboard's form, shown as code: the tests run it."""

from __future__ import annotations

import ast
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from server.dashboard_fixtures import ADD, SEED_OF_APPS, Board, Runtime

#: A query with what shells, Python and TypeScript read in another way than JSON does.
QUERY = r"""{
  "text": "it's \"quoted\" `echo x` $HOME $(id) \\ !! % \/ \u0000 \n\r\t\b\f",
  "unicode": "ü 😀 \ud83d\ude00 \u2028 \u202e",
  "big": 9007199254740993,
  "small": -12345678901234567890,
  "float": 1.50e-3,
  "words": [true, false, null, "true: null", -0, 0],
  "__proto__": {"constructor": {"a": []}},
  "it's\n\"key\": 1": {},
  "same": 1, "same": 2
}"""

#: Stands in for a package of the OSDK: prints what the program gives to it.
STUBS = {
    "client": "export const createPlatformClient = (url, token) => ({ url, token });",
    "foundry.functions": """
        export const Queries = { async execute(client, name, body, options) {
          console.log(JSON.stringify({ url: client.url, token: await client.token(), name, body, options }));
          return { value: "done" };
        } };
    """,
}


def show(board: Board, function: str, query: str, runtime: int = 0) -> None:
    """Open the form of a runtime, fill it in, and show the job as code."""
    board.open()
    board.until(lambda: len(board.all("#runtimes > li > button")) > runtime)
    board.all("#runtimes > li > button")[runtime].click()
    board.label("Function").send_keys(function)
    edit(board, query)
    board.button("Show as code", "#submit").click()


def edit(board: Board, query: str) -> None:
    # A driver types no characters beyond the first plane of Unicode.
    board.js(
        "const field = document.getElementById('submit-json'); field.value = arguments[0];"
        "field.dispatchEvent(new Event('input', { bubbles: true }))",
        query,
    )


def code(board: Board, tab: str) -> str:
    board.button(tab, "#submit").click()
    board.until(lambda: board.find("#code-text").is_displayed())
    text: str = board.find("#code-text").get_property("textContent")
    assert "test_token_admin" not in text
    return text


def run_curl(command: str, directory: Path) -> str:
    environment = {"PATH": os.environ["PATH"], "TOKEN": "test_token_admin", "NO_PROXY": "*"}
    done = subprocess.run(
        ["bash", "-c", command], cwd=directory, env=environment, capture_output=True, timeout=30, check=True
    )
    return done.stdout.decode()


def parameters_of(program: str) -> tuple[Any, Any]:
    """Return the function and the parameters that a program in Python names."""
    (call,) = (
        each
        for each in ast.walk(ast.parse(program))
        if isinstance(each, ast.Call) and ast.unparse(each.func) == "client.functions.Query.execute"
    )
    passed = {each.arg: ast.literal_eval(each.value) for each in call.keywords}
    assert passed["preview"] is True
    return ast.literal_eval(call.args[0]), passed["parameters"]


def run_typescript(program: str, directory: Path) -> Any:
    """Run a program with stubs of the OSDK; return what it passed to them."""
    for name, content in STUBS.items():
        package = directory / "node_modules" / "@osdk" / name
        package.mkdir(parents=True, exist_ok=True)
        (package / "index.js").write_text(content)
        (package / "package.json").write_text('{"type": "module", "exports": "./index.js"}')
    (directory / "program.mjs").write_text(program, "utf-8")
    environment = {"PATH": os.environ["PATH"], "FOUNDRY_TOKEN": "secret"}
    done = subprocess.run(
        ["node", "program.mjs"], cwd=directory, env=environment, capture_output=True, timeout=30, check=True
    )
    passed, printed = done.stdout.decode().strip().split("\n")
    assert printed == "done"
    return json.loads(passed)


def test_the_code_does_what_the_form_does(board: Board, tmp_path: Path) -> None:
    name = 'it\'s </pre><script>"f"'
    show(board, name, QUERY)
    asked = []

    def answer(job: Any) -> bytes:
        asked.append(job)
        return b"answered"

    with Runtime(board, answer):
        assert run_curl(code(board, "curl"), tmp_path) == "answered"
    (job,) = asked
    assert (job["queryType"], job["query"], job["userId"]) == (name, json.loads(QUERY), "jane")
    assert board.job(job["jobId"])["deployed_app_rid"] == "ri.one"

    program = code(board, "Python")
    assert parameters_of(program) == (name, json.loads(QUERY))
    https = board.server.urls["https"]
    assert f'hostname="{https.removeprefix("https://")}"' in program

    passed = run_typescript(code(board, "TypeScript"), tmp_path)
    expected = json.loads(QUERY) | {"big": "9007199254740993", "small": "-12345678901234567890"}
    assert passed == {
        "url": https,
        "token": "secret",
        "name": name,
        "body": {"parameters": expected},
        "options": {"preview": True},
    }


def test_the_code_follows_the_form(board: Board, tmp_path: Path) -> None:
    board.module("POST", "/schemas", [ADD])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run add']"))
    board.find("button[aria-label='Run add']").click()
    board.button("Show as code", "#submit").click()
    code(board, "Python")
    for field, typed in (("a", "2"), ("b", "40")):
        board.label(field).send_keys(typed)
    board.find("#submit legend input").click()
    board.button("Add to more").click()
    board.browser.switch_to.active_element.send_keys("9007199254740993")
    board.label("exact").click()
    wanted = {"a": 2, "b": 40, "more": [9007199254740993], "exact": True}
    assert parameters_of(code(board, "Python")) == ("add", wanted)
    board.find("#submit .one button").click()
    assert parameters_of(code(board, "Python")) == ("add", {**wanted, "more": []})
    board.button("Edit as JSON").click()
    edit(board, '{"a": 3}')
    assert parameters_of(code(board, "Python")) == ("add", {"a": 3})
    edit(board, '{"a": }')
    assert "The query is not JSON" in board.find("#code-panel").text
    assert not board.find("#code-text").is_displayed()
    edit(board, "[1, null]")
    for tab in ("Python", "TypeScript"):
        board.button(tab, "#submit").click()
        assert "The functions API takes parameters by name" in board.find("#code-panel").text
    with Runtime(board, lambda job: json.dumps(job["query"]).encode()):
        assert json.loads(run_curl(code(board, "curl"), tmp_path)) == [1, None]
    board.button("Hide the code", "#submit").click()
    assert not board.find("#code").is_displayed()


@pytest.mark.parametrize("board", [SEED_OF_APPS], indirect=True)
def test_the_deployed_app_is_chosen(board: Board, tmp_path: Path) -> None:
    show(board, "", "{}")
    assert "Name the function." in board.find("#code-panel").text
    board.label("Function").send_keys("f")
    shown = Select(board.label("Deployed app"))
    assert [each.text for each in shown.options] == ["ri.one on master", 'ri.one on it\'s "dev"']
    shown.select_by_index(1)
    with Runtime(board, lambda _job: b"done"):
        assert run_curl(code(board, "curl"), tmp_path) == "done"
    (job,) = json.loads(board.call("GET", "/jobs"))["jobs"]
    assert board.job(job["job_id"])["deployed_app_branch"] == 'it\'s "dev"'
    board.button("Close", "#submit").click()
    # This runtime has no deployed app that is active.
    show(board, "g", '{"x": 1}', 1)
    answer = json.loads(run_curl(code(board, "curl"), tmp_path))
    assert (answer["status"], answer["query"]) == ("queued", {"x": 1})


def test_the_code_is_copied_and_chosen_with_the_keyboard(board: Board) -> None:
    show(board, "f", "{}")
    board.until(lambda: board.find("#code-text").is_displayed())

    def press(*keys: str) -> str:
        board.browser.switch_to.active_element.send_keys(*keys)
        focused = board.browser.switch_to.active_element
        assert "solid 3px" in board.js("return getComputedStyle(document.activeElement).outline")
        name: str = focused.accessible_name
        return name

    assert [press(Keys.TAB) for _ in range(2)] == ["Close", "curl"]
    assert [press(Keys.ARROW_RIGHT) for _ in range(3)] == ["Python", "TypeScript", "curl"]
    assert [press(Keys.END), press(Keys.ARROW_LEFT), press(Keys.HOME)] == ["TypeScript", "Python", "curl"]
    assert press(Keys.ARROW_LEFT) == "TypeScript"
    assert board.find("[role=tabpanel]").accessible_name == "TypeScript"
    assert [press(Keys.TAB) for _ in range(2)] == ["Code", "Copy"]
    assert press(Keys.ENTER) == "Copy"
    board.until(lambda: board.find("#code-panel [role=status]").text == "Copied")
    assert press(Keys.TAB) == "Save ca.pem"
    shown = board.find("#code-text").get_property("textContent")
    editor = board.find("#submit-json")
    editor.clear()
    editor.send_keys(Keys.CONTROL, "v")
    assert editor.get_property("value") == shown
    assert "createPlatformClient" in shown


def test_the_code_is_selected_where_there_is_no_clipboard(board: Board) -> None:
    show(board, "f", "{}")
    board.until(lambda: board.find("#code-text").is_displayed())
    # So it is on a page that came over HTTP from another machine.
    board.js("Object.defineProperty(navigator, 'clipboard', { value: undefined }); document.execCommand = () => false")
    board.button("Copy", "#submit").click()
    board.until(lambda: "The code is selected" in board.find("#code-panel [role=status]").text)
    assert board.js("return String(getSelection())").strip() == board.find("#code-text").text.strip()
