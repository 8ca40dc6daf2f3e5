"""The operations that run inside Redis: the Lua files as one library of functions."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from attrs import frozen

#: The operations that Redis refuses when its memory is full. The others take little or free memory.
_GROWING = frozenset(
    {
        "add_fault",
        "commit",
        "complete",
        "enqueue",
        "put_grant",
        "put_query",
        "put_schemas",
        "put_token",
        "replace_faults",
        "write",
    }
)


@frozen
class Library:
    """The library of one version of the Lua files.

    Attributes:
        name: The name of its function. It contains a hash of the code, so that nodes of two versions can share a Redis
            if they have the same ``FORM`` (``lua/6_nodes.lua``).
        code: What ``FUNCTION LOAD`` takes.
    """

    name: bytes
    code: bytes

    def function(self, operation: str) -> bytes:
        """Return the name of the function to call for an operation."""
        return self.name if operation in _GROWING else self.name + b"_always"


@cache
def library() -> Library:
    """Read the Lua files, in the order of their names."""
    parts = sorted(files(__package__).joinpath("lua").iterdir(), key=lambda each: each.name)
    code = "\n".join(each.read_text("utf-8") for each in parts if each.name.endswith(".lua"))
    name = "twisted_cm_" + hashlib.sha256(code.encode("utf-8")).hexdigest()[:12]
    return Library(name.encode("ascii"), f"#!lua name={name}\n{code.replace('LIBRARY', name)}".encode())
