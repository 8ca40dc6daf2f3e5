"""Writing a long query to Redis.

One command with a long query would keep this process busy for as long as it copies the query, and then Redis. So a long
query is written in pieces, before its job is queued.
"""

from __future__ import annotations

from contextlib import suppress

from twisted.internet.defer import Deferred

from ..interface import BrokerUnavailable
from .node import RedisNode

#: The most bytes of a query that are part of the operation that queues its job, and of one piece of a longer query.
PIECE = 1024 * 1024


def write_query(node: RedisNode, job_id: str, query: bytes) -> Deferred[bytes]:
    """Write a long query for the job that is queued next.

    Returns:
        A Deferred that fires with the query as an argument of ``enqueue``, which is empty, since it has been written.
        It fails with :class:`~twisted_cm.broker.interface.BrokerUnavailable` if Redis cannot be reached, or has no room
        for it.
    """
    return Deferred.fromCoroutine(_write(node, job_id, query))


async def _write(node: RedisNode, job_id: str, query: bytes) -> bytes:
    try:
        # From its end: with the first piece, Redis makes room for the whole query.
        for start in reversed(range(0, len(query), PIECE)):
            await node.call_again("put_query", job_id, str(start), query[start : start + PIECE])
    except Exception:
        with suppress(BrokerUnavailable):
            await node.call("drop_query", job_id)
        raise
    return b""
