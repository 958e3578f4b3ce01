"""Scripts run on the right server, with errors in our words."""

from collections.abc import Sequence

from redis import exceptions

from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq_redis.faults import DRIVER_ERRORS, translated
from taskq_redis.lane import Abandoned, Sent
from taskq_redis.scripts import Script
from taskq_redis.servers import Servers
from taskq_redis.wire import Argument, Reply, packed


class Client:
    """One loop's way to the servers."""

    def __init__(self, servers: Servers, name: str) -> None:
        self.servers = servers
        self.name = name

    def packed(self, script: Script, keys: Sequence[bytes], *arguments: Argument) -> bytes:
        """The call that :meth:`run` would send."""
        return packed((b"EVALSHA", script.sha, len(keys), *keys, *arguments))

    async def run(
        self,
        script: Script,
        keys: Sequence[bytes],
        *arguments: Argument,
        abandoned: Abandoned | None = None,
        sent: Sent | None = None,
    ) -> Reply:
        """What a script returns; it is sent now unless it is ``sent``. All keys are of one slot.

        When the caller is cancelled although the script was sent, ``abandoned`` gets the reply to come, raw.
        """
        rest = (len(keys), *keys, *arguments)
        try:
            try:
                return await self.servers.call(keys[0], (b"EVALSHA", script.sha, *rest), abandoned, sent)
            except exceptions.NoScriptError:
                # Refused, so it has not run: sending it whole is no repetition.
                return await self.servers.call(keys[0], (b"EVAL", script.text, *rest), abandoned)
        except DRIVER_ERRORS as error:
            raise translated(error, self.name) from error

    async def run_confirmed(
        self, script: Script, keys: Sequence[bytes], *arguments: Argument, replicas: int, disk: bool, patience: float
    ) -> Reply:
        """The same, answered when what it wrote is where it must be; BrokerUnavailable when it is not in time.

        That is on so many replicas, and with ``disk`` in the append-only files of the server and of theirs.
        """
        rest, milliseconds = (len(keys), *keys, *arguments), int(patience * 500)
        # On one connection and in one write: it is the connection whose writes are waited for.
        wait = ("WAITAOF", 1, replicas, milliseconds) if disk else ("WAIT", replicas, milliseconds)
        try:
            try:
                reply, copies = await self.servers.call_all(keys[0], (b"EVALSHA", script.sha, *rest), wait)
            except exceptions.NoScriptError:
                reply, copies = await self.servers.call_all(keys[0], (b"EVAL", script.text, *rest), wait)
        except DRIVER_ERRORS as error:
            raise translated(error, self.name) from error
        match copies:
            case [int(written), int(confirmed)] if disk:
                pass
            case int(confirmed):
                written = 1
            case _:
                raise BrokerRejected(f"{self.name}: {wait[0]} was answered {copies!r}")
        if not written:
            raise BrokerUnavailable(
                f"{self.name}: what was enqueued is not on the disk yet, as wait_disk asks for; repeating the call "
                "adds none twice"
            )
        if confirmed < replicas:
            raise BrokerUnavailable(
                f"{self.name}: {confirmed} of the {replicas} replicas that wait_replicas asks for have confirmed; the "
                "jobs are on the master alone, and repeating the call adds none twice"
            )
        return reply

    async def call(self, key: bytes, *command: Argument) -> Reply:
        """The reply of the server that serves a key."""
        try:
            return await self.servers.call(key, command)
        except DRIVER_ERRORS as error:
            raise translated(error, self.name) from error

    async def scan(self, pattern: bytes) -> list[bytes]:
        """All keys of all servers that match, a thousand looked at a time."""
        found: list[bytes] = []
        try:
            for lane in (await self.servers.masters()).values():
                cursor: Reply = b"0"
                while isinstance(cursor, bytes):
                    reply = await lane.call(b"SCAN", cursor, "MATCH", pattern, "COUNT", 1000)
                    if not isinstance(reply, list) or not isinstance(reply[1], list):
                        raise exceptions.InvalidResponse(f"a scan was answered {reply!r}")
                    found += [key for key in reply[1] if isinstance(key, bytes)]
                    cursor = reply[0] if reply[0] != b"0" else None
        except DRIVER_ERRORS as error:
            raise translated(error, self.name) from error
        return found
