"""What every group of routes is made with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from attrs import frozen
from twisted.internet.interfaces import IReactorTime

from ..broker.faults import IFaultBook
from ..broker.interface import IBroker
from ..metrics import Metrics
from ..model.addresses import Addresses
from ..model.limits import Limits
from .browsers import BrowserGuard
from .credentials import Credentials
from .held_replicas import HeldReplicas
from .passing.upstream import Upstream
from .queries.catalog import Catalog
from .refused_polls import RefusedPolls
from .supervision import Supervision
from .unchecked_queries import UncheckedQueries
from .workers import Workers


@frozen
class Context:
    """What the routes of one listener share.

    Attributes:
        reset: Goes back to the seed; ``True`` keeps the modules of its runtimes connected.
        readiness: Tells of each part of the emulator whether it can do its work.
        validate_queries: Whether each query is checked against its function's schema before it is queued.
        unchecked_queries: Says of queries that they are not checked.
        refused_polls: The polls whose tokens are not valid.
        held_replicas: The replicas that end with the commands that run them.
        workers: Do what would take the reactor too long.
        started_at: When the emulator began to serve, in milliseconds since the epoch.
        upstream: Sends what is passed on.
        supervision: Starts the processes of modules.
        catalog: Finds queries by their names.
    """

    reactor: IReactorTime
    broker: IBroker
    credentials: Credentials
    limits: Limits
    addresses: Addresses
    faults: IFaultBook
    reset: Callable[[bool], Awaitable[None]]
    guard: BrowserGuard
    metrics: Metrics
    readiness: Callable[[], Awaitable[Mapping[str, bool]]]
    validate_queries: bool
    unchecked_queries: UncheckedQueries
    refused_polls: RefusedPolls
    held_replicas: HeldReplicas
    workers: Workers
    started_at: int
    upstream: Upstream
    supervision: Supervision
    catalog: Catalog
