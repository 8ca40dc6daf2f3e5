"""How the emulator starts modules, as the seed describes it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from twisted_cm.config.module_settings import UnusableSettings
from twisted_cm.config.process_settings import ProcessSettings, Scaling
from twisted_cm.config.seed import Seed, parse_seed
from twisted_cm.config.seed_file import InvalidSeed
from twisted_cm.model.limits import TimeLimits
from twisted_cm.supervisor.plan import make_plans


def seed_with(**runtime: Any) -> Seed:
    modules = {"runtimes": [{"runtime_id": "one", **runtime}, {"runtime_id": "two"}]}
    return parse_seed(yaml.safe_dump({"foundry": {"compute_modules": modules}}))


def process_with(**runtime: Any) -> ProcessSettings:
    process = seed_with(command=["python", "app.py"], **runtime).runtimes[0].process
    assert process is not None
    return process


def test_a_runtime_without_a_command_is_not_started() -> None:
    assert [each.process for each in seed_with().runtimes] == [None, None]
    assert make_plans(seed_with(), Path(), {}) == {}


def test_a_command_is_all_that_is_needed() -> None:
    assert process_with() == ProcessSettings(("python", "app.py"), ".", Scaling(1, 1), 3.0)


@pytest.mark.parametrize(
    ("replicas", "scaling"),
    [
        (0, Scaling(0, 0)),
        (2, Scaling(2, 2)),
        ({"min": 0, "max": 4}, Scaling(0, 4)),
        ({"max": 4}, Scaling(1, 4)),
        ({"min": 3}, Scaling(3, 3)),
        ({"min": 0}, Scaling(0, 1)),
        ({}, Scaling(1, 1)),
        (
            {
                "max": 2,
                "scale_up_threshold": 0.5,
                "scale_up_delay": 0,
                "scale_down_threshold": 0.2,
                "scale_down_delay": 9,
            },
            Scaling(1, 2, 0.5, 0, 0.2, 9),
        ),
    ],
)
def test_replicas_are_a_number_or_a_range(replicas: Any, scaling: Scaling) -> None:
    assert process_with(replicas=replicas).scaling == scaling


def test_time_limits_are_those_of_the_runtime_and_of_functions() -> None:
    seed = seed_with(job_timeout=60, functions={"f": {"job_timeout": 1.5}})
    assert seed.time_limits == {"one": TimeLimits(60, {"f": 1.5})}
    limits = seed.time_limits["one"]
    assert (limits.of("f"), limits.of("g"), TimeLimits().of("f")) == (1.5, 60, None)


@pytest.mark.parametrize(
    ("runtime", "problem"),
    [
        ({"command": "python app.py"}, "runtimes[0].command"),
        ({"command": []}, "runtimes[0].command"),
        ({"command": [""]}, "runtimes[0].command[0]"),
        ({"command": ["python", 5]}, "runtimes[0].command[1]"),
        ({"command": ["py\0thon"]}, "runtimes[0].command[0]: must not contain NUL"),
        ({"command": ["python", "a\0b"]}, "runtimes[0].command[1]: must not contain NUL"),
        ({"command": ["python", "\ud800"]}, "runtimes[0].command[1]: must not contain NUL or half a surrogate pair"),
        ({"command": ["a"], "directory": "b\0c"}, "runtimes[0].directory: must not contain NUL"),
        ({"command": ["a"], "replicas": -1}, "runtimes[0].replicas"),
        ({"command": ["a"], "replicas": 1000}, "runtimes[0].replicas"),
        ({"command": ["a"], "replicas": {"max": 0}}, "runtimes[0].replicas.max"),
        ({"command": ["a"], "replicas": {"min": 3, "max": 2}}, "3 is more than max, 2; lower it, or raise max"),
        ({"command": ["a"], "replicas": {"maxx": 2}}, "max"),
        ({"command": ["a"], "replicas": {"scale_up_threshold": 2}}, "scale_up_threshold"),
        ({"command": ["a"], "grace": 0}, "runtimes[0].grace"),
        ({"command": ["a"], "directory": ""}, "runtimes[0].directory"),
        ({"replicas": 2}, "has no effect without 'command'; add the command that starts the module"),
        ({"directory": "."}, "has no effect without 'command'"),
        ({"grace": 2}, "has no effect without 'command'"),
        ({"job_timeout": 0}, "runtimes[0].job_timeout"),
        ({"functions": {"f": {}}}, "job_timeout"),
        ({"comand": ["a"]}, "command"),
    ],
)
def test_a_mistake_is_named(runtime: dict[str, Any], problem: str) -> None:
    with pytest.raises(InvalidSeed) as raised:
        seed_with(**runtime)
    assert problem in str(raised.value)


def test_directories_are_relative_to_the_seed(tmp_path: Path) -> None:
    (tmp_path / "module").mkdir()
    plans = make_plans(seed_with(command=["a"], directory="module"), tmp_path, {})
    assert plans["one"].directory == tmp_path / "module"
    with pytest.raises(UnusableSettings, match=r"runtime 'one': directory: .*none is not a directory; create it"):
        make_plans(seed_with(command=["a"], directory="none"), tmp_path, {})


def test_every_variable_that_is_missing_is_named(tmp_path: Path) -> None:
    seed = seed_with(command=["a"], env={"A": "${FIRST}", "B": "${SECOND}"})
    with pytest.raises(UnusableSettings) as raised:
        make_plans(seed, tmp_path, {})
    assert "FIRST" in str(raised.value) and "SECOND" in str(raised.value)
    assert make_plans(seed, tmp_path, {"FIRST": "1", "SECOND": "2"})["one"].settings.env == {"A": "1", "B": "2"}
