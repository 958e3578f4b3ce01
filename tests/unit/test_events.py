"""What happened is told to whoever listens."""

import logging

import pytest

from taskq.events import BrokerLost, Event, Events, JobVetoed, WorkerStarted, WorkerStopped

VETOED = JobVetoed(task="t", reason="no")


def test_a_listener_gets_the_events_of_its_class_alone() -> None:
    events, heard = Events(), list[Event]()
    events.subscribe(JobVetoed, heard.append)
    events.subscribe(Event, heard.append)

    events.emit(VETOED)
    events.emit(WorkerStopped())

    assert heard == [VETOED]


def test_every_listener_is_told_in_the_order_of_their_coming() -> None:
    events, heard = Events(), list[str]()
    events.subscribe(JobVetoed, lambda _: heard.append("first"))
    events.subscribe(JobVetoed, lambda _: heard.append("second"))

    events.emit(VETOED)

    assert heard == ["first", "second"]


def test_a_subscription_that_ended_hears_nothing_and_leaves_nothing() -> None:
    events, heard = Events(), list[Event]()
    end = events.subscribe(JobVetoed, heard.append)
    end()
    end()

    events.emit(VETOED)

    assert heard == []
    assert JobVetoed not in events.listeners


def test_a_listener_may_end_its_subscription_while_it_listens() -> None:
    events, heard = Events(), list[str]()

    def once(_: JobVetoed) -> None:
        heard.append("once")
        end()

    end = events.subscribe(JobVetoed, once)
    events.subscribe(JobVetoed, lambda _: heard.append("always"))

    events.emit(VETOED)
    events.emit(VETOED)

    assert heard == ["once", "always", "always"]


def test_a_listener_that_fails_is_logged_and_goes_no_further(caplog: pytest.LogCaptureFixture) -> None:
    events, heard = Events(), list[Event]()

    def broken(_: JobVetoed) -> None:
        raise ZeroDivisionError("a listener's own")

    events.subscribe(JobVetoed, broken)
    events.subscribe(JobVetoed, heard.append)
    with caplog.at_level(logging.ERROR, logger="taskq"):
        events.emit(VETOED)

    assert heard == [VETOED]
    assert "a listener of JobVetoed failed" in caplog.text
    assert "a listener's own" in caplog.text


def test_events_are_values() -> None:
    assert WorkerStarted(queues=("a",), slots=1) == WorkerStarted(queues=("a",), slots=1)
    with pytest.raises(AttributeError):
        BrokerLost(error=OSError()).error = OSError()  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue] - frozen is what is shown
