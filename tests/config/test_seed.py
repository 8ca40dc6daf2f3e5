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
        ("tokens: \x7f", "not YAML: unacceptable character"),
    ],
)
def test_what_cannot_be_read_is_said(text: str, message: str) -> None:
    with pytest.raises(InvalidSeed, match=message):
        parse_seed(text)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("token: {}", "line 1: token: unknown key; did you mean 'tokens'?"),
        (
            "foundry: {compute_moduels: {}}",
            "line 1: foundry.compute_moduels: unknown key; did you mean 'compute_modules'?",
        ),
        ("tokens: {a: {loginn: x}}", "line 1: tokens.*.loginn: unknown key; did you mean 'login'?"),
        (
            "foundry: {oauth_clients: [{client_id: a, client_secret: b, scope: []}]}",
            "line 1: foundry.oauth_clients[0].scope: unknown key; did you mean 'scopes'?",
        ),
        ("tokens:\n  1234: {login: a}", "line 2: tokens: a key must be text; put it in quotes"),
        ("true: 1", "line 1: (the whole file): a key must be text; put it in quotes"),
        ("? [a]\n: 1", "line 1: (the whole file): a key must be text"),
        ("foundry: {port: 0x" + "f" * 5000 + "}", "line 1: foundry.port: a number of 20000 bits is too large"),
        ("foundry:\n  port: " + "9" * 5000, f"line 2: foundry.port: not a valid int: '{'9' * 40}'"),
        ("foundry: {port: 0x_}", "line 1: foundry.port: not a valid int: '0x_'"),
        ("foundry: {port: 1:99:99}", "line 1: foundry.port: must be of type integer, not string"),
        ('foundry: {port: !!int ""}', "line 1: foundry.port: not a valid int: ''"),
        ("foundry: {port: !!timestamp x}", "line 1: foundry.port: not a valid timestamp: 'x'"),
        ("foundry: {port: 2021-99-99}", "line 1: foundry.port: not a valid timestamp: '2021-99-99'"),
        (
            "foundry: {compute_modules: {job_lease: .nan}}",
            "line 1: foundry.compute_modules.job_lease: .nan is not a finite number",
        ),
        (
            "foundry: {compute_modules: {poll_timeout: .inf}}",
            "line 1: foundry.compute_modules.poll_timeout: .inf is not a finite number",
        ),
    ],
)
def test_a_mistake_is_named_with_its_line(text: str, problem: str) -> None:
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(text)
    assert caught.value.problems == [problem]


def test_sections_of_other_emulators_are_accepted_and_named() -> None:
    seed = parse_seed("github: {repos: []}\nfoundry: {users: [], enrollment: {}}")
    assert seed.warnings == (
        "line 1: github: not served here",
        "line 2: foundry.users: not served here",
        "line 2: foundry.enrollment: not served here",
    )


def test_yaml_may_merge_mappings() -> None:
    text = "x: &x {login: jane}\ntokens: {a: {<<: *x}}"
    with pytest.raises(InvalidSeed, match="line 1: x: unknown key"):
        parse_seed(text)
    seed = parse_seed("tokens:\n  a: &a {login: jane}\n  b: {<<: *a}")
    assert [each.principal.login for each in seed.tokens] == ["jane", "jane"]


def test_json_is_read_as_json() -> None:
    modules = '{"poll_timeout": 1e1}'
    login = "\\ud83d\\ude00\x7f"
    text = f'{{"tokens": {{"t": {{"login": "{login}"}}}}, "foundry": {{"port": 4e3, "compute_modules": {modules}}}}}'
    seed = parse_seed(text, is_json=True)
    assert (seed.port, seed.poll_timeout, seed.tokens[0].principal.login) == (4000, 10, "\U0001f600\x7f")
    assert isinstance(seed.port, int)
    first = parse_seed('{"foundry": {"port": 1, "port": 2}}', is_json=True)
    assert (first.port, first.warnings) == (1, ("line 1: foundry.port: already defined; the first one counts",))


def test_a_json_seed_that_yaml_cannot_read_has_line_numbers() -> None:
    foundry = '{"port": 12345678901234567890,\n\t"port": 2,\n"prt": 1}'
    text = f'{{"tokens": {{"t": {{"login": "\x7f\u2028"}}}},\n"foundry": {foundry}}}'
    with pytest.raises(InvalidSeed) as refused:
        parse_seed(text, is_json=True)
    found = "\n".join(refused.value.problems)
    assert "line 2: foundry.port" in found
    assert "line 4: foundry.prt" in found
    twice = '{"tokens":\n{"t": {"login": "\x7f",\n"login": {"x": [1, 2]}}}}'
    assert parse_seed(twice, is_json=True).warnings == (
        "line 3: tokens.*.login: already defined; the first one counts",
    )


@pytest.mark.parametrize("deep", ["[" * 600 + "]" * 600, "[" * 100_000])
def test_json_that_is_nested_too_deeply_is_refused(deep: str) -> None:
    with pytest.raises(InvalidSeed, match="nested too deeply"):
        parse_seed(f'{{"x": {deep}}}', is_json=True)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999"])
def test_json_with_a_number_that_is_not_finite_is_refused(number: str) -> None:
    with pytest.raises(InvalidSeed, match=f"not readable as JSON: {number} is not a finite number"):
        parse_seed(f'{{"foundry": {{"compute_modules": {{"sync_timeout": {number}}}}}}}', is_json=True)


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
