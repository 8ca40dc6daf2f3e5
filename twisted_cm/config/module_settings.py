"""What a module of a runtime finds around it in Foundry, as the seed describes it.

The seed may leave secrets out: ``${NAME}`` in a text stands for an environment variable of the command that starts the
module.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from .seed_path import SeedPath, dotted

#: A reference to an environment variable, or a dollar sign that is written twice to say that it is none.
_REFERENCE = re.compile(r"\$(\$(?=\{)|\{([A-Za-z_][A-Za-z0-9_]*)\})")


#: The variables that a module finds in Foundry. Foundry reserves them, and so does the seed.
RESERVED = frozenset(
    (
        "BUILD2_TOKEN",
        "CLIENT_ID",
        "CLIENT_SECRET",
        "COMPUTE_SESSION_ID",
        "CONNECTIONS_TO_OTHER_PODS_CA_PATH",
        "CONNECTION_TO_RUNTIME",
        "DEFAULT_CA_PATH",
        "FOUNDRY_COMPUTE_MODULE_RID",
        "FOUNDRY_SERVICE_DISCOVERY_V2",
        "FOUNDRY_URL",
        "GET_JOB_PATH",
        "GET_JOB_URI",
        "GET_JOB_URI_V2",
        "MAX_CONCURRENT_TASKS",
        "MODULE_AUTH_TOKEN",
        "POST_RESULT_PATH",
        "POST_RESULT_URI",
        "POST_RESULT_URI_V2",
        "POST_SCHEMA_URI",
        "POST_SCHEMA_URI_V2",
        "RESOURCE_ALIAS_MAP",
        "RESTART_NOTIFICATION_URI",
        "RUNTIME_API",
        "RUNTIME_HOST",
        "RUNTIME_PORT",
        "SOURCE_CONFIGURATIONS_PATH",
        "SOURCE_CREDENTIALS",
    )
)


class UnusableSettings(Exception):
    """The seed refers to environment variables that are not set, or a source has no URL; the message says where."""


@frozen
class Source:
    """A source of Foundry that the module may use.

    Attributes:
        url: Where the source is.
        secrets: Its secrets, by name.
        configuration: What Foundry calls the configuration of the source: any JSON value.
    """

    url: str
    secrets: Mapping[str, str] = field(factory=dict, repr=False)
    configuration: Any = field(factory=dict, repr=False)


@frozen
class Resource:
    """A resource of Foundry that a pipeline module reads or writes."""

    rid: str
    branch: str | None = None


@frozen
class ModuleSettings:
    """What a module of one runtime finds around it.

    Attributes:
        sources: Sources, by the names that the module uses for them.
        resources: Resources, by their aliases.
        build_token: The token of a module that runs in a pipeline.
        application: The id of the OAuth client that the module uses.
        services: URLs of Foundry's services, by name.
        max_concurrent_tasks: How many jobs the module takes at once; ``None`` for the default.
        env: More environment variables.
    """

    sources: Mapping[str, Source] = field(factory=dict)
    resources: Mapping[str, Resource] = field(factory=dict)
    build_token: str | None = field(default=None, repr=False)
    application: str | None = None
    services: Mapping[str, list[str]] = field(factory=dict)
    max_concurrent_tasks: int | None = None
    env: Mapping[str, str] = field(factory=dict, repr=False)

    @classmethod
    def parse(cls, item: Mapping[str, Any]) -> ModuleSettings:
        """Read the settings from a runtime of the seed, which has been checked."""
        return cls(
            sources={
                name: Source(each["url"], each.get("secrets", {}), each.get("configuration", {}))
                for name, each in item.get("sources", {}).items()
            },
            resources={
                alias: Resource(each["rid"], each.get("branch")) for alias, each in item.get("resources", {}).items()
            },
            build_token=item.get("build_token"),
            application=item.get("application"),
            services=item.get("services", {}),
            max_concurrent_tasks=item.get("max_concurrent_tasks"),
            env={name: str(value) for name, value in item.get("env", {}).items()},
        )

    def expanded(self, environment: Mapping[str, str]) -> ModuleSettings:
        """Return the settings with the values of environment variables in them.

        Raises:
            UnusableSettings: They refer to variables that are not set, or a source has no URL.
        """
        problems: list[str] = []

        def expand(value: Any, path: SeedPath) -> Any:
            if isinstance(value, str):
                return _REFERENCE.sub(lambda found: look_up(found, path), value)
            if isinstance(value, Mapping):
                return {key: expand(each, (*path, key)) for key, each in value.items()}
            if isinstance(value, list):
                return [expand(each, (*path, index)) for index, each in enumerate(value)]
            return value

        def look_up(found: re.Match[str], path: SeedPath) -> str:
            name = found[2]
            if name is None:
                return "$"
            if name not in environment:
                problems.append(f"{dotted(path)}: the environment variable {name} is not set; export it")
            # So that a URL is not called empty, too.
            return environment.get(name, name)

        expanded = ModuleSettings(
            sources={
                name: Source(
                    expand(each.url, ("sources", name, "url")),
                    expand(each.secrets, ("sources", name, "secrets")),
                    expand(each.configuration, ("sources", name, "configuration")),
                )
                for name, each in self.sources.items()
            },
            resources={
                alias: Resource(
                    expand(each.rid, ("resources", alias, "rid")), expand(each.branch, ("resources", alias, "branch"))
                )
                for alias, each in self.resources.items()
            },
            build_token=expand(self.build_token, ("build_token",)),
            application=self.application,
            services=expand(self.services, ("services",)),
            max_concurrent_tasks=self.max_concurrent_tasks,
            env=expand(self.env, ("env",)),
        )
        for name, each in expanded.sources.items():
            if not each.url.strip():
                problems.append(f"{dotted(('sources', name, 'url'))}: is empty; name the URL of the source")
        if problems:
            raise UnusableSettings("\n".join(problems))
        return expanded
