"""
One emulator process as a node of those that share a Redis.

A node has two connections, one for what it asks and one for what it is told.
If either is lost the other is dropped, and both are made anew, with a new node
id.  Whoever waits on this node stays parked meanwhile, and asks again
afterwards; whoever comes meanwhile gets L{BrokerUnavailable}.
"""

from __future__ import annotations

import hashlib
import json
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import cache
from importlib.resources import files
from typing import Any, TypeAlias

import txredisapi
from attrs import define
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed
from twisted.internet.error import ConnectError
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ...model.types import JSONValue
from ..interface import BrokerUnavailable
from .address import Address

#: Seconds without a heartbeat after which the other nodes take a node for dead.
NODE_LEASE = 5.0


#: Seconds that a call which may be repeated waits for a Redis that has just gone.
PATIENCE = 10.0


#: Seconds that a change waits for every node to have taken notice of it.
NOTICE = 2.0


#: The operations that Redis refuses when it is full; the others take little or make room.
_GROWING = {"add_fault", "commit", "complete", "enqueue", "put_schemas", "put_token", "replace_faults", "write"}


Handler: TypeAlias = Callable[..., None]


@cache
def library() -> tuple[bytes, bytes]:
    """
    @return: the name of the function that every operation goes through, and the code of its library.  Each version
        of the code has a name of its own, so that nodes of two versions can share a Redis.
    """
    parts = sorted(files("twisted_cm.broker.redis").joinpath("lua").iterdir(), key=lambda each: each.name)
    code = "\n".join(each.read_text("utf-8") for each in parts if each.name.endswith(".lua"))
    name = "twisted_cm_" + hashlib.sha256(code.encode("utf-8")).hexdigest()[:12]
    return name.encode("ascii"), f"#!lua name={name}\n{code.replace('LIBRARY', name)}".encode()


#: What may go wrong while a node connects.
_EXPECTED = (ConnectError, TimeoutError, txredisapi.RedisError, BrokerUnavailable, OSError)


class LinkLost(BrokerUnavailable):
    """The connection was lost before the answer: whether it was done is not known."""


class _Commands(txredisapi.RedisProtocol):  # type: ignore[misc]
    """The connection for what a node asks."""

    def __init__(self, node: RedisNode) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._node = node

    def connectionLost(self, why: Failure) -> None:
        # First, since whoever waits for an answer is told by the other, and may ask again.
        self._node._lost(self)
        super().connectionLost(why)


class _News(txredisapi.SubscriberProtocol):  # type: ignore[misc]
    """The connection for what a node is told."""

    def __init__(self, node: RedisNode) -> None:
        super().__init__(charset=None, convertNumbers=False)
        self._node = node

    def connectionLost(self, why: Failure) -> None:
        super().connectionLost(why)
        self._node._news_lost(self)

    def messageReceived(self, pattern: None, channel: bytes, message: bytes) -> None:
        # Bytes that are no UTF-8, as results may be, come out as they were by the same way back.
        kind, *content = json.loads(message.decode("utf-8", "surrogateescape"))
        handler = self._node.handlers.get(kind)
        # A node of a later version may have more to say.
        if handler is not None:
            handler(*content)


def _factory(make: Callable[[], Any]) -> Factory:
    factory = Factory.forProtocol(make)
    factory.noisy = False
    return factory


@define(eq=False)
class _Notice:
    """A change that other nodes are yet to take notice of."""

    version: int
    receivers: int
    done: Deferred[None]


