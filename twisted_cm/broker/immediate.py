"""Deferreds of a broker that answers at once."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from twisted.internet.defer import Deferred, fail, succeed

from .interface import BrokerError

P = ParamSpec("P")
R = TypeVar("R")


def immediate(method: Callable[P, R]) -> Callable[P, Deferred[R]]:
    """Wrap what a method returns or raises in the Deferred that the interface promises."""

    @wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> Deferred[R]:
        try:
            return succeed(method(*args, **kwargs))
        except BrokerError as error:
            return fail(error)

    return wrapper
