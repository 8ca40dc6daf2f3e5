"""Runtimes, the deployed apps bound to them, and their functions."""

from __future__ import annotations

import secrets

from attrs import define, field, frozen

from .types import JSONValue

#: The branch of a deployed app that does not name one.
DEFAULT_BRANCH = "master"


@frozen
class Binding:
    """One deployed app on one branch, and the runtime that serves it."""

    deployed_app_rid: str
    branch: str
    runtime_id: str
    display_name: str | None = None
    active: bool = True


@frozen
class FunctionSchema:
    """The schema that a runtime posted for one of its functions.

    Attributes:
        payload: The schema as posted, with keys the emulator does not know.
        issues: ``CANNOT_PARSE_INPUTS`` and ``CANNOT_PARSE_OUTPUT``, Foundry's names (contract section 1).
        posted_at: Milliseconds since the epoch.
    """

    function_name: str
    payload: JSONValue
    issues: tuple[str, ...] = ()
    posted_at: int = 0


@define(eq=False)
class Runtime:
    """One runtime.

    Attributes:
        module_auth_token: The token its process authenticates with; empty in a seed that does not set one.
        opened_at: When it was seeded or its session was opened, in milliseconds since the epoch.
        connected: Whether any of its replicas is responsive or busy, when a broker looked last.
        last_poll_at: When any of its replicas last began to poll, in milliseconds since the epoch.
        last_schema_post_at: Milliseconds since the epoch.
        schemas: The schemas by function name; ``None`` until the runtime posts for the first time.
    """

    runtime_id: str
    module_auth_token: str = field(repr=False)
    opened_at: int = 0
    connected: bool = False
    last_poll_at: int | None = None
    last_schema_post_at: int | None = None
    schemas: dict[str, FunctionSchema] | None = None


def new_module_auth_token() -> str:
    """Return a new token for a runtime or a replica, in the form of contract section 1."""
    return "foundry_module_auth_" + secrets.token_hex(24)
