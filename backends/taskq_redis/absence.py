"""Noticing that one node of several is away: said once when it goes and once when it answers again."""

import logging

from taskq.errors import BrokerError

_log = logging.getLogger("taskq.redis")


class Absences:
    """The queues whose node did not answer last, while others did."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._absent: set[str] = set()

    def note(self, queue: str, error: BrokerError) -> None:
        """A look into a queue failed, and others are looked into all the same."""
        if queue not in self._absent:
            self._absent.add(queue)
            _log.warning("%s: the node of queue %r does not answer; other queues go on: %s", self._name, queue, error)

    def answered(self, queue: str) -> None:
        """A look into a queue was answered."""
        if queue in self._absent:
            self._absent.discard(queue)
            _log.warning("%s: the node of queue %r answers again", self._name, queue)
