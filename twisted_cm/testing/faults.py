"""Add each kind of fault with a method of its own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from types import TracebackType
from typing import Any, Generic, Literal, TypedDict, TypeVar

from typing_extensions import Self, Unpack

from ..client.errors import NotFound
from ..model.faults import FaultKind, FaultPlan, describe_plan
from ..model.types import JSONValue

FaultT = TypeVar("FaultT")


class FaultOptions(TypedDict, total=False):
    """How often a fault happens, and to which runtime.

    Attributes:
        count: How many times it happens; by default, there is no limit.
        runtime_id: The runtime it affects; by default, all.
        probability: The probability that it happens at each opportunity; 1 by default.
        random_seed: The seed of the random decisions; by default, they differ in each run.
    """

    count: int | None
    runtime_id: str | None
    probability: float
    random_seed: int | None


class JobFaultOptions(FaultOptions, total=False):
    """The options of a fault that is about a job.

    Attributes:
        function: The function it affects; by default, all.
    """

    function: str | None


class Faults(Generic[FaultT]):
    """Makes things go wrong: one method for each kind of fault.

    A fault lasts until it has happened ``count`` times, or until the emulator is reset to its seed. A ``with`` block
    limits it to the block::

        with emulator.faults.delay_result(seconds=0.5, function="add"):
            ...

    In the reactor, the fault is awaited, or limited to a block with ``async with``::

        await emulator.faults.drop_job(count=1)

    All methods take the keyword arguments ``count``, ``runtime_id``, ``probability`` and ``random_seed``: see
    :class:`FaultOptions`. Those that are about a job also take ``function``.

    Raises:
        InvalidRequest: A value is not valid, for example a negative delay.
    """

    def __init__(self, add: Callable[[dict[str, JSONValue]], FaultT]) -> None:
        self._add = add

    def delay_dispatch(self, *, seconds: float, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Let jobs reach the module late.

        Args:
            seconds: The delay.
        """
        return self._plan(FaultKind.DELAY_DISPATCH, seconds=seconds, **options)

    def delay_result(self, *, seconds: float, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Accept results late.

        Args:
            seconds: The delay.
        """
        return self._plan(FaultKind.DELAY_RESULT, seconds=seconds, **options)

    def fail_job(self, *, message: str | None = None, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Let jobs fail before a module gets them.

        Args:
            message: The error message of each job.
        """
        return self._plan(FaultKind.FAIL_JOB, message=message, **options)

    def drop_job(self, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Accept jobs and never dispatch them."""
        return self._plan(FaultKind.DROP_JOB, **options)

    def poll_error(self, *, status: Literal[401, 500] = 500, **options: Unpack[FaultOptions]) -> FaultT:
        """Answer polls with an error.

        Args:
            status: The status of the answer.
        """
        return self._plan(FaultKind.POLL_ERROR, status=status, **options)

    def cut_result(self, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Cut the connection of the caller in the middle of a result."""
        return self._plan(FaultKind.CUT_RESULT, **options)

    def duplicate_delivery(self, **options: Unpack[JobFaultOptions]) -> FaultT:
        """Hand jobs to the next poll as well, so that they run twice."""
        return self._plan(FaultKind.DUPLICATE_DELIVERY, **options)

    def expire_token(self, **options: Unpack[FaultOptions]) -> FaultT:
        """Refuse the module auth token."""
        return self._plan(FaultKind.EXPIRE_TOKEN, **options)

    def _plan(self, kind: FaultKind, **fields: Any) -> FaultT:
        return self._add(describe_plan(FaultPlan(kind, **fields)))


class ActiveFault:
    """A fault of an emulator in a process. In a ``with`` block, it is removed at the end of the block.

    Attributes:
        fault_id: The id of the fault.
    """

    def __init__(self, fault_id: str, remove: Callable[[str], object]) -> None:
        self.fault_id = fault_id
        self._remove = remove

    def remove(self) -> None:
        """Remove the fault, unless a reset has removed it."""
        with suppress(NotFound):
            self._remove(self.fault_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self.remove()


class ActiveFaultInReactor:
    """A fault of an emulator in the reactor. In an ``async with`` block, it is removed at the end of the block.

    Attributes:
        fault_id: The id of the fault.
    """

    def __init__(self, fault_id: str, remove: Callable[[str], Awaitable[object]]) -> None:
        self.fault_id = fault_id
        self._remove = remove

    async def remove(self) -> None:
        """Remove the fault, unless a reset has removed it."""
        with suppress(NotFound):
            await self._remove(self.fault_id)


class FaultToAdd:
    """A fault that is added when this is awaited, or for the time of an ``async with`` block."""

    def __init__(self, add: Callable[[], Awaitable[ActiveFaultInReactor]]) -> None:
        self._add = add
        self._active: ActiveFaultInReactor | None = None

    def __await__(self) -> Generator[Any, Any, ActiveFaultInReactor]:
        return self._add().__await__()

    async def __aenter__(self) -> ActiveFaultInReactor:
        self._active = await self._add()
        return self._active

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._active is not None
        await self._active.remove()
