"""Execute every code block of the documentation.

``docs_page.Page`` plays a page: it writes its files and executes its commands. Other blocks are executed by the page's
own function in ``PLAYERS``.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from conftest import BIN, ROOT, free_port, kill
from debug_adapter import DebugAdapter
from sphinx.application import Sphinx
from sphinx.util.docutils import docutils_namespace
from system.docs_in_a_browser import play_calling_from_a_browser
from system.docs_page import SDK, STAND_INS, Block, Page, blocks_of

DOCS = ROOT / "docs"

HOW_TO_ADD = (
    "The tests execute each code block of docs/{page}.rst. Give a file a ':caption:'; mark commands with 'console' and"
    " '$'. Then add the page to PLAYERS in tests/system/test_docs.py: '\"{page}\": Page.play', or a function of its own"
    " if it has other blocks."
)


def play_node(page: Page) -> None:
    """Play a project whose packages are installed: those of ``tests/sdk/typescript``."""
    page.copy_node_packages()
    page.play()


def play_testing_with_node(page: Page) -> None:
    """Play the page, check what it says of a reset, and run two test files at once."""
    play_node(page)
    helper = page.directory / "tests" / "compute-modules.mjs"
    assert len((DOCS / "node" / helper.name).read_text().splitlines()) <= 30
    impatient = helper.read_text().replace('"30"', '"1"')
    helper.with_name("impatient.mjs").write_text(impatient)
    shutil.copy(STAND_INS / "reset.test.mjs", helper.parent)
    shutil.copy(helper.with_name("module.test.mjs"), helper.with_name("second.test.mjs"))
    printed = page.run("node --test --test-reporter=tap tests/reset.test.mjs tests/second.test.mjs", "two test files")
    assert "# pass 5\n# fail 0\n" in printed, printed


def play_debugging(page: Page) -> None:
    """Play the page with a debugger that stops each job at a breakpoint, as ``launch.json`` says."""
    page.ports["5678"] = str(free_port())
    requirements, app, serve, start, launch, attached, env, launched = page.blocks
    page.blocks = [requirements, app, serve, launch]
    play_with_the_sdk(page)
    breakpoint = (page.directory / "app.py", app.text.splitlines().index("    return total") + 1)
    attach, start_it = json.loads((page.directory / ".vscode" / "launch.json").read_text())["configurations"]
    command = start.text.removeprefix("$ ").replace("\\\n", "")
    assert f"{attach['connect']['host']}:{attach['connect']['port']} " in page.moved(command)
    process = page.spawn(command)
    start.executed = True
    debugger = DebugAdapter.connect(attach["connect"]["host"], attach["connect"]["port"], process)
    debugger.debug(breakpoint, **attach)
    stop_at_the_breakpoint(page, debugger, process, breakpoint, attached, "42")
    debugger.close()
    kill(process)
    page.background.remove(process)

    page.run_console(env)
    variables = dict(line.split("=", 1) for line in (page.directory / "module.env").read_text().splitlines())
    assert start_it.pop("envFile") == "${workspaceFolder}/module.env"
    start_it["program"] = start_it["program"].replace("${workspaceFolder}", str(page.directory))
    port = free_port()
    process = page.spawn(f"python -m debugpy.adapter --host 127.0.0.1 --port {port}")
    debugger = DebugAdapter.connect("127.0.0.1", port, process)
    debugger.debug(breakpoint, **start_it, env=variables, python=[str(SDK / "python")], cwd=str(page.directory))
    try:
        stop_at_the_breakpoint(page, debugger, process, breakpoint, launched, "2")
    finally:
        # The adapter runs the module in a session of its own.
        debugger.request("disconnect", terminateDebuggee=True)
        debugger.close()


def stop_at_the_breakpoint(
    page: Page,
    debugger: DebugAdapter,
    process: subprocess.Popen[bytes],
    breakpoint: tuple[Path, int],
    submit: Block,
    total: str,
) -> None:
    """Run a block that submits a job; look at a local variable before the job continues."""
    with ThreadPoolExecutor() as threads:
        submitted = threads.submit(page.run_console, submit)
        worker = debugger.subprocess(breakpoint, process)
        thread = worker.stopped()
        assert worker.local_variables(thread)["total"] == total
        assert not submitted.done()
        worker.request("continue", threadId=thread)
        submitted.result()


def play_docker(page: Page) -> None:
    """Play the page with ``tests/docs/docker.py`` as ``docker``, because no engine can run where the tests do.

    The stand-in carries out the Dockerfile in a directory, with the interpreter of ``.venv-sdk`` as that of the image.
    It runs the command of the image with nothing but the variables of ``--env-file``, if all files that they name are
    mounted. ``host.docker.internal`` is this machine, as in Docker Desktop. hadolint checks the Dockerfile.

    ``tests/docs/compose.py`` runs the services of the compose file, which is checked against the schema of compose.
    """
    page.stand_in("docker", "docker.py")
    page.environment["SDK_BIN"] = str(SDK)
    *on_this_machine, compose, commands = page.blocks
    page.blocks = on_this_machine
    page.play()
    page.stop()
    page.write(compose)
    validated = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.compose-spec", "compose.yaml"]
    subprocess.run(validated, cwd=page.directory, check=True)
    assert yaml.safe_load(compose.text)["services"]["module"]["volumes"] == ["runtime:/runtime:ro"]
    del page.environment["TWISTED_CM_ADMIN_TOKEN"]
    with pytest.raises(AssertionError, match="TWISTED_CM_ADMIN_TOKEN is missing a value: Set TWISTED_CM_ADMIN_TOKEN"):
        page.run("docker compose run --rm application", "without a token")
    try:
        page.run_console(commands)
    finally:
        page.run("docker compose down --volumes", "at the end")
    subprocess.run([str(BIN / "hadolint"), "Dockerfile"], cwd=page.directory, check=True)


def play_github_actions(page: Page) -> None:
    """Check the workflow against GitHub's schema, and run the steps of each job in order, in a copy of the project."""
    page.stand_in("python", "python.py")
    page.environment["SDK_BIN"] = str(SDK)
    page.play()
    (workflow,) = (page.directory / ".github" / "workflows").iterdir()
    validated = [str(BIN / "check-jsonschema"), "--builtin-schema", "vendor.github-workflows", str(workflow)]
    subprocess.run(validated, check=True)
    for name, job in yaml.safe_load(workflow.read_text())["jobs"].items():
        checkout = shutil.copytree(page.directory, page.directory.parent / name)
        steps = [step["run"] for step in job["steps"] if "run" in step]
        for number, step in enumerate(steps):
            (checkout.parent / f"{name}.{number}").write_text(step)
        runs_steps = subprocess.Popen(
            ["bash", "-c", RUN_STEPS, name, *(f"../{name}.{number}" for number in range(len(steps)))],
            cwd=checkout,
            env=page.environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        page.background.append(runs_steps)
        assert runs_steps.stdout is not None
        printed = []
        for line in runs_steps.stdout:
            printed.append(line.decode())
            if line == b"Every step has passed.\n":
                break
        else:
            raise AssertionError("".join(printed))


def play_monitoring(page: Page) -> None:
    """Let Prometheus check its configuration; ``test_packaging`` checks the unit of systemd."""
    page.play()
    subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=page.directory, check=True)
    (unit,) = (block for block in page.blocks if block.language == "ini")
    unit.executed = unit.text.strip() == (DOCS / "twisted-cm.service").read_text().strip()


