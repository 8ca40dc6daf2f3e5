"""Seed files, valid and invalid."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from twisted_cm.config.seed import parse_seed, read_seed
from twisted_cm.config.seed_file import InvalidSeed
from twisted_cm.server.function_schemas import InvalidSchemas, parse_function_schemas


@pytest.mark.parametrize("path", sorted((ROOT / "seeds").iterdir()), ids=lambda path: path.name)
def test_every_seed_that_is_shipped_loads(path: Path) -> None:
    assert read_seed(path).warnings == ()


def test_the_starter_is_the_one_that_init_writes() -> None:
    assert (ROOT / "seeds/starter.yaml").read_bytes() == (ROOT / "twisted_cm/config/starter.yaml").read_bytes()


def test_every_violation_is_reported_with_path_and_line() -> None:
    text = """
tokens: {t: {login: 1}}
foundry:
  port: many
  compute_modules:
    pol_timeout: 2
    runtimes:
      - runtime: x
"""
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(text)
    assert caught.value.problems == [
        "line 2: tokens.*.login: must be of type string, not integer",
        "line 4: foundry.port: must be of type integer, not string",
        "line 6: foundry.compute_modules.pol_timeout: unknown key; did you mean 'poll_timeout'?",
        "line 8: foundry.compute_modules.runtimes[0].runtime: unknown key; did you mean 'runtime_id'?",
        "line 8: foundry.compute_modules.runtimes[0]: 'runtime_id' is missing",
    ]


def test_the_first_of_two_definitions_counts_and_the_second_is_reported() -> None:
    seed = parse_seed(
        "foundry:\n"
        "  users: []\n"
        "  compute_modules:\n"
        "    runtimes:\n"
        "      - {runtime_id: r, module_auth_token: first}\n"
        "      - {runtime_id: r, module_auth_token: second}\n"
        "    deployed_apps:\n"
        "      - {deployed_app_rid: ri.a, runtime_id: r}\n"
        "      - {deployed_app_rid: ri.a, runtime_id: other}\n"
        "tokens: {t: {login: a}, t: {login: b}}\n"
    )
    assert [(each.runtime_id, each.module_auth_token) for each in seed.runtimes] == [("r", "first")]
    assert [each.runtime_id for each in seed.bindings] == ["r"]
    assert seed.tokens[0].principal.login == "a"
    assert sorted(warning.split(":")[0] for warning in seed.warnings) == ["line 10", "line 2", "line 6", "line 9"]


def test_json_with_tabs_is_read_with_its_lines() -> None:
    with pytest.raises(InvalidSeed, match=r"line 3: foundry\.port"):
        parse_seed('{\n\t"foundry": {\n\t\t"port": -1\n\t}\n}', is_json=True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "not YAML"),
        ("&a [*a]", "never end"),
        ("- 1", "must be of type object"),
        ("tokens: !!python/object:os.system {}", "not YAML"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    with pytest.raises(InvalidSeed, match=message):
        parse_seed(text)


def test_an_empty_seed_has_the_development_token() -> None:
    assert [bearer.token for bearer in parse_seed("").bearer_tokens] == ["test_token_admin"]
    assert parse_seed("tokens: {x: }").bearer_tokens[0].token == "x"


NUMBER = {"type": "number"}
FOUNDRY = {"inputs": [], "output": {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}}


@pytest.mark.parametrize(
    "posted",
    [
        [{"functionName": "f", "schema": NUMBER}],
        {"function_name": "f", "schemaPayload": NUMBER},
        [{"functions": [{"name": "f", "schema": NUMBER}]}],
        {"schemas": [{"name": "f", "schema": NUMBER}]},
        {"f": NUMBER},
        [{"f": NUMBER}, {"name": "f", "schema": NUMBER}],
    ],
)
def test_schemas_are_accepted_in_every_form(posted: object) -> None:
    (schema,) = parse_function_schemas(posted)
    assert (schema.function_name, schema.payload) == ("f", NUMBER)


def test_what_cannot_be_understood_of_foundrys_form_is_an_issue() -> None:
    bad = {"functionName": "g", "inputs": [{"name": "a", "dataType": {"type": "?"}}], "output": {}}
    good, other = parse_function_schemas([{"functionName": "f", "ontologyProvenance": None, "new": 1, **FOUNDRY}, bad])
    assert good.issues == ()
    assert other.issues == ("CANNOT_PARSE_INPUTS", "CANNOT_PARSE_OUTPUT")


def test_a_dialect_must_be_named_by_a_string() -> None:
    with pytest.raises(InvalidSchemas) as refused:
        parse_function_schemas({"f": {"$schema": 5, "type": "object"}})
    assert [each.pointer for each in refused.value.violations] == ["/f/$schema"]


def test_a_name_twice_with_different_schemas_is_refused() -> None:
    with pytest.raises(InvalidSchemas) as caught:
        parse_function_schemas([{"name": "f", "schema": NUMBER}, {"name": "f", "schema": {"type": "string"}}])
    assert [violation.pointer for violation in caught.value.violations] == ["/1"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.text() | st.sampled_from(["name", "functions", "inputs"]), inner)
    ),
)


@given(JSON)
def test_any_json_is_understood_or_refused(posted: object) -> None:
    try:
        names = [schema.function_name for schema in parse_function_schemas(posted)]
    except InvalidSchemas as error:
        assert error.violations
    else:
        assert len(set(names)) == len(names)


@given(JSON)
def test_any_seed_is_understood_or_refused(document: object) -> None:
    try:
        parse_seed(json.dumps(document), is_json=True)
    except InvalidSeed as error:
        assert error.problems