class RedisNode:
    """
    A node, and what the parts over it share.

    @ivar address: where Redis is.
    @ivar node_id: the id of this connection.
    @ivar up: whether operations can be called.
    @ivar handlers: what is called with each message, by its kind.
    @ivar attached: called when the connection is there anew, before anybody else may use it.
    @ivar loaded: called with the registry, as JSON or L{None}, and the faults, whenever they have changed.
    @ivar known: the jobs and streams that this process answers for, as in C{handing:} and C{streams:}.
    """

    _log = Logger()

    def __init__(
        self, reactor: Any, address: Address, clock: IReactorTime | None = None, lease: float = NODE_LEASE
    ) -> None:
        """
        @param reactor: connects.
        @param clock: the time that jobs are measured by, the reactor's by default.
        @param lease: seconds without a heartbeat after which the others take this node for dead.
        """
        self.address = address
        self.clock: IReactorTime = reactor if clock is None else clock
        self.node_id = ""
        self.up = False
        self.version = "0"
        self.limits: dict[str, str] = {}
        self.handlers: dict[str, Handler] = {"version": self._version_changed, "seen": self._seen, "left": self._left}
        self.attached: list[Callable[[], Awaitable[None]]] = []
        self.loaded: list[Callable[[bytes | None, list[bytes]], None]] = []
        self.known: Callable[[], list[str]] = list
        self._reactor = reactor
        self._lease = lease
        self._endpoint = address.endpoint(reactor)
        self._commands: _Commands | None = None
        self._news: _News | None = None
        self._beat: IDelayedCall | None = None
        self._attached_at = 0.0
        self._former_ids: list[str] = []
        self._waiting: list[Deferred[None]] = []
        self._notices: list[_Notice] = []
        self._seen_by: Counter[int] = Counter()
        self._stopped = False
        self._connecting: Deferred[None] = succeed(None)
        self._lost_commands: Deferred[None] = Deferred()
        self._function, self._code = library()
        self._prefix = address.prefix.encode("ascii")

    # The connection

    def start(self) -> Deferred[None]:
        """
        Connect, and stay connected.

        @return: fires when the connection is there, or Redis is not.
        """
        tried: Deferred[None] = Deferred()
        self._connecting = Deferred.fromCoroutine(self._stay_connected(tried))
        self._connecting.addErrback(lambda failure: failure.trap(CancelledError))
        return tried

    async def _stay_connected(self, tried: Deferred[None]) -> None:
        # A ClientService does not bear that a connection is lost while it is being prepared.
        delay = backoffPolicy(0.05, 1.0)
        failures = 0
        while not self._stopped:
            try:
                lost = await self._connect()
            except CancelledError:
                raise
            except Exception as error:
                failures += 1
                if not isinstance(error, _EXPECTED):
                    self._log.failure("while joining the nodes at Redis {address}", address=self.address)
                elif failures == 1:
                    self._log.error(
                        "cannot use Redis at {address}: {error}; trying again until it is there",
                        address=self.address,
                        error=error,
                    )
                if not tried.called:
                    tried.callback(None)
                await deferLater(self._reactor, delay(failures))
            else:
                failures = 0
                if not tried.called:
                    tried.callback(None)
                await lost

    async def _connect(self) -> Deferred[None]:
        """
        @return: fires when the connection that there is now is lost.
        """
        commands: Any = await self._endpoint.connect(_factory(lambda: _Commands(self)))
        self._lost_commands = Deferred()
        attaching = Deferred.fromCoroutine(self._attach(commands))
        await attaching.addTimeout(2 * self._lease, self._reactor)
        return self._lost_commands

    async def _attach(self, commands: Any) -> None:
        self.node_id = secrets.token_hex(6)
        news: Any = None
        try:
            await self._greet(commands)
            await commands.execute_command("FUNCTION", "LOAD", "REPLACE", self._code)
            news = await self._endpoint.connect(_factory(lambda: _News(self)))
            self._commands, self._news = commands, news
            await self._greet(news)
            await news.subscribe([self._key(f"node:{self.node_id}"), self._key("all")])
            lease = str(int(self._lease * 1000))
            former, known = json.dumps(self._former_ids), json.dumps(self.known())
            # Whether it has joined is not known until there is an answer.
            self._former_ids.append(self.node_id)
            await self.send("join", former, lease, json.dumps(self.limits), known)
            self._former_ids = [self.node_id]
            await self.load()
            for ask_again in self.attached:
                await ask_again()
        except BaseException:
            self._commands = self._news = None
            for each in (commands, news):
                if each is not None and each.transport is not None:
                    each.transport.abortConnection()
            raise
        self.up = True
        self._attached_at = self._reactor.seconds()
        self._beat = self._reactor.callLater(self._lease / 5, self._send_beat)
        self._log.info("joined the nodes at Redis {address} as {node_id}", address=self.address, node_id=self.node_id)
        waiting, self._waiting = self._waiting, []
        for parked in waiting:
            parked.callback(None)

    async def _greet(self, protocol: Any) -> None:
        address = self.address
        if address.password is not None:
            user = [address.user] if address.user else []
            await protocol.execute_command("AUTH", *user, address.password)
        if address.db:
            await protocol.execute_command("SELECT", str(address.db))

    def _news_lost(self, news: _News) -> None:
        if news is self._news and self._commands is not None:
            self._commands.transport.abortConnection()

    def _lost(self, commands: _Commands) -> None:
        if commands is not self._commands:
            return
        was_up, self.up = self.up, False
        self._commands = None
        if self._news is not None:
            news, self._news = self._news, None
            news.transport.abortConnection()
        if self._beat is not None and self._beat.active():
            self._beat.cancel()
        self._seen_by.clear()
        notices, self._notices = self._notices, []
        for each in notices:
            each.done.callback(None)
        if was_up:
            if not self._stopped:
                self._log.warn("Redis at {address} is gone; whoever waits stays parked", address=self.address)
            self._lost_commands.callback(None)

    def when_up(self, patience: float | None = PATIENCE) -> Deferred[None]:
        """
        @param patience: seconds.
        @return: fires when operations can be called; with L{BrokerUnavailable} if that takes too long.
        """
        if self.up:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda each: self._waiting.remove(each))
        self._waiting.append(waiting)
        if patience is not None:
            waiting.addTimeout(patience, self._reactor, lambda result, timeout: self._away())
        return waiting

    def _away(self) -> Any:
        raise BrokerUnavailable("Redis cannot be reached")

    def stop(self) -> Deferred[None]:
        """
        Leave the nodes.

        @return: fires when the connections are closed.
        """
        self._stopped = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(BrokerUnavailable("The emulator is shutting down"))
        left: Deferred[Any] = self.call("leave") if self.up else succeed(None)

        def close(_: object) -> Deferred[None]:
            if self._commands is not None and self.up:
                self._drop()
            else:
                self._connecting.cancel()
            return self._connecting

        return left.addErrback(lambda failure: failure.trap(BrokerUnavailable)).addCallback(close)

    # Asking

    def _key(self, name: str) -> bytes:
        return self._prefix + name.encode("utf-8", "surrogatepass")

    def call(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        """
        Have Redis do something, as a whole.

        @return: fires with its answer; with L{BrokerUnavailable} if there is none.
        """
        if not self.up:
            return fail(BrokerUnavailable("Redis cannot be reached"))
        return self.send(operation, *args)

    async def call_again(self, operation: str, *args: str | bytes) -> Any:
        """
        The same with what may be done twice: if the connection is lost before the answer it is done again.
        """
        while True:
            try:
                return await self.call(operation, *args)
            except LinkLost:
                await self.when_up()

    def send(self, operation: str, *args: str | bytes) -> Deferred[Any]:
        """
        The same as L{call}, while this node is still joining, too.
        """
        now = str(int(self.clock.seconds() * 1000))
        function = self._function if operation in _GROWING else self._function + b"_always"
        return self.command("FCALL", function, "0", self._prefix, operation, now, self.node_id, *args)

    def command(self, *args: str | bytes) -> Deferred[Any]:
        """
        The same with a plain command of Redis.
        """
        if self._commands is None:
            return fail(BrokerUnavailable("Redis cannot be reached"))
        encoded = (each.encode("utf-8", "surrogatepass") if isinstance(each, str) else each for each in args)
        asked: Deferred[Any] = self._commands.execute_command(*encoded)
        return asked.addErrback(self._refused)

    def get(self, name: str, start: int, end: int) -> Deferred[bytes]:
        """
        @return: the bytes from C{start} to C{end}, that one included, of what is kept under C{name}.
        """
        return self.command("GETRANGE", self._key(name), str(start), str(end))

    def _refused(self, failure: Failure) -> Any:
        if failure.check(txredisapi.ConnectionError):
            raise LinkLost("Redis cannot be reached") from None
        if failure.check(txredisapi.ResponseError):
            text = failure.getErrorMessage()
            if text.split(" ")[0] not in ("OOM", "LOADING", "MISCONF", "READONLY", "BUSY", "MASTERDOWN"):
                self._log.failure("Redis refused", failure)
            raise BrokerUnavailable(f"Redis refused: {text}") from None
        return failure

    # Being one of several

    def _send_beat(self) -> None:
        settled = self._reactor.seconds() - self._attached_at > self._lease
        beat = self.call("beat", str(int(self._lease * 1000)), "1" if settled else "0")
        late = self._reactor.callLater(self._lease, self._drop)

        def answered(result: Any) -> None:
            if late.active():
                late.cancel()
            if isinstance(result, Failure) and not self.up:
                return
            if result == 0:
                self._log.warn("the other nodes took this one for dead; joining anew")
                self._drop()
                return
            if result == 2:
                self.handlers["inherited"]()
            self._beat = self._reactor.callLater(self._lease / 5, self._send_beat)

        beat.addBoth(answered)

    def _drop(self) -> None:
        if self._commands is not None:
            self._commands.transport.abortConnection()

    def _left(self, other: str) -> None:
        if other != self.node_id and self.up:
            self.call("inherit", other).addCallbacks(
                lambda result: self.handlers["inherited"]() if result == 2 else None, _ignore
            )

    # What every node keeps a copy of

    async def load(self) -> None:
        """Read the registry and the faults."""
        version, registry, faults = await self.send("load")
        self.version = version.decode("ascii")
        for each in self.loaded:
            each(registry, faults)

    def _version_changed(self, version: int, writer: str) -> None:
        def seen(_: None) -> None:
            self.send("seen", str(version), writer).addErrback(_ignore)

        Deferred.fromCoroutine(self.load()).addCallbacks(seen, _ignore)

    def _seen(self, version: int) -> None:
        # It may come before the answer to the operation itself.
        self._seen_by[version] += 1
        for each in list(self._notices):
            if self._seen_by[each.version] >= each.receivers:
                self._forget_notice(each)
                each.done.callback(None)

    def _forget_notice(self, notice: _Notice) -> None:
        self._notices.remove(notice)
        del self._seen_by[notice.version]

    def noticed(self, reply: list[int]) -> Deferred[None]:
        """
        @param reply: what an operation that has changed the registry or the faults returned.
        @return: fires when every node acts on it.
        """
        version, receivers = reply
        if self._seen_by[version] >= receivers:
            del self._seen_by[version]
            return succeed(None)
        notice = _Notice(version, receivers, Deferred(lambda _: self._forget_notice(notice)))
        self._notices.append(notice)
        # A node that hangs is not waited for.
        return notice.done.addTimeout(NOTICE, self._reactor, lambda result, timeout: None)


def _ignore(failure: Failure) -> None:
    """Redis is away, and all is asked anew when it is back."""
    failure.trap(BrokerUnavailable)


def text(value: bytes | str) -> str:
    """
    @return: what Redis returned, or published, as text.
    """
    if isinstance(value, str):
        if value.isascii():
            return value
        value = value.encode("utf-8", "surrogateescape")
    return value.decode("utf-8", "surrogatepass")


def to_json(value: JSONValue) -> str:
    """
    @return: JSON in ASCII, which says half a surrogate pair too.
    """
    return json.dumps(value, separators=(",", ":"))