def play_scaling(page: Page) -> None:
    """Compare the blocks with what ``test_load_balancer`` runs: nodes on a Redis behind nginx."""
    commands, nginx = page.blocks
    nginx.executed = nginx.text.strip() == (DOCS / "nginx.conf").read_text().strip()
    commands.executed = commands.text.count("$ twisted-cm serve") == commands.text.count("--broker redis://") == 2


def play_with_the_sdk(page: Page) -> None:
    """Play a page whose ``python`` is the interpreter with the official SDK."""
    page.use_the_sdk()
    page.play()


def play_recording(page: Page) -> None:
    """Play the page with the official SDK; as the page says, the module stops before the replay starts."""
    *recording, replaying = page.blocks
    page.blocks = recording
    play_with_the_sdk(page)
    kill(page.background.pop())
    page.blocks = [replaying]
    page.play()


def play_terminal(page: Page) -> None:
    """Play the page on the terminal; ``test_cli`` runs the plugin of twistd, which does not end by itself."""
    play_with_the_sdk(page)
    twistd = page.blocks[-1]
    twistd.executed = twistd.text.startswith("twistd -n compute-modules ")


def play_pytest(page: Page) -> None:
    """Play the page with the official SDK; then change the recording, as the page says, and compare what is shown."""
    play_with_the_sdk(page)
    (shown,) = (block for block in page.blocks if block.language == "text")
    recording = page.directory / "jobs.jsonl"
    recording.write_text(recording.read_text().replace('"42"', '"41"'))
    printed = page.run("! pytest -q test_recording.py", str(shown))
    lines = [line.removeprefix("E").strip() for line in printed.splitlines()]
    missing = [line for line in shown.text.splitlines() if not any(each.endswith(line.strip()) for each in lines)]
    assert not missing, f"{shown}: {missing} is not in\n{printed}"
    shown.executed = True


