"""The job in the dashboard's form, shown as code: the tests run it."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from sdk_processes import SDK_PYTHON
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.select import Select
from server.dashboard_fixtures import ADD, DASHBOARD_SEED, SEED_OF_APPS, Board, Runtime

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

#: The packages for Node that the page names.
NODE_MODULES = ROOT / "tests" / "sdk" / "typescript" / "node_modules"


def of(kind: str, **parts: Any) -> Any:
    """Return a type as a module posts it."""
    return {"type": kind, kind: parts}


#: For each type, how a module posts it and a value as the module takes it.
VALUES: dict[str, tuple[Any, Any]] = {
    "boolean": (of("boolean"), True),
    "byte": (of("byte"), -128),
    "short": (of("short"), 32767),
    "integer": (of("integer"), -(2**31)),
    "long": (of("long"), 2**53 + 1),
    "round": (of("long"), 10**18),
    "float": (of("float"), 0.5),
    "double": (of("double"), 10**18),
    "decimal": (of("decimal"), "12345678901234567890.50"),
    "string": (of("string"), "ü 'quoted'"),
    "binary": (of("binary"), "AAE="),
    "date": (of("date"), "2021-05-01"),
    "timestamp": (of("timestamp"), "2021-05-01T05:00:00Z"),
    "list": (of("list", elementsType=of("long")), [-(2**63), 2**63 - 1, 0]),
    "set": (of("set", elementsType=of("string")), ["a", "b"]),
    "map": (of("map", keysType=of("string"), valuesType=of("long")), {"a": 1, "b": -(2**53) - 1}),
    "numbered": (of("map", keysType=of("integer"), valuesType=of("date")), {"1": "2021-05-01"}),
    "optional": (of("optionalType", wrappedType=of("long")), 2**62 + 1),
    "nothing": (of("optionalType", wrappedType=of("string")), None),
    "struct": (
        of("anonymousCustomType", fields={"id": of("long"), "note": of("optionalType", wrappedType=of("string"))}),
        {"id": 2**60 + 1, "note": None},
    ),
}

EVERYTHING = {
    "functionName": "everything",
    "inputs": [{"name": name, "required": True, "dataType": each} for name, (each, _) in VALUES.items()],
    "output": {"type": "single", "single": {"dataType": of("long")}},
}

#: Gives the function ``add`` another name for applications.
NAMED_SEED = (
    DASHBOARD_SEED
    + """
    queries:
      - {api_name: addNumbers, deployed_app_rid: ri.one, function: add}
"""
)


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


def run(board: Board, program: str, directory: Path) -> str:
    """Run a program in Python or TypeScript with the real clients, as its comments say; return what it printed."""
    environment = dict(re.findall(r"export (\w+)=(\S+)", program))
    assert environment.pop("FOUNDRY_TOKEN") == "..."
    # All of them call HTTPS.
    (trusted,) = environment.values()
    shutil.copy(Path(board.server.environment["TWISTED_CM_STATE_DIR"]) / "ca.pem", directory / trusted)
    if not (directory / "node_modules").exists():
        (directory / "node_modules").symlink_to(NODE_MODULES)
    is_python = program.startswith("#")
    file = directory / ("program.py" if is_python else "program.mjs")
    file.write_text(program, "utf-8")
    done = subprocess.run(
        [SDK_PYTHON if is_python else "node", str(file)],
        cwd=directory,
        env={**environment, "PATH": os.environ["PATH"], "FOUNDRY_TOKEN": "test_token_admin"},
        capture_output=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode().strip()


def test_the_code_does_what_the_form_does(board: Board, tmp_path: Path) -> None:
    name = 'it\'s </pre><script>"f"'
    # The functions API has the functions that a runtime has posted. This one may take anything.
    board.module("POST", "/schemas", [{"functionName": name, "schema": {}}])
    show(board, name, QUERY)
    asked = []

    def answer(job: Any) -> bytes:
        asked.append(job)
        return b'"answered"'

    with Runtime(board, answer):
        assert run_curl(code(board, "curl"), tmp_path) == '"answered"'
        assert run(board, code(board, "Python"), tmp_path) == "answered"
        assert run(board, code(board, "TypeScript"), tmp_path) == "answered"
    by_curl, by_python, by_typescript = asked
    assert [(job["queryType"], job["userId"]) for job in asked] == [(name, "jane")] * 3
    assert by_curl["query"] == by_python["query"] == json.loads(QUERY)
    # The schema does not say which of the numbers is a long.
    rounded = {"big": "9007199254740993", "small": "-12345678901234567890"}
    assert by_typescript["query"] == json.loads(QUERY) | rounded
    assert [board.job(job["jobId"])["deployed_app_rid"] for job in asked] == ["ri.one"] * 3
    sources = [board.job(job["jobId"])["source"] for job in asked]
    assert sources == ["contour-sync", "functions-sync", "functions-sync"]


@pytest.mark.parametrize("mode", ["JSON", "a form"])
def test_the_code_passes_values_of_every_type(board: Board, tmp_path: Path, mode: str) -> None:
    board.module("POST", "/schemas", [EVERYTHING])
    board.open()
    board.find("#runtimes summary").click()
    board.until(lambda: board.all("button[aria-label='Run everything']"))
    board.find("button[aria-label='Run everything']").click()
    board.button("Edit as JSON").click()
    expected = {name: value for name, (_, value) in VALUES.items()}
    edit(board, json.dumps(expected))
    if mode == "a form":
        board.button("Edit as a form").click()
        # A form leaves out what is not set.
        del expected["nothing"]
        expected["struct"] = {"id": 2**60 + 1}
    board.button("Show as code", "#submit").click()
    asked = []

    def answer(job: Any) -> bytes:
        asked.append(job["query"])
        return b"9007199254740993"

    with Runtime(board, answer):
        assert run_curl(code(board, "curl"), tmp_path) == "9007199254740993"
        # A long is a string in the functions API.
        assert run(board, code(board, "Python"), tmp_path) == "9007199254740993"
        assert run(board, code(board, "TypeScript"), tmp_path) == "9007199254740993"
    assert asked == [expected] * 3


@pytest.mark.parametrize("board", [NAMED_SEED], indirect=True)
def test_a_function_has_its_own_name_beside_that_of_the_seed(board: Board, tmp_path: Path) -> None:
    board.module("POST", "/schemas", [ADD])
    show(board, "add", '{"a": 2, "b": 40, "more": null, "exact": true}')
    with Runtime(board, lambda job: json.dumps(job["query"]["a"] + job["query"]["b"]).encode()):
        for tab in ("Python", "TypeScript"):
            program = code(board, tab)
            for name in ("add", "addNumbers"):
                assert run(board, program.replace('"add"', f'"{name}"'), tmp_path) == "42"


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


@pytest.mark.whole_browser
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
