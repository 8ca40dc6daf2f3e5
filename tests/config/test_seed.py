"""Seed files, valid and invalid."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from conftest import ROOT
from hypothesis import given
from hypothesis import strategies as st

from twisted_cm.config.seed import Seed, SeedRuntime, Sidecar, make_seed, parse_seed, read_seed
from twisted_cm.config.seed_file import InvalidSeed
from twisted_cm.model.faults import FaultKind, FaultPlan
from twisted_cm.model.limits import JobLimits
from twisted_cm.model.runtimes import Binding
from twisted_cm.model.tokens import GrantType, OAuthClient
from twisted_cm.model.users import User
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
        "  enrollment: {}\n"
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
        ("foundry:\n  port: ]", "^line 2: not YAML: expected the node content"),
        ("tokens:\n\n  a: *b", "^line 3: not YAML: found undefined alias"),
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
        ("foundry:\n  port:\n    many", "line 2: foundry.port: must be of type integer, not string"),
        (
            "foundry: {compute_modules: {queue_bytes: 9223372036854775808}}",
            "line 1: foundry.compute_modules.queue_bytes: a number of 64 bits is too large",
        ),
        (
            "foundry: {xyzzy: 1}",
            "line 1: foundry.xyzzy: unknown key; known keys: ontologies, port, proxy, users, oauth_clients,"
            " compute_modules",
        ),
        (
            "foundry: {compute_modules: {retention: []}}",
            "line 1: foundry.compute_modules.retention: must be of type object or null, not array",
        ),
        ("tokens: {a: {login: 1.5}}", "line 1: tokens.*.login: must be of type string, not number"),
        ("tokens: {a: {login: true}}", "line 1: tokens.*.login: must be of type string, not boolean"),
        ("tokens: {a: {login: }}", "line 1: tokens.*.login: must be of type string, not null"),
        ("tokens: {a: {login: {}}}", "line 1: tokens.*.login: must be of type string, not object"),
        ("tokens: {a: 2021-01-01}", "line 1: tokens.*: must be of type object or null, not date"),
        (
            "tokens: {a: {login: ' '}}",
            "line 1: tokens.*.login: must not be blank or contain characters that are not allowed",
        ),
        ("tokens:\n  a: {}\n  a b: {}", "line 3: tokens.*: a token must not be empty or contain white space"),
        ("tokens: {'': {}}", "line 1: tokens.*: a token must not be empty or contain white space"),
        ("foundry: {port: 65536}", "line 1: foundry.port: 65536 is greater than the maximum of 65535"),
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


def test_the_largest_number_of_a_seed() -> None:
    seed = parse_seed("foundry: {compute_modules: {queue_bytes: 9223372036854775807}}")
    assert seed.job_limits.queue_bytes == 2**63 - 1


def test_aliases_that_expand_to_too_many_values_are_refused() -> None:
    """Nine lines stand for a billion values."""
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10))]
    with pytest.raises(InvalidSeed, match="aliases that never end"):
        parse_seed("\n".join(lines))
    assert len(parse_seed("tokens:\n  a: &a {login: jane}\n  b: *a\n  c: *a").tokens) == 3


def test_each_missing_key_is_named_once() -> None:
    with pytest.raises(InvalidSeed) as refused:
        parse_seed("foundry:\n  compute_modules:\n    deployed_apps:\n      - {}")
    assert refused.value.problems == [
        "line 4: foundry.compute_modules.deployed_apps[0]: 'deployed_app_rid' is missing",
        "line 4: foundry.compute_modules.deployed_apps[0]: 'runtime_id' is missing",
    ]


def test_what_follows_a_second_definition_is_checked() -> None:
    text = "foundry:\n  port: 1\n  port: [2]\n  prt: 3\n"
    with pytest.raises(InvalidSeed) as refused:
        parse_seed(text)
    assert refused.value.problems == ["line 4: foundry.prt: unknown key; did you mean 'port'?"]
    assert parse_seed(text.replace("prt", "enrollment")).port == 1


def test_the_text_of_the_error_is_all_problems() -> None:
    with pytest.raises(InvalidSeed) as refused:
        parse_seed("foundry:\n  port: -1\n  prt: 1")
    assert len(refused.value.problems) == 2
    assert str(refused.value) == "\n".join(refused.value.problems)


def test_every_field_of_a_seed_is_read() -> None:
    seed = parse_seed(
        """
