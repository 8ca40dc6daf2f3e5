"""How a process stays connected to Redis.

There are two connections: one for commands, one for publications. If either is lost the other is dropped, and both are
made again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from hiredis import HiredisError, ReplyError
from twisted.application.internet import backoffPolicy
from twisted.internet.defer import CancelledError, Deferred, TimeoutError, fail, succeed
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Factory
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from ..interface import BrokerUnavailable
from .address import Address
from .library import library
from .link import Link, Subscriber

#: Seconds that :meth:`Connection.when_up` waits by default for a Redis that has just gone.
PATIENCE = 10.0

#: Seconds until a command that Redis refused is repeated, if it only reads.
REFUSAL_PAUSE = 0.5

#: What may go wrong while connecting.
_EXPECTED = (ConnectError, ConnectionClosed, TimeoutError, HiredisError, BrokerUnavailable, OSError)

#: A connection that was lost sooner than this many seconds after it was made is not made again at once.
_STABLE = 1.0

#: How Redis begins the refusal of a command for which it has no memory. It accepts other commands.
_FULL = "OOM "

#: How Redis begins the refusals that it gives to every command of the emulator, until someone changes that.
_UNUSABLE = (
    "BUSY ",
    "LOADING ",
    "MASTERDOWN ",
    "MISCONF ",
    "NOAUTH ",
    "NOPERM ",
    "NOREPLICAS ",
    "OTHERFORM ",
    "READONLY ",
    "ERR Function not found",
)


class Refused(BrokerUnavailable):
    """Redis refused a command, for example because it is full or busy. The command changed nothing."""


class RedisAway(BrokerUnavailable):
    """There is no connection to Redis."""

    def __init__(self) -> None:
        super().__init__("Redis cannot be reached")


class LinkLost(RedisAway):
    """The connection was lost before the answer arrived. Redis may or may not have run the command."""


def ignore_outage(failure: Failure) -> None:
    """Ignore that Redis is away, where everything is asked again when it is back.

    This is an errback: any other failure passes.
    """
    failure.trap(BrokerUnavailable)


def _factory(make: Callable[[], Any]) -> Factory:
    factory = Factory.forProtocol(make)
    factory.noisy = False
    return factory


class Connection:
    """The connection to a Redis, which is made again whenever it is lost.

    Attributes:
        address: Where Redis is.
        up: Whether the connection is there and prepared.
    """

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        address: Address,
        timeout: float,
        prepare: Callable[[], Awaitable[None]],
        prepared: Callable[[], None],
        heard: Callable[[list[Any]], None],
        lost: Callable[[], None],
    ) -> None:
        """Connect nothing yet.

        Args:
            reactor: Connects, and keeps the time.
            timeout: Seconds after which a connection that is not prepared is dropped.
            prepare: Called with each new connection, before it counts as up.
            prepared: Called when it counts as up.
            heard: Called with each notice: what happened, and more about it. Notices of what this process does itself
                come with replies; others are published.
            lost: Called when a connection is lost.
        """
        self.address = address
        self.up = False
        self._reactor = reactor
        self._timeout = timeout
        self._prepare = prepare
        self._prepared = prepared
        self._heard = heard
        self._lost = lost
        self._endpoint = address.endpoint(reactor)
        self._commands: Link | None = None
        self._publications: Subscriber | None = None
        self._waiting: list[Deferred[None]] = []
        self._closed = False
        self._connecting: Deferred[None] = succeed(None)
        self._commands_lost: Deferred[None] = Deferred()

    def start(self) -> Deferred[None]:
        """Connect and stay connected.

        Returns:
            A Deferred that fires after the first attempt, whether it succeeded or not.
        """
        tried: Deferred[None] = Deferred()
        self._connecting = Deferred.fromCoroutine(self._stay_connected(tried))
        self._connecting.addErrback(lambda failure: failure.trap(CancelledError))
        return tried

    async def _stay_connected(self, tried: Deferred[None]) -> None:
        # ClientService does not support that a connection is lost while it is being prepared.
        delay = backoffPolicy(0.05, 1.0)
        failures = 0
        while not self._closed:
            try:
                lost = await self._connect()
            except CancelledError:
                raise
            except Exception as error:
                if self._closed:
                    # The endpoint fails with an error of its own when it is cancelled.
                    return
                failures += 1
                if not isinstance(error, _EXPECTED):
                    self._log.failure("unexpected error while joining the nodes at {address}", address=self.address)
                elif failures == 1:
                    self._log.error(
                        "cannot use Redis at {address}: {error}; retrying until it can be used",
                        address=self.address,
                        error=error,
                    )
                if not tried.called:
                    tried.callback(None)
                await deferLater(self._reactor, delay(failures))
            else:
                connected_at = self._reactor.seconds()
                if not tried.called:
                    tried.callback(None)
                await lost
                failures = failures + 1 if self._reactor.seconds() - connected_at < _STABLE else 0
                if failures and not self._closed:
                    await deferLater(self._reactor, delay(failures))

    async def _connect(self) -> Deferred[None]:
        """Make both connections; return a Deferred that fires when they are lost."""
        commands: Any = await self._endpoint.connect(
            _factory(lambda: Link(self._reactor, self._heard, self._commands_gone))
        )
        self._commands_lost = Deferred()
        attaching = Deferred.fromCoroutine(self._attach(commands))
        await attaching.addTimeout(self._timeout, self._reactor)
        return self._commands_lost

    async def _attach(self, commands: Any) -> None:
        publications: Any = None
        try:
            await self.greet(commands)
            await self._load_library(commands)
            publications = await self._endpoint.connect(
                _factory(lambda: Subscriber(self._reactor, self._heard, self._publications_gone))
            )
            self._commands, self._publications = commands, publications
            await self.greet(publications)
            await self._prepare()
        except BaseException:
            self._commands = self._publications = None
            for each in (commands, publications):
                if each is not None and each.transport is not None:
                    each.transport.abortConnection()
            raise
        self.up = True
        waiting, self._waiting = self._waiting, []
        for parked in waiting:
            parked.callback(None)
        self._prepared()

    async def _load_library(self, commands: Any) -> None:
        # A Redis whose memory is full refuses to load what it has already.
        if not await commands.command("FUNCTION", "LIST", "LIBRARYNAME", library().name):
            await commands.command("FUNCTION", "LOAD", "REPLACE", library().code)

    async def greet(self, protocol: Any) -> None:
        """Authenticate a new connection and select the database."""
        address = self.address
        if address.password is not None:
            user = [address.user] if address.user else []
            await protocol.command("AUTH", *user, address.password)
        if address.db:
            await protocol.command("SELECT", str(address.db))

    def _publications_gone(self, publications: Link) -> None:
        if publications is self._publications:
            self.drop()

    def _commands_gone(self, commands: Link) -> None:
        if commands is not self._commands:
            return
        was_up = self.up
        self._let_go()
        if was_up:
            if not self._closed:
                self._log.warn("lost Redis at {address}; parked requests wait for it", address=self.address)
            self._commands_lost.callback(None)

    def _let_go(self) -> None:
        """Send no more commands, and hear no more publications."""
        self.up = False
        self._commands = None
        if self._publications is not None:
            publications, self._publications = self._publications, None
            publications.transport.abortConnection()
        self._lost()

    def drop(self) -> None:
        """Drop the connection; it is made again."""
        if self._commands is not None:
            self._commands.transport.abortConnection()

    def close(self) -> Deferred[None]:
        """Drop the connection for good.

        Returns:
            A Deferred that fires when the connection is closed.
        """
        self._closed = True
        waiting, self._waiting = self._waiting, []
        for each in waiting:
            each.errback(BrokerUnavailable("The emulator is shutting down"))
        if self.up:
            self.drop()
        else:
            self._connecting.cancel()
        return self._connecting

    def ready(self) -> Deferred[None]:
        """Return a Deferred that has fired if the connection is up, and has failed with :class:`RedisAway` if not."""
        return succeed(None) if self.up else fail(RedisAway())

    def when_up(self, patience: float | None = PATIENCE) -> Deferred[None]:
        """Wait until the connection is up.

        Args:
            patience: Seconds to wait; ``None`` to wait forever.

        Returns:
            A Deferred that fires when the connection is up, and fails with :class:`RedisAway` when that takes too long.
        """
        if self.up:
            return succeed(None)
        waiting: Deferred[None] = Deferred(lambda each: self._waiting.remove(each))
        self._waiting.append(waiting)
        if patience is not None:
            waiting.addTimeout(patience, self._reactor, _out_of_patience)
        return waiting

    def when_usable(self, failure: Failure, patience: float) -> Deferred[None]:
        """Wait until it makes sense to repeat a command that only reads.

        Args:
            failure: How the command failed.
            patience: Seconds to wait for a connection.

        Returns:
            A Deferred that fires when the connection is up, at once or, if Redis refused the command, after a pause. It
            fails with :class:`RedisAway` when a connection takes too long.
        """
        if failure.check(Refused):
            paused: Deferred[None] = deferLater(self._reactor, REFUSAL_PAUSE)
            return paused
        return self.when_up(patience)

    def command(self, *args: str | bytes, soon: bool = False) -> Deferred[Any]:
        """Send a command: see :meth:`.Link.command`.

        Returns:
            A Deferred that fires with the answer. It fails with :class:`RedisAway` if there is no connection, with
            :class:`Refused` if Redis refuses the command, and with :class:`LinkLost` if the connection is lost before
            the answer.
        """
        commands = self._commands
        if commands is None:
            return fail(RedisAway())
        return commands.command(*args, soon=soon).addErrback(self._refused, commands)

    def subscribe(self, channel: bytes) -> Deferred[Any]:
        """Subscribe to a channel, while the connection is being prepared."""
        assert self._publications is not None
        return self._publications.command("SUBSCRIBE", channel)

    def _refused(self, failure: Failure, commands: Link) -> Any:
        if failure.check(ConnectionClosed):
            raise LinkLost from None
        if failure.check(ReplyError):
            message = failure.getErrorMessage()
            if message.startswith("NOTMEMBER"):
                # The operation was not run. It can run when the node has joined again.
                self.drop()
                raise LinkLost from None
            if message.startswith(_UNUSABLE):
                self._stop_using(commands, message)
            elif not message.startswith(_FULL):
                self._log.failure("Redis refused a command", failure)
            raise Refused(f"Redis refused: {message}") from None
        return failure

    def _stop_using(self, commands: Link, reason: str) -> None:
        """Drop a connection on which Redis refuses everything.

        While the connection is made again, everything that is parked waits as if Redis were away, and is asked again
        when Redis accepts commands.
        """
        if not self.up or commands is not self._commands:
            return
        self._log.warn(
            "Redis at {address} refuses to work: {reason} Parked requests wait for it.",
            address=self.address,
            reason=reason,
        )
        lost = self._commands_lost
        self._let_go()

        def drained(_: Any) -> None:
            commands.transport.abortConnection()
            lost.callback(None)

        # Redis answers in order: commands that are on their way get their own refusals before this one.
        commands.command("PING").addTimeout(self._timeout, self._reactor).addBoth(drained)


def _out_of_patience(result: Any, timeout: float) -> Any:
    raise RedisAway
