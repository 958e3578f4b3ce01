"""What a queue is called on SQS, whose names have 80 letters, digits, ``-`` and ``_`` and no dots."""

from msgspec import Struct

from taskq.errors import BrokerRejected
from taskq_sqs.settings import Settings

_LONGEST = 80
FIFO = ".fifo"


class Names(Struct, frozen=True):
    """From queues to names and back; no two queues share one."""

    prefix: str
    fifo: bool
    bands: tuple[int, ...]

    def of(self, queue: str, band: int = 0) -> str:
        """The queue's jobs of a band: ``taskq-mail``, ``taskq-mail--p10``."""
        return self._name(queue, f"--p{band}".replace("-p-", "-m") if band else "")

    def dead(self, queue: str) -> str:
        """Its dead letters: ``taskq-mail--dead``."""
        return self._name(queue, "--dead")

    def all_of(self, queue: str) -> list[str]:
        """Everything that a queue consists of, the dead letters first."""
        return [self.dead(queue), *(self.of(queue, band) for band in self.bands)]

    def queue_of(self, name: str) -> str | None:
        """Whose dead letters or jobs these are; None for a name that is nobody's here."""
        head = f"{self.prefix}-"
        if not name.startswith(head) or name.endswith(FIFO) != self.fifo:
            return None
        return name.removeprefix(head).removesuffix(FIFO).partition("--")[0].replace("__", ".")

    def band_of(self, priority: int) -> int:
        """The band for jobs of this priority: the first that it reaches, or the last."""
        return next((band for band in self.bands if priority >= band), self.bands[-1])

    def _name(self, queue: str, part: str) -> str:
        if "__" in queue or "--" in queue or queue.endswith("-"):
            raise BrokerRejected(f"queue {queue!r}: on SQS a name ends in no '-' and holds neither '--' nor '__'")
        name = f"{self.prefix}-{queue.replace('.', '__')}{part}{FIFO if self.fifo else ''}"
        if len(name) > _LONGEST:
            raise BrokerRejected(f"queue {queue!r}: {name!r} is longer than the {_LONGEST} characters of SQS")
        return name


def names_of(settings: Settings) -> Names:
    """As the settings say."""
    return Names(settings.prefix, settings.fifo, settings.bands)