tokens: {a: {login: jane, scopes: [read]}, b: {}, c: }
foundry:
  port: 4000
  oauth_clients:
    - {client_id: any, client_secret: s1}
    - {client_id: some, client_secret: s2, scopes: [x, y], token_lifetime: 60}
    - {client_id: any, client_secret: s3}
  compute_modules:
    poll_timeout: 1.5
    sync_timeout: 7
    validate_queries: true
    broker: unix:///redis
    job_lease: 2.5
    max_attempts: 4
    queue_depth: 5
    queue_bytes: 6
    retention: {jobs: 7, bytes: 8, seconds: 9.5}
    faults: [{kind: fail_job, message: luck}]
    runtimes: [{runtime_id: r, module_auth_token: t}, {runtime_id: s}]
    deployed_apps:
      - {deployed_app_rid: ri.r, runtime_id: r}
      - {deployed_app_rid: ri.r, runtime_id: new, branch: dev, display_name: Dev, active: false}
    sidecars: [{runtime_id: s}, {runtime_id: aside, port: 1, tls_port: 2}, {runtime_id: s, port: 3}]
"""
    )
    assert [(each.token, each.principal.login, each.principal.scopes) for each in seed.tokens] == [
        ("a", "jane", ("read",)),
        ("b", "anonymous", ()),
        ("c", "anonymous", ()),
    ]
    assert (seed.bearer_tokens, seed.development_token) == (seed.tokens, False)
    assert seed.oauth_clients == (OAuthClient("any", "s1"), OAuthClient("some", "s2", ("x", "y"), 60))
    assert (seed.port, seed.poll_timeout, seed.sync_timeout) == (4000, 1.5, 7)
    assert (seed.validate_queries, seed.broker) == (True, "unix:///redis")
    assert seed.job_limits == JobLimits(2.5, 4, 5, 6, 7, 8, 9.5)
    assert seed.faults == (FaultPlan(FaultKind.FAIL_JOB, message="luck"),)
    assert seed.runtimes == (SeedRuntime("r", "t"), SeedRuntime("s"), SeedRuntime("new"), SeedRuntime("aside"))
    assert seed.bindings == (Binding("ri.r", "master", "r"), Binding("ri.r", "dev", "new", "Dev", False))
    assert seed.sidecars == (Sidecar("s", 8946, 8945), Sidecar("aside", 1, 2))
    assert [warning.partition(":")[0] for warning in seed.warnings] == ["line 24", "line 8"]
    registry = seed.registry()
    assert {each.runtime_id: each.module_auth_token for each in registry.runtimes.values()} == {
        "r": "t",
        "s": "",
        "new": "",
        "aside": "",
    }
    assert tuple(registry.bindings()) == seed.bindings


def test_what_a_seed_does_not_say_has_its_default() -> None:
    for text in ("", "foundry:", "foundry: {compute_modules: }", "foundry: {compute_modules: {retention: }}"):
        assert parse_seed(text) == Seed()
    clients = "foundry: {oauth_clients: [{client_id: a, client_secret: b}]}"
    assert (parse_seed(clients).development_token, parse_seed(clients).bearer_tokens) == (False, ())


def test_a_seed_is_made_of_what_there_is(tmp_path: Path) -> None:
    expected = Seed(port=5)
    file = tmp_path / "seed.yaml"
    file.write_text("foundry: {port: 5}", "utf-8")
    for source in (expected, "foundry: {port: 5}", {"foundry": {"port": 5}}, file):
        assert make_seed(source) == expected
    assert make_seed(expected) is expected
    assert make_seed(None) == Seed()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("none.yaml", None, "No such file or directory; name a readable file with --seed"),
        ("seed.yaml", b"a: \xff", "not UTF-8 at byte 3; save the file as UTF-8"),
        ("seed.yaml", b"foundry:\n  port: -1", "line 2: foundry.port: -1 is less than the minimum of 0"),
        ("seed.JSON", b'{"foundry":\n {"port": -1}}', "line 2: foundry.port: -1 is less than the minimum of 0"),
        ("seed.json", b'{"foundry":\n no}', "line 2: not JSON: Expecting value"),
    ],
)
def test_a_problem_with_a_file_names_the_file(tmp_path: Path, name: str, content: bytes | None, problem: str) -> None:
    file = tmp_path / name
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InvalidSeed) as refused:
        read_seed(file)
    assert refused.value.problems == [f"{file}: {problem}"]


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path: Path) -> None:
    for name, text in (("seed.yaml", "foundry: {port: 5}"), ("seed.json", '{"foundry": {"port": 5}}')):
        file = tmp_path / name
        file.write_text("\ufeff" + text, "utf-8")
        assert read_seed(file).port == 5


def test_sections_of_other_emulators_are_accepted_and_named() -> None:
    seed = parse_seed("github: {repos: []}\nfoundry: {users: [{username: jo, oauth_client_id: a}], enrollment: {}}")
    assert seed.warnings == (
        "line 1: github: not served here",
        "line 2: foundry.enrollment: not served here",
        "line 2: foundry.users[0].oauth_client_id: not served here",
    )


USERS = """
foundry:
  users:
    - {username: jane, given_name: Jane, family_name: Doe, email: jane@example.com}
    - username: bot
      id: 1F0E9D8C-7b6a-4958-8476-655443322110
      display_name: The Bot
      realm: here
      organization_rid: ri.o
      principal_type: service
      active: false
      attributes: {team: [a, b]}
    - {username: jane, given_name: Joan}
  oauth_clients:
    - {client_id: page, name: My page, redirect_uris: ["http://localhost:1/a?b=c", "my.app:/done"]}
    - {client_id: api, client_secret: s, allowed_scopes: [], grant_types: [client_credentials]}
    - {client_id: narrow, client_secret: s, allowed_scopes: [read]}
