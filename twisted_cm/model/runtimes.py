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
    """
    What a runtime said of one of its functions.

    @ivar payload: the schema as posted, unknown keys included.
    @ivar issues: C{CANNOT_PARSE_INPUTS} and C{CANNOT_PARSE_OUTPUT}, as Foundry names them (contract section 1).
    @ivar posted_at: milliseconds since the epoch.
    """

    function_name: str
    payload: JSONValue
    issues: tuple[str, ...] = ()
    posted_at: int = 0


@define(eq=False)
class Runtime:
    """
    One runtime, as far as everybody may know it.

    @ivar module_auth_token: what its process authenticates with; empty in a seed that leaves it open.
    @ivar opened_at: when it was seeded or its session opened, in milliseconds since the epoch.
    @ivar connected: whether its process has polled since the session was opened.
    @ivar last_poll_at: milliseconds since the epoch.
    @ivar schemas: by function name; L{None} until the runtime posts for the first time.
    """

    runtime_id: str
    module_auth_token: str = field(repr=False)
    opened_at: int = 0
    connected: bool = False
    last_poll_at: int | None = None
    last_schema_post_at: int | None = None
    schemas: dict[str, FunctionSchema] | None = None


def new_module_auth_token() -> str:
    """
    @return: a token for a runtime, in the form of contract section 1.
    """
    return "foundry_module_auth_" + secrets.token_hex(24)
