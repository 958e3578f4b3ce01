"""What the parts of one backend share."""

from msgspec import Struct

from taskq_redis.client import Client
from taskq_redis.keys import Keys
from taskq_redis.scripts import Scripts
from taskq_redis.settings import Settings


class Tools(Struct, frozen=True):
    """For one event loop."""

    client: Client
    scripts: Scripts
    keys: Keys
    settings: Settings
    clustered: bool
    """A script reaches one queue only, and messages are heard on any node."""
