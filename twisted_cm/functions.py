"""What a runtime made of Python callables does with a job, in whichever way it is handed one."""

from __future__ import annotations

import inspect
import json
import traceback
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeAlias, TypeVar, overload

from .client import ModuleJob
from .jobs import JSONValue

#: What may be a function: it takes the query and returns its result, at once, later, or bit by bit.
Function: TypeAlias = Callable[[Any], Any]

F = TypeVar("F", bound=Function)

_ANYTHING = {"type": "single", "single": {"dataType": {"type": "string", "string": {}}}}


class CallableRuntime(ABC):
    """
    A runtime whose functions are Python callables.

    A function takes the query.  What it returns is posted as JSON, bytes as
    they are.  A generator or an async generator streams, a value at a time.
    If it raises, the result is C{{"exception": "…"}}, as with Foundry's SDKs.

    @ivar calls: the jobs that it was handed, in their order.
    """

    def __init__(
        self,
        runtime_id: str,
        deployed_app_rid: str | None = None,
        *,
        branch: str | None = None,
        display_name: str | None = None,
    ) -> None:
        """
        @param deployed_app_rid: the deployed app to bind it to; L{None} leaves its bindings as they are.
        @param branch: of the deployed app; L{None} for C{master}.
        """
        self.runtime_id = runtime_id
        self.deployed_app_rid = deployed_app_rid
        self.branch = branch
        self.display_name = display_name
        self.calls: list[ModuleJob] = []
        self._functions: dict[str, tuple[Function, JSONValue]] = {}

    @overload
    def function(self, function: F) -> F: ...

    @overload
    def function(self, *, name: str | None = None, schema: JSONValue = None) -> Callable[[F], F]: ...

    def function(self, function: F | None = None, *, name: str | None = None, schema: JSONValue = None) -> Any:
        """
        Decorate a function of the runtime, before it runs or while it does.

        @param name: the query type; the function's own name by default.
        @param schema: its schema, as a runtime posts it; by default it takes anything.
        """
        if function is None:
            return lambda decorated: self._register(decorated, name, schema)
        return self._register(function, name, schema)

    def _register(self, function: F, name: str | None, schema: JSONValue) -> F:
        name = name or function.__name__
        self._functions[name] = (
            function,
            {"functionName": name, "inputs": [], "output": _ANYTHING, **(schema or {})},
        )
        self._functions_changed()
        return function

    @abstractmethod
    def _functions_changed(self) -> None:
        """Post the schemas, if it runs."""

    def _schemas(self) -> JSONValue:
        return [schema for _, schema in self._functions.values()]

    def _invoke(self, job: ModuleJob) -> Any:
        """
        @return: what the function returns, which may have to be awaited.
        """
        if job.query_type not in self._functions:
            known = ", ".join(sorted(self._functions)) or "none"
            raise LookupError(f"runtime {self.runtime_id} has no function {job.query_type}; it has: {known}")
        return self._functions[job.query_type][0](job.query)


def result_content(value: Any) -> bytes | Iterator[bytes] | AsyncIterator[bytes]:
    """
    @param value: what a function returned, awaited.
    @return: what to post; an iterator is to be streamed.
    """
    if inspect.isasyncgen(value):
        return (_encode(each) async for each in value)
    if inspect.isgenerator(value):
        return (_encode(each) for each in value)
    return _encode(value)


def exception_content() -> bytes:
    """
    @return: what to post for a function that has just raised.
    """
    return json.dumps({"exception": traceback.format_exc()}).encode()


def _encode(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value, ensure_ascii=False).encode("utf-8")
