"""One emulator process as one of the nodes that share a Redis."""

from __future__ import annotations

import json
import secrets
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..timers import cancel_timer
from .address import Address
from .connection import PATIENCE, Connection, LinkLost, ignore_outage
from .library import library
from .notices import Notices

#: Seconds without a heartbeat after which the other nodes consider a node dead.
NODE_LEASE = 5.0

#: A node sends so many heartbeats in its lease.
BEATS = 5

#: An operation whose connection is lost before its answer is sent so many times at most.
REPEATS = 5

Handler: TypeAlias = Callable[..., None]


class RedisNode:
    """A node: calls the operations in Redis, sends heartbeats, and hears what is published to it.

    Each time the connection is made, the node joins with a new id. Requests that are parked on this node stay parked
    while Redis is away, and are repeated when it is back; new operations fail with
    :class:`~twisted_cm.broker.interface.BrokerUnavailable` meanwhile.

    Attributes:
        address: Where Redis is.
        clock: The time in which jobs are measured.
        reactor: Connects, and keeps the time of what is between this node and Redis.
        node_id: The id under which the node has joined last.
        lease: Seconds without a heartbeat after which the other nodes consider this one dead.
        version: The version of the registry and the faults that were loaded last.
        connection: The connection to Redis.
        limits: The limits of jobs, by name, that this node sets when it joins.
        job_lease: Seconds of a job's lease, the same for all nodes; ``None`` if jobs have no lease.
        job_key: The key of the tokens of jobs, the same for all nodes once this one has joined.
        handlers: What to call with a notice, by its kind. Its values are bytes if it came with a reply, and strings if
            it was published.
        attached: What to call when the connection has been made, before other parts may use it.
        joined: What to call when operations can be called.
        loaded: What to call with the registry (JSON, or ``None``) and the faults whenever they have changed.
        known: Returns what this process answers for, in the form of the members of ``handing:`` and ``streams:``.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, address: Address, clock: IReactorTime | None = None, lease: float = NODE_LEASE
    ) -> None:
        """Connect nothing yet.

        Args:
            reactor: Connects, and times heartbeats.
            clock: The time in which jobs are measured; the reactor's by default.
        """
        self.address = address
        self.clock: IReactorTime = reactor if clock is None else clock
        self.node_id = ""
        self.lease = lease
        self.version = "0"
        self.limits: dict[str, str] = {}
        self.keeps_limits = False
        self.job_lease: float | None = None
        self.job_key = secrets.token_hex(32).encode("ascii")
        self.attached: list[Callable[[], Awaitable[None]]] = []
        self.joined: list[Callable[[], None]] = []
        self.loaded: list[Callable[[bytes | None, list[bytes]], None]] = []
        self.known: Callable[[], list[str]] = list
        self.connection = Connection(reactor, address, 2 * lease, self._join, self._joined, self._heard, self._lost)
        self.reactor = reactor
        self._notices = Notices(reactor)
        self.handlers: dict[str, Handler] = {
            "version": self._version_changed,
            "seen": self._notices.seen,
            "beat": self._beat_heard,
            "lease": self._lease_changed,
            "left": self._left,
        }
        self._beat: IDelayedCall | None = None
        self._deaf: IDelayedCall | None = None
        self._joined_at = 0.0
        self._alive_at = 0.0
        self._former_ids: list[str] = []
        self._prefix = address.prefix.encode("ascii")
        self._first_words: dict[str, tuple[str | bytes, ...]] = {}

    @property
    def up(self) -> bool:
        """Whether the node has joined, so that operations can be called."""
        return self.connection.up

    @property
    def stale(self) -> bool:
        """Whether the other nodes may consider this one dead: it was suspended, or too busy to send heartbeats."""
        silent_for: float = self.reactor.seconds() - self._alive_at
        return silent_for > self.lease

    @property
    def in_touch(self) -> bool:
        """Whether Redis has answered one of the last two heartbeats."""
        silent_for: float = self.reactor.seconds() - self._alive_at
        return self.up and silent_for <= 2 * self.lease / BEATS

    def start(self) -> Deferred[None]:
        """Connect, join the nodes, and do so again whenever the connection is lost.

        Returns:
            A Deferred that fires after the first attempt, whether it succeeded or not.
        """
        return self.connection.start()

    def when_up(self, patience: float | None = PATIENCE) -> Deferred[None]:
        """Wait until operations can be called: see :meth:`.Connection.when_up`."""
        return self.connection.when_up(patience)

    def ready(self) -> Deferred[None]:
        """Return a Deferred that has fired if operations can be called, and has failed if not."""
        return self.connection.ready()

    def drop_link(self) -> None:
        """Drop the connection, as a failing network would. The node connects again with a new id."""
        self.connection.drop()

    def stop(self) -> Deferred[None]:
        """Leave the nodes.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        left: Deferred[Any] = self.call("leave") if self.up else succeed(None)
        return left.addErrback(ignore_outage).addCallback(lambda _: self.connection.close())

    # Operations

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode("utf-8", "surrogatepass")

    def call(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        """Run an operation in Redis, as a whole.

        Returns:
            A Deferred that fires with the answer and fails with
            :class:`~twisted_cm.broker.interface.BrokerUnavailable` if there is none.
        """
        return self.send(operation, *args) if self.up else self.ready()

    def call_again(self, operation: str, *args: str | bytes, repeats: int = REPEATS) -> Deferred[Any]:
        """Run an operation that may run twice: if the connection is lost before the answer, run it again.

        It runs ``repeats`` times at most, because it may be the reason why the connection is lost.
        """

        def again(failure: Failure) -> Deferred[Any] | Failure:
            if repeats == 1 or not failure.check(LinkLost):
                return failure
            return self.when_up().addCallback(lambda _: self.call_again(operation, *args, repeats=repeats - 1))

        return self.call(operation, *args).addErrback(again)

    def send(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        """Run an operation like :meth:`call`, also while this node is still joining."""
        return self.connection.command(*self._words(operation), *args)

    def send_soon(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        """Run an operation like :meth:`send`, together with the next command if one follows soon."""
        return self.connection.command(*self._words(operation), *args, soon=True)

    def _words(self, operation: str) -> tuple[str | bytes, ...]:
        """Return the words of a command that runs an operation, without the operation's own arguments."""
        words = self._first_words.get(operation)
        if words is None:
            words = "FCALL", library().function(operation), "0", self._prefix, operation
            self._first_words[operation] = words
        return *words, str(int(self.clock.seconds() * 1000)), self.node_id

    def command(self, *args: str | bytes) -> Deferred[Any]:
        """Run a plain command of Redis."""
        return self.connection.command(*args)

    def get(self, name: str, start: int, end: int) -> Deferred[bytes]:
        """Read the bytes from ``start`` to ``end``, inclusive, of what is kept under ``name``."""
        return self.command("GETRANGE", self._key(name), str(start), str(end))

    # Membership

    async def _join(self) -> None:
        self.node_id = secrets.token_hex(6)
        for channel in (f"node:{self.node_id}", "all"):
            await self.connection.subscribe(self._key(channel))
        lease = str(int(self.lease * 1000))
        former, known = json.dumps(self._former_ids), json.dumps(self.known())
        # If the answer gets lost, the node may have joined under this id.
        self._former_ids.append(self.node_id)
        self._alive_at = self.reactor.seconds()
        keeps_limits = "1" if self.keeps_limits else "0"
        joined = await self.send("join", former, lease, json.dumps(self.limits), known, keeps_limits, self.job_key)
        job_lease, self.job_key = joined
        self.job_lease = None if job_lease is None else float(job_lease)
        self._former_ids = [self.node_id]
        await self.load()
        for ask_again in self.attached:
            await ask_again()
        self._joined_at = self.reactor.seconds()
        self._beat = self.reactor.callLater(self.lease / BEATS, self._send_beat)
        self._log.info("joined the nodes at Redis {address} as {node_id}", address=self.address, node_id=self.node_id)

    def _joined(self) -> None:
        for go_on in self.joined:
            go_on()

    def _lost(self) -> None:
        cancel_timer(self._beat)
        self._beat_heard()
        self._notices.clear()

    def _send_beat(self) -> None:
        # After Redis was away all heartbeats are missing; the other nodes need time to send theirs.
        settled = self.reactor.seconds() - self._joined_at > self.lease
        sent_at = self.reactor.seconds()
        beat = self.call("beat", str(int(self.lease * 1000)), "1" if settled else "0")
        late = self.reactor.callLater(self.lease, self.drop_link)
        if self._deaf is None:
            # Redis publishes each heartbeat to its node: a connection for publications may be lost and still look open.
            self._deaf = self.reactor.callLater(self.lease, self._hears_nothing)

        def answered(result: Any) -> None:
            cancel_timer(late)
            if isinstance(result, Failure) and not self.up:
                return
            if result == 0:
                self._log.warn("this node's heartbeat was late, and the others may consider it dead; joining again")
                self.drop_link()
                return
            if isinstance(result, Failure):
                # Redis refused the heartbeat and published nothing.
                self._beat_heard()
            else:
                self._alive_at = sent_at
            self._inherited(result)
            self._beat = self.reactor.callLater(self.lease / BEATS, self._send_beat)

        beat.addBoth(answered)

    def _beat_heard(self) -> None:
        cancel_timer(self._deaf)
        self._deaf = None

    def _hears_nothing(self) -> None:
        self._log.warn("no publication arrives from Redis; joining again")
        self.drop_link()

    def _left(self, other: str) -> None:
        if other != self.node_id and self.up:
            self.call("inherit", other).addCallbacks(self._inherited, ignore_outage)

    def _lease_changed(self, job_lease: str | bool) -> None:
        self.job_lease = float(job_lease) if isinstance(job_lease, str) else None
        self.handlers["inherited"]()

    def _inherited(self, result: Any) -> None:
        if result == 2:
            self.handlers["inherited"]()

    # Notices

    def _heard(self, notice: list[Any]) -> None:
        kind = notice[0]
        handler = self.handlers.get(kind.decode("ascii") if isinstance(kind, bytes) else kind)
        # A node of a later version may publish more kinds.
        if handler is not None:
            handler(*notice[1:])

    async def load(self) -> None:
        """Read the registry and the faults, of which every node keeps a copy."""
        version, registry, faults = await self.send("load")
        self.version = version.decode("ascii")
        for each in self.loaded:
            each(registry, faults)

    def _version_changed(self, version: int, writer: str) -> None:
        def seen(_: None) -> None:
            self.send("seen", str(version), writer).addErrback(ignore_outage)

        Deferred.fromCoroutine(self.load()).addCallbacks(seen, ignore_outage)

    def noticed(self, reply: list[int]) -> Deferred[None]:
        """Wait until every node acts on a change of the registry or the faults.

        Args:
            reply: What the operation that made the change returned.
        """
        version, receivers = reply
        return self._notices.expect(version, receivers)
