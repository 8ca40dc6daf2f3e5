"""Which calls a broker refuses, on each kind of broker."""

from __future__ import annotations

import pytest
from broker_fixtures import Driver, submission

from twisted_cm.broker.interface import BrokerStopped, UnknownJob, UnknownRuntime

pytestmark = pytest.mark.beside_the_reactor


def test_stop_answers_everybody_and_takes_no_more(driver: Driver) -> None:
    driver.session("idle")
    poll = driver.park(30, "idle")
    caller = driver.call(driver.submit())
    driver.get(driver.broker.stop())
    assert driver.get(poll) is None
    for refused in (caller, driver.broker.enqueue("r", submission())):
        with pytest.raises(BrokerStopped):
            driver.get(refused)
    assert driver.brokers.timers() == []


def test_nobody_is_found_who_is_not_there(driver: Driver) -> None:
    for asked in (
        driver.broker.poll("nobody", 1),
        driver.broker.enqueue("nobody", submission()),
        driver.broker.runtime("nobody"),
        driver.broker.snapshot("nobody"),
        driver.broker.restart("nobody"),
        driver.broker.delete_runtime("nobody"),
    ):
        with pytest.raises(UnknownRuntime):
            driver.get(asked)
    driver.session("other")
    theirs = driver.submit(runtime_id="other")
    for asked in (
        driver.broker.job("nothing"),
        driver.broker.wait_result("nothing", 1),
        driver.broker.wait_end("nothing", 0),
        driver.broker.cancel("nothing", "why"),
        driver.broker.fail_job("nothing", "why"),
        driver.broker.deliver_again("nothing"),
        driver.broker.open_result("r", theirs.job_id),
        driver.broker.begin_result("nothing", driver.broker.new_result("nothing", None)),
        driver.broker.complete("nothing", driver.broker.new_result("nothing", None)),
    ):
        with pytest.raises(UnknownJob):
            driver.get(asked)
    assert driver.get(driver.broker.give_back("nothing", 1)) is None
    assert driver.get(driver.broker.delivered("nothing", 1)) is None
