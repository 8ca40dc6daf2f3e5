"""What is logged once, and not each time that it happens."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

#: How many keys are remembered: the latest ones.
REMEMBERED = 1000


class LoggedOnce(Generic[K]):
    """The keys of what has been logged. A key that is forgotten may be logged again."""

    def __init__(self) -> None:
        self._keys: OrderedDict[K, None] = OrderedDict()

    def is_due(self, key: K) -> bool:
        """Return whether to log something, and remember that it is logged."""
        if key in self._keys:
            return False
        self._keys[key] = None
        if len(self._keys) > REMEMBERED:
            self._keys.popitem(last=False)
        return True

    def forget(self, key: K) -> None:
        """Let something be logged again."""
        self._keys.pop(key, None)
