"""The seed file: tokens, runtimes, deployed apps, limits and faults that exist from the start (contract section 5).

The whole seed is checked against ``schemas/seed.json`` before any part of it takes effect. Every violation is reported
with its path and line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from attrs import Factory, field, frozen
from jsonschema import Draft202012Validator

from ..model.faults import FaultPlan, fault_plan
from ..model.limits import JobLimits, TimeLimits
from ..model.proxies import Proxy
from ..model.queries import NamedQuery, Ontology
from ..model.registry import Registry
from ..model.runtimes import DEFAULT_BRANCH, Binding, Runtime
from ..model.tokens import DEVELOPMENT_TOKEN, BearerToken, OAuthClient, Principal
from ..model.users import User
from .identities import mistakes_in_identities, read_client, read_user
from .json_schemas import load_schema
from .module_settings import RESERVED, ModuleSettings
from .named_queries import read_named_queries, read_ontologies, unbound_queries
from .process_settings import ProcessSettings, process_problems
from .proxies import mistakes_in_proxies, read_proxies
from .seed_file import InvalidSeed, load_document
from .seed_path import ALREADY_DEFINED, Lines, SeedPath
from .seed_problems import explain, format_problem, suggest

_SCHEMA = load_schema("seed.json")
_VALIDATOR = Draft202012Validator(_SCHEMA)


@frozen
class Sidecar:
    """A sidecar listener for one runtime (contract section 2).

    Attributes:
        port: The port for plain HTTP; 0 picks a free one.
        tls_port: The port for HTTPS; 0 picks a free one.
    """

    runtime_id: str
    port: int = 8946
    tls_port: int = 8945


@frozen
class SeedRuntime:
    """A runtime that exists from the start.

    Attributes:
        module: What its modules find around them.
        process: How the emulator starts its modules; ``None`` if somebody else does.
        time_limits: How long its jobs may run.
    """

    runtime_id: str
    module_auth_token: str | None = field(default=None, repr=False)
    module: ModuleSettings = Factory(ModuleSettings)
    process: ProcessSettings | None = None
    time_limits: TimeLimits = Factory(TimeLimits)


@frozen
class Seed:
    """A valid seed.

    Attributes:
        port: The port to listen on, unless the command line names one.
        poll_timeout: Seconds that a job poll parks; ``None`` for the default.
        sync_timeout: Seconds that a synchronous caller parks; ``None`` for the default.
        validate_queries: Whether each query is checked against its function's schema before it is queued.
        broker: The URL of the Redis to share; ``None`` to keep everything in the process.
        job_limits: Leases, queue depth and retention.
        faults: The faults that are active from the start.
        queries: The API names of functions.
        ontologies: The ontologies; none stands for one that holds nothing but functions.
        proxies: Which requests are passed on to other servers.
        warnings: What was accepted and has no effect, one line each.
    """

    tokens: tuple[BearerToken, ...] = ()
    port: int | None = None
    users: tuple[User, ...] = ()
    oauth_clients: tuple[OAuthClient, ...] = ()
    poll_timeout: float | None = None
    sync_timeout: float | None = None
    validate_queries: bool = False
    broker: str | None = field(default=None, repr=False)
    job_limits: JobLimits = Factory(JobLimits)
    faults: tuple[FaultPlan, ...] = ()
    runtimes: tuple[SeedRuntime, ...] = ()
    bindings: tuple[Binding, ...] = ()
    sidecars: tuple[Sidecar, ...] = ()
    queries: tuple[NamedQuery, ...] = ()
    ontologies: tuple[Ontology, ...] = ()
    proxies: tuple[Proxy, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def development_token(self) -> bool:
        """Whether the seed names no way to get in, so that the development token is valid on loopback."""
        return not self.tokens and not self.oauth_clients

    @property
    def bearer_tokens(self) -> tuple[BearerToken, ...]:
        """The tokens that are valid on loopback: those of the seed, or else the development token."""
        return (BearerToken(DEVELOPMENT_TOKEN, Principal("admin")),) if self.development_token else self.tokens

    @property
    def time_limits(self) -> dict[str, TimeLimits]:
        """The time limits of jobs, by runtime; those of runtimes that have none are left out."""
        return {each.runtime_id: each.time_limits for each in self.runtimes if each.time_limits != TimeLimits()}

    def deployed_app_of(self, runtime_id: str) -> str | None:
        """Return the first deployed app that is bound to a runtime, or ``None``."""
        return next((each.deployed_app_rid for each in self.bindings if each.runtime_id == runtime_id), None)

    def application_of(self, module: ModuleSettings) -> OAuthClient | None:
        """Return the OAuth client that the settings of a module name, or ``None``."""
        return next((each for each in self.oauth_clients if each.client_id == module.application), None)

    def registry(self) -> Registry:
        """Return a registry with the seed's runtimes and bindings.

        A runtime for which the seed names no token has an empty one; the broker generates it.
        """
        registry = Registry()
        for runtime in self.runtimes:
            registry.add(Runtime(runtime.runtime_id, runtime.module_auth_token or ""))
        for binding in self.bindings:
            registry.bind(binding)
        return registry


#: A seed: YAML or JSON text, the value of such text, the path of a file, or a ``Seed``.
SeedLike: TypeAlias = Seed | str | Mapping[str, Any] | Path | None


def make_seed(seed: SeedLike) -> Seed:
    """Return the seed, checked; an empty one for ``None``.

    Raises:
        InvalidSeed: The seed is not valid.
    """
    if seed is None:
        return Seed()
    if isinstance(seed, Seed):
        return seed
    if isinstance(seed, Path):
        return read_seed(seed)
    return parse_seed(seed if isinstance(seed, str) else json.dumps(seed))


def read_seed(path: Path) -> Seed:
    """Read a seed file.

    Args:
        path: A YAML file, or a JSON file if its name ends with ``.json``.

    Raises:
        InvalidSeed: The file cannot be read, or the seed is not valid.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise InvalidSeed([f"{path}: {error.strerror or error}; name a readable file with --seed"]) from None
    except UnicodeDecodeError as error:
        raise InvalidSeed([f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8"]) from None
    try:
        return parse_seed(text, is_json=path.suffix.lower() == ".json")
    except InvalidSeed as error:
        raise InvalidSeed([f"{path}: {problem}" for problem in error.problems]) from None


def parse_seed(text: str, is_json: bool = False) -> Seed:
    """Read the text of a seed file.

    Raises:
        InvalidSeed: The seed is not valid; ``problems`` lists everything that is wrong with it.
    """
    document, lines, warnings = load_document(text, is_json)
    if document is None:
        document = {}
    # Two violations may have one explanation: jsonschema reports each missing key by itself, but does not name it.
    problems = sorted(
        {
            (lines.line(path), format_problem(path, lines, message))
            for path, message in (
                *(each for error in _VALIDATOR.iter_errors(document) for each in explain(error)),
                *mistakes_in_proxies(document),
                *mistakes_in_identities(document),
            )
        }
    )
    if problems:
        raise InvalidSeed([problem for _, problem in problems])
    return _build(_whole_numbers(document), lines, warnings)


#: The keys below which values reach the module as they are written.
_AS_WRITTEN = ("env", "configuration")


def _whole_numbers(value: Any) -> Any:
    """Return a value with ``1000`` in place of ``1000.0`` or ``1e3``, which JSON Schema takes for an integer, too."""
    if isinstance(value, dict):
        return {key: each if key in _AS_WRITTEN else _whole_numbers(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_whole_numbers(each) for each in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _build(document: dict[str, Any], lines: Lines, warnings: list[str]) -> Seed:
    foundry = document.get("foundry") or {}
    modules = foundry.get("compute_modules") or {}
    base: SeedPath = ("foundry", "compute_modules")
    for path, section, schema in (((), document, _SCHEMA), (("foundry",), foundry, _SCHEMA["properties"]["foundry"])):
        # The JSON Schema says nothing about the sections of other emulators, except that they may be there.
        for name in (each for each in section if schema["properties"][each] is True):
            warnings.append(format_problem((*path, name), lines, "not served here"))

    def first_of(items: Sequence[Any], keys: Sequence[object], path: SeedPath) -> Iterator[Any]:
        seen = set()
        for index, (item, key) in enumerate(zip(items, keys, strict=True)):
            if key in seen:
                warnings.append(format_problem((*path, index), lines, ALREADY_DEFINED))
            else:
                seen.add(key)
                yield item

    runtimes = [
        SeedRuntime(
            item["runtime_id"],
            item.get("module_auth_token"),
            ModuleSettings.parse(item),
            ProcessSettings.parse(item),
            TimeLimits(
                item.get("job_timeout"),
                {name: each["job_timeout"] for name, each in item.get("functions", {}).items()},
            ),
        )
        for item in modules.get("runtimes", [])
    ]
    runtimes = list(first_of(runtimes, [item.runtime_id for item in runtimes], (*base, "runtimes")))
    bindings = [
        Binding(
            item["deployed_app_rid"],
            item.get("branch", DEFAULT_BRANCH),
            item["runtime_id"],
            item.get("display_name"),
            item.get("active", True),
        )
        for item in modules.get("deployed_apps", [])
    ]
    keys = [(item.deployed_app_rid, item.branch) for item in bindings]
    bindings = list(first_of(bindings, keys, (*base, "deployed_apps")))
    sidecars = [Sidecar(**item) for item in modules.get("sidecars", [])]
    sidecars = list(first_of(sidecars, [item.runtime_id for item in sidecars], (*base, "sidecars")))
    queries = read_named_queries(modules)
    queries = list(first_of(queries, [item.api_name for item in queries], (*base, "queries")))
    warnings += [format_problem(path, lines, message) for path, message in unbound_queries(modules)]
    ontologies = read_ontologies(foundry)
    ontologies = list(first_of(ontologies, [item.api_name for item in ontologies], ("foundry", "ontologies")))
    clients = [read_client(item) for item in foundry.get("oauth_clients", [])]
    clients = list(first_of(clients, [item.client_id for item in clients], ("foundry", "oauth_clients")))
    users_path: SeedPath = ("foundry", "users")
    served = _SCHEMA["properties"]["foundry"]["properties"]["users"]["items"]["properties"]
    for index, item in enumerate(foundry.get("users", [])):
        for name in sorted(item.keys() - served.keys()):
            warnings.append(format_problem((*users_path, index, name), lines, "not served here"))
    users = [read_user(item) for item in foundry.get("users", [])]
    users = list(first_of(users, [item.username for item in users], users_path))

    problems = [
        format_problem((*base, "runtimes", index, *path), lines, message)
        for index, item in enumerate(modules.get("runtimes", []))
        for path, message in _module_problems(item, clients)
    ]
    if problems:
        raise InvalidSeed(problems)

    known = {runtime.runtime_id for runtime in runtimes}
    for runtime_id in [*(item.runtime_id for item in bindings), *(item.runtime_id for item in sidecars)]:
        if runtime_id not in known:
            known.add(runtime_id)
            runtimes.append(SeedRuntime(runtime_id))
    tokens = [
        BearerToken(token, Principal((owner or {}).get("login", "anonymous"), tuple((owner or {}).get("scopes", ()))))
        for token, owner in (document.get("tokens") or {}).items()
    ]
    inactive = {each.username for each in users if not each.is_active}
    for bearer in tokens:
        if bearer.principal.login in inactive:
            message = f"not valid, because the user '{bearer.principal.login}' is not active"
            warnings.append(format_problem(("tokens", bearer.token), lines, message))
    return Seed(
        tokens=tuple(tokens),
        port=foundry.get("port"),
        users=tuple(users),
        oauth_clients=tuple(clients),
        poll_timeout=modules.get("poll_timeout"),
        sync_timeout=modules.get("sync_timeout"),
        validate_queries=modules.get("validate_queries", False),
        broker=modules.get("broker"),
        job_limits=_job_limits(modules),
        faults=tuple(fault_plan(item) for item in modules.get("faults", [])),
        runtimes=tuple(runtimes),
        bindings=tuple(bindings),
        sidecars=tuple(sidecars),
        queries=tuple(queries),
        ontologies=tuple(ontologies),
        proxies=read_proxies(foundry),
        warnings=tuple(warnings),
    )


def _module_problems(item: dict[str, Any], clients: list[OAuthClient]) -> Iterator[tuple[SeedPath, str]]:
    """Return what the JSON Schema cannot say about the modules of a runtime."""
    application = item.get("application")
    secret_of = {each.client_id: each.client_secret for each in clients}
    if application is not None and application not in secret_of:
        hint = suggest(application, list(secret_of), "add it to oauth_clients")
        yield ("application",), f"no OAuth client has the id '{application}'; {hint}"
    elif application is not None and secret_of[application] is None:
        yield ("application",), f"the OAuth client '{application}' has no client_secret, which a module needs; add one"
    yield from process_problems(item)
    for name, value in sorted(item.get("env", {}).items()):
        if name in RESERVED:
            yield ("env", name), "the emulator sets this variable; choose another name"
        elif isinstance(value, float):
            yield ("env", name), f"the number {value} may be written in other ways; put it in quotes"


def _job_limits(modules: dict[str, Any]) -> JobLimits:
    retention = modules.get("retention") or {}
    given = {
        "lease": modules.get("job_lease"),
        "max_attempts": modules.get("max_attempts"),
        "queue_depth": modules.get("queue_depth"),
        "queue_bytes": modules.get("queue_bytes"),
        "retained_jobs": retention.get("jobs"),
        "retained_bytes": retention.get("bytes"),
        "retained_seconds": retention.get("seconds"),
    }
    return JobLimits(**{name: value for name, value in given.items() if value is not None})
