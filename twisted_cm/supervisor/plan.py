"""What the supervisor starts for a runtime, as the seed describes it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from attrs import frozen

from ..config.module_settings import ModuleSettings, UnusableSettings
from ..config.process_settings import Scaling
from ..config.seed import Seed, SeedRuntime
from ..model.replicas import DEFAULT_CONCURRENT_TASKS
from ..model.tokens import OAuthClient


@frozen
class ProcessPlan:
    """The processes of one runtime.

    Attributes:
        runtime_id: The runtime.
        command: The program of the module and its arguments.
        directory: Where the program runs, and whose files are watched.
        settings: What the module finds around it.
        application: The OAuth client that the module uses.
        deployed_app_rid: A deployed app that the runtime serves.
        limit: How many unfinished jobs may be on each replica.
        scaling: How many replicas there are.
        grace: Seconds between SIGTERM and SIGKILL.
    """

    runtime_id: str
    command: tuple[str, ...]
    directory: Path
    settings: ModuleSettings
    application: OAuthClient | None
    deployed_app_rid: str | None
    limit: int
    scaling: Scaling
    grace: float


def make_plans(seed: Seed, base: Path, environment: Mapping[str, str]) -> dict[str, ProcessPlan]:
    """Return the plans of the runtimes that have a command, by their ids.

    Args:
        seed: The seed.
        base: The directory that the directories in the seed are relative to.
        environment: The variables that the seed may refer to.

    Raises:
        UnusableSettings: A variable is not set, or a directory is not there; the message names every mistake.
    """
    plans, problems = {}, []
    for runtime in seed.runtimes:
        if runtime.process is None:
            continue
        try:
            plans[runtime.runtime_id] = _plan(seed, runtime, base, environment)
        except UnusableSettings as error:
            problems += [f"runtime '{runtime.runtime_id}': {line}" for line in str(error).splitlines()]
    if problems:
        raise UnusableSettings("\n".join(problems))
    return plans


def _plan(seed: Seed, runtime: SeedRuntime, base: Path, environment: Mapping[str, str]) -> ProcessPlan:
    process, settings = runtime.process, runtime.module.expanded(environment)
    assert process is not None
    directory = (base / process.directory).absolute()
    if not directory.is_dir():
        raise UnusableSettings(f"directory: {directory} is not a directory; create it, or name another one")
    return ProcessPlan(
        runtime.runtime_id,
        process.command,
        directory,
        settings,
        seed.application_of(settings),
        seed.deployed_app_of(runtime.runtime_id),
        settings.max_concurrent_tasks or DEFAULT_CONCURRENT_TASKS,
        process.scaling,
        process.grace,
    )
