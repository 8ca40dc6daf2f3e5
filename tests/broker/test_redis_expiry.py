"""What expires on Redis by itself, and what does not."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver
from node_fixtures import Nodes

pytestmark = pytest.mark.beside_the_reactor


@pytest.mark.parametrize("size", [64 * 1024 + 1, 256 * 1024, 600 * 1024])
def test_the_parts_of_a_result_expire_until_they_belong_to_a_job(nodes: Nodes, size: int) -> None:
    """A post that breaks off leaves parts behind. Those of a result are kept as long as its job."""
    driver = Driver(nodes)
    job = driver.submit()
    driver.take()
    result = driver.result(job, b"x" * size)
    nodes.settle()

    def seconds_left() -> list[int]:
        keys = nodes.server.command("KEYS", "twisted-cm:0:body:*").split(b"\r\n")[2::2]
        return [int(nodes.server.command("TTL", key.decode())[1:]) for key in keys]

    abandoned = seconds_left()
    assert abandoned and all(0 < seconds <= 3600 for seconds in abandoned)
    driver.get(driver.broker.complete(job.job_id, result))
    # Redis answers -1 for a key that never expires.
    kept = seconds_left()
    assert len(kept) >= len(abandoned) and set(kept) == {-1}
    assert driver.content(driver.now(job)) == b"x" * size