def play_tutorial(page: Page) -> None:
    """Play the page without its installation, with the SDK of ``.venv-sdk``, because nothing can be downloaded."""
    install, *others = page.blocks
    install.executed = "pip install" in install.text
    page.blocks = others
    play_with_the_sdk(page)


def play_calling_from_node(page: Page) -> None:
    """Play the page; then start the emulator as the page says of browsers, and let a page of vite's origin ask."""
    play_node(page)
    page.stop()
    (shown,) = (block for block in page.blocks if block.language == "text")
    page.start(shown.text)
    origin = "http://localhost:5173"
    asked = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    path = "/api/v2/ontologies/ri.ontology.main.ontology.local/queries/greet/execute"
    with urlopen(Request(page.url + path, method="OPTIONS", headers=asked)) as answer:
        assert answer.headers["Access-Control-Allow-Origin"] == origin
    shown.executed = True


#: Runs the steps of a job as GitHub does: their processes in the background live until the job ends.
RUN_STEPS = """
for step in "$@"; do bash -e "$step" </dev/null || exit; done
echo "Every step has passed."
read
"""

#: The function that plays each page with code blocks.
PLAYERS: dict[str, Callable[[Page], None]] = {
    "applications": play_with_the_sdk,
    "calling-from-a-browser": play_calling_from_a_browser,
    "calling-from-node": play_calling_from_node,
    "calling-from-python": play_with_the_sdk,
    "debugging": play_debugging,
    "docker": play_docker,
    "embedding": Page.play,
    "faults": Page.play,
    "github-actions": play_github_actions,
    "one-command": play_with_the_sdk,
    "monitoring": play_monitoring,
    "node": play_node,
    "recording": play_recording,
    "reliability": Page.play,
    "scaling": play_scaling,
    "scripting": Page.play,
    "surroundings": Page.play,
    "terminal": play_terminal,
    "testing-with-node": play_testing_with_node,
    "testing-with-pytest": play_pytest,
    "testing-with-trial": Page.play,
    "tutorial/index": play_tutorial,
}

#: The pages that are played. The reference has no commands: it shows the examples of the descriptions.
PAGES = sorted(
    path.relative_to(DOCS).with_suffix("").as_posix() for path in (*DOCS.glob("*.rst"), *DOCS.glob("tutorial/*.rst"))
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sphinx]:
    """Let Sphinx parse the pages."""
    out = tmp_path_factory.mktemp("docs")
    parsed = DOCS / "_build" / "html" / ".doctrees"
    if parsed.exists():
        # They are from the last build. Sphinx parses what has changed since then.
        shutil.copytree(parsed, out / "doctrees")
    with docutils_namespace():
        app = Sphinx(DOCS, DOCS, out, out / "doctrees", "dummy", status=None)
        app.builder.read()
        yield app


def execute(name: str, blocks: list[Block], directory: Path) -> None:
    """Play a page, and check that all its blocks were executed."""
    assert name in PLAYERS, HOW_TO_ADD.format(page=name)
    page = Page(blocks, directory)
    try:
        PLAYERS[name](page)
    finally:
        page.stop()
    # pytest keeps the directories of its last runs.
    forgotten = [each.name for each in page.temporary.iterdir() if not each.name.startswith("pytest-of-")]
    assert not forgotten, f"docs/{name}.rst leaves temporary files: {', '.join(forgotten)}"
    left = [str(block) for block in blocks if not block.executed]
    assert not left, f"Not executed: {'; '.join(left)}. {HOW_TO_ADD.format(page=name)}"


@pytest.mark.long
@pytest.mark.parametrize("name", PAGES)
def test_every_code_block_runs(app: Sphinx, name: str, tmp_path: Path) -> None:
    blocks = blocks_of(app, name)
    if blocks:
        execute(name, blocks, tmp_path)


@pytest.mark.parametrize(
    ("page", "language", "text", "says"),
    [
        ("testing-with-trial", "python", "print()", "Not executed: docs/testing-with-trial.rst, line 7"),
        ("testing-with-trial", "console", "$ echo one \\\n   two\n$ false", "line 7 .console.: false"),
        ("testing-with-trial", "console", "$ echo one \\\n   two\none three", r"and not\s+one three"),
        ("of-somebody", "console", "$ true", "add the page to PLAYERS"),
    ],
)
def test_a_page_that_is_wrong_is_noticed(page: str, language: str, text: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=says):
        execute(page, [Block(page, 7, language, None, text)], tmp_path)
