"""What a seed says of the surroundings of a module."""

from __future__ import annotations

import pytest

from twisted_cm.config.module_settings import ModuleSettings, Resource, Source, UnusableSettings
from twisted_cm.config.seed import parse_seed
from twisted_cm.config.seed_file import InvalidSeed

SEED = """
foundry:
  oauth_clients: [{{client_id: app, client_secret: s}}]
  compute_modules:
    runtimes:
      - runtime_id: r
        {}
"""


def settings(text: str) -> ModuleSettings:
    return parse_seed(SEED.format(text)).runtimes[0].module


def test_a_runtime_of_which_nothing_is_said_has_nothing_around_it() -> None:
    assert settings("module_auth_token: t") == ModuleSettings()


def test_everything_is_read() -> None:
    assert settings(
        "sources: {A: {url: u, secrets: {s: v}, configuration: {c: 1.0}}}\n"
        "        resources: {a: {rid: r, branch: b}}\n"
        "        build_token: b\n"
        "        application: app\n"
        "        services: {x: [y, z]}\n"
        "        max_concurrent_tasks: 3\n"
        "        env: {E: f, N: 1}"
    ) == ModuleSettings(
        sources={"A": Source("u", {"s": "v"}, {"c": 1.0})},
        resources={"a": Resource("r", "b")},
        build_token="b",
        application="app",
        services={"x": ["y", "z"]},
        max_concurrent_tasks=3,
        env={"E": "f", "N": "1"},
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("sources: {Api: {secrets: {}}}", "line 7: {}.sources.Api: 'url' is missing"),
        ("sources: {Api: {url: ''}}", "line 7: {}.sources.Api.url: must not be blank or contain characters"),
        ("sources: {Api: {url: u, secrets: {a: 1}}}", "line 7: {}.sources.Api.secrets.a: must be of type string"),
        ("sources: {Api: {url: u, secret: {}}}", "{}.sources.Api.secret: unknown key; did you mean 'secrets'?"),
        ("source: {}", "line 7: {}.source: unknown key; did you mean 'sources'?"),
        ("resources: {a: {branch: b}}", "line 7: {}.resources.a: 'rid' is missing"),
        ("max_concurrent_tasks: 0", "line 7: {}.max_concurrent_tasks: 0 is less than the minimum of 1"),
        ("max_concurrent_tasks: 1000000", "line 7: {}.max_concurrent_tasks: 1000000 is greater than the maximum"),
        ("application: ap", "line 7: {}.application: no OAuth client has the id 'ap'; did you mean 'app'?"),
        ("application: other", "line 7: {}.application: no OAuth client has the id 'other'; add it to oauth_clients"),
        ("services: {a: https://b}", "line 7: {}.services.a: must be of type array, not string"),
        ("services: {a: []}", "line 7: {}.services.a: "),
        ("env: {A: true}", "line 7: {}.env.A: must be of type string or number, not boolean"),
        ("env: {A: 1.0}", "line 7: {}.env.A: the number 1.0 may be written in other ways; put it in quotes"),
        ('env: {A: "b\\0c"}', "line 7: {}.env.A: must not contain NUL or half a surrogate pair"),
        ("env: {A B: x}", "line 7: {}.env.A B: a variable must have letters, digits and underscores"),
        ("env: {GET_JOB_URI: x}", "line 7: {}.env.GET_JOB_URI: the emulator sets this variable; choose another name"),
        ("env: {CLIENT_SECRET: x}", "line 7: {}.env.CLIENT_SECRET: the emulator sets this variable"),
    ],
)
def test_a_mistake_is_named(text: str, problem: str) -> None:
    with pytest.raises(InvalidSeed) as caught:
        settings(text)
    (said,) = caught.value.problems
    assert problem.format("foundry.compute_modules.runtimes[0]") in said


def test_texts_refer_to_the_environment() -> None:
    found = settings(
        "sources: {A: {url: 'https://${H}', secrets: {s: '${S}'}, configuration: {l: ['${S}', 1]}}}\n"
        "        resources: {a: {rid: 'ri.${S}', branch: '${S}'}}\n"
        "        build_token: ${S}\n"
        "        services: {x: ['${H}']}\n"
        "        env: {A: '${S}${H}', B: '$S $${S} $$ ${ ${1}'}"
    ).expanded({"H": "host", "S": "${H}"})
    assert found == ModuleSettings(
        # What a variable holds is not looked at again.
        sources={"A": Source("https://host", {"s": "${H}"}, {"l": ["${H}", 1]})},
        resources={"a": Resource("ri.${H}", "${H}")},
        build_token="${H}",
        services={"x": ["host"]},
        env={"A": "${H}host", "B": "$S ${S} $$ ${ ${1}"},
    )


def test_variables_that_are_not_set_or_empty_are_named() -> None:
    found = settings("sources: {A: {url: '${E}', secrets: {s: '${X}'}}}\n        env: {A: '${Y}'}")
    with pytest.raises(UnusableSettings) as caught:
        found.expanded({"E": " "})
    assert str(caught.value).splitlines() == [
        "sources.A.secrets.s: the environment variable X is not set; export it",
        "env.A: the environment variable Y is not set; export it",
        "sources.A.url: is empty; name the URL of the source",
    ]


def test_no_secret_is_in_a_representation() -> None:
    found = settings(
        "sources: {A: {url: u, secrets: {s: hidden}}}\n        build_token: hidden\n        env: {A: hidden}"
    )
    assert "hidden" not in repr(found)