"""


def test_users_and_clients_are_read_as_other_emulators_write_them() -> None:
    seed = parse_seed(USERS)
    jane, bot = seed.users
    assert jane == User("jane", given_name="Jane", family_name="Doe", email="jane@example.com")
    assert (jane.shown_name, jane.may_sign_in, bot.shown_name, bot.may_sign_in) == ("Jane Doe", True, "The Bot", False)
    assert jane.user_id == parse_seed("foundry: {users: [{username: jane}]}").users[0].user_id
    assert re.fullmatch("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", jane.user_id)
    assert bot == User(
        "bot",
        "1f0e9d8c-7b6a-4958-8476-655443322110",
        "The Bot",
        realm="here",
        organization_rid="ri.o",
        attributes={"team": ("a", "b")},
        is_person=False,
        is_active=False,
    )
    assert seed.oauth_clients == (
        OAuthClient("page", name="My page", redirect_uris=("http://localhost:1/a?b=c", "my.app:/done")),
        OAuthClient("api", "s", grant_types=(GrantType.CLIENT_CREDENTIALS,)),
        OAuthClient("narrow", "s", ("read",)),
    )
    assert seed.warnings == ("line 13: foundry.users[2]: already defined; the first one counts",)


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("/callback", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http:///callback", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http://localhost:x/", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http://[::1/", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http://localhost/a b", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http://localhost/\u00e9", "must be an absolute URL, such as http://localhost:8080/auth/callback"),
        ("http://localhost/#a", "must not contain a fragment, such as http://localhost:8080/auth/callback"),
        ("myapp:#", "must not contain a fragment, such as http://localhost:8080/auth/callback"),
        (
            "http://jane:secret@localhost/",
            "must not contain a user or a password, such as http://localhost:8080/auth/callback",
        ),
        (
            "javascript:alert(1)",
            "must be an http or https URL, such as http://localhost:8080/auth/callback, or have a scheme of the"
            " application's own",
        ),
    ],
)
def test_a_redirect_uri_must_be_one_to_which_a_browser_may_be_sent(uri: str, problem: str) -> None:
    with pytest.raises(InvalidSeed) as caught:
        make_seed({"foundry": {"oauth_clients": [{"client_id": "a", "redirect_uris": ["https://[::1]:8/", uri]}]}})
    assert caught.value.problems == [f"line 1: foundry.oauth_clients[0].redirect_uris[1]: {problem}"]


@pytest.mark.parametrize(
    ("foundry", "problem"),
    [
        ("{users: [{email: a}]}", "foundry.users[0]: 'username' is missing"),
        ("{users: [jane]}", "foundry.users[0]: must be of type object, not string"),
        (
            "{users: [{username: a, id: b}]}",
            "foundry.users[0].id: must be a UUID, such as 1f0e9d8c-7b6a-4958-8476-655443322110",
        ),
        (
            "{users: [{username: a, id: 1f0e9d8c-7b6a-4958-8476-655443322110},"
            " {username: b, id: 1F0E9D8C-7B6A-4958-8476-655443322110}]}",
            "foundry.users[1].id: the user 'a' has the same id; choose another one",
        ),
        (
            "{users: [{username: a}], oauth_clients: [{client_id: b}, {client_id: a}]}",
            "foundry.oauth_clients[1].client_id: the user 'a' has the same name, and jobs tell the two only by their"
            " names; choose another one",
        ),
        (
            "{oauth_clients: [{client_id: admin}]}",
            "foundry.oauth_clients[0].client_id: the user 'admin', who is there because the seed has no 'users', has"
            " the same name; choose another one",
        ),
        (
            "{users: [{username: a, principal_type: robot}]}",
            "foundry.users[0].principal_type: 'robot' is not one of ['human', 'service']",
        ),
        ("{oauth_clients: [{client_secret: a}]}", "foundry.oauth_clients[0]: 'client_id' is missing"),
        (
            "{oauth_clients: [{client_id: a, redirect_uri: b}]}",
            "foundry.oauth_clients[0].redirect_uri: unknown key; did you mean 'redirect_uris'?",
        ),
        (
            "{oauth_clients: [{client_id: a, scopes: [], allowed_scopes: []}]}",
            "foundry.oauth_clients[0].allowed_scopes: 'scopes' says the same; name one of the two",
        ),
        (
            "{oauth_clients: [{client_id: a}], compute_modules: {runtimes: [{runtime_id: r, application: a}]}}",
            "foundry.compute_modules.runtimes[0].application: the OAuth client 'a' has no client_secret, which a module"
            " needs; add one",
        ),
    ],
)
def test_a_mistake_in_users_and_clients_is_named(foundry: str, problem: str) -> None:
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(f"foundry: {foundry}")
    assert caught.value.problems == [f"line 1: {problem}"]


def test_a_token_of_an_inactive_user_is_reported_without_the_token() -> None:
    seed = parse_seed(
        "tokens:\n  secret: {login: joe}\n  other: {login: jane}\nfoundry:\n  users:\n"
        "    - {username: joe, active: false}\n    - {username: jane}\n"
    )
    assert seed.warnings == ("line 2: tokens.*: not valid, because the user 'joe' is not active",)


def test_a_client_may_have_the_name_of_the_user_that_stands_in_for_users() -> None:
    seed = parse_seed("foundry: {users: [{username: a}], oauth_clients: [{client_id: admin}]}")
    assert [each.client_id for each in seed.oauth_clients] == ["admin"]


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
    st.none() | st.booleans() | st.integers() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text(max_size=10) | st.sampled_from(["name", "functions", "inputs"]), inner, max_size=5)
    ),
    max_leaves=20,
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


@pytest.mark.parametrize("is_json", [False, True], ids=["YAML", "JSON"])
def test_nul_and_half_a_surrogate_pair_are_refused_everywhere(is_json: bool) -> None:
    text = r"""{
        "tokens": {"a": {"login": "\ud83d\ude00", "scopes": ["\u0000"]}, "b\u0000": {"login": "\u0000"}},
        "foundry": {
            "users": [{"username": "x\ud83d"}, {"username": "\ude00\ud83d"}, {"username": "\ud83d\ude00"}],
            "proxy": {"/\udfff": "http://localhost:1", "/a": "\udfff"}
        }
    }"""
    with pytest.raises(InvalidSeed) as caught:
        parse_seed(text, is_json)
    said = "must not contain NUL or half a surrogate pair"
    assert caught.value.problems == [
        f"line 2: tokens.*.scopes[0]: {said}",
        f"line 2: tokens: a key {said}",
        f"line 4: foundry.users[0].username: {said}",
        f"line 4: foundry.users[1].username: {said}",
        f"line 5: foundry.proxy: a key {said}",
        f"line 5: foundry.proxy./a: {said}",
    ]


@pytest.mark.parametrize("is_json", [False, True], ids=["YAML", "JSON"])
def test_a_whole_surrogate_pair_is_a_character(is_json: bool) -> None:
    text = r'{"tokens": {"a": {"login": "x\ud83d\ude00"}}, "foundry": {"users": [{"username": "\ud83d\ude00"}]}}'
    seed = parse_seed(text, is_json)
    assert (seed.tokens[0].principal.login, seed.users[0].username) == ("x\N{GRINNING FACE}", "\N{GRINNING FACE}")


def test_characters_of_a_mapping_are_kept() -> None:
    assert (
        make_seed({"foundry": {"users": [{"username": "\N{GRINNING FACE}"}]}}).users[0].username == "\N{GRINNING FACE}"
    )
