"""What the doctor finds on real servers."""

from pathlib import Path

import pytest
from taskq_redis import connect

from taskq.broker import Finding
from taskq.errors import BrokerUnavailable
from tests.backends.redis.deployment import command
from tests.cli.shell import Shell
from tests.servers import valkey
from tests.servers.process import Process

pytestmark = pytest.mark.anyio


async def found(url: str, **options: object) -> dict[str, Finding]:
    async with connect(url, **options) as backend:
        assert backend.doctor is not None
        return {finding.subject: finding for finding in await backend.doctor()}


async def test_every_danger_is_found_and_has_its_remedy(tmp_path: Path) -> None:
    with valkey.single(tmp_path, aof="always", options=["--maxmemory", "100mb", "--maxclients", "100"]) as server:
        assert {finding.level for finding in (await found(server.url)).values()} == {"ok"}
        for settings, subject, level in (
            (["maxmemory", "500kb"], "memory", "warning"),
            (["appendfsync", "everysec"], "persistence", "warning"),
            (["appendonly", "no"], "persistence", "warning"),
            (["maxmemory", "100mb", "maxmemory-policy", "volatile-lru"], "eviction", "error"),
            (["maxmemory-policy", "allkeys-lru"], "eviction", "error"),
            (["maxmemory", "0"], "eviction", "warning"),
            (["maxmemory", "0"], "memory", "warning"),
            (["maxclients", "4"], "connections", "warning"),
        ):
            command(server, "CONFIG", "SET", *settings)
            finding = (await found(server.url))[subject]
            assert (finding.level, bool(finding.remedy)) == (level, True), finding


async def test_a_server_without_the_connections_of_a_worker_refuses_to_open(tmp_path: Path) -> None:
    with valkey.single(tmp_path, options=["--maxclients", "5"]) as server:
        async with connect(server.url), connect(server.url):
            says = r"2 of 5 connections to a node are in use, and this process needs up to 4: raise maxclients"
            with pytest.raises(BrokerUnavailable, match=says):
                await found(server.url)


async def test_replicas_that_are_waited_for_have_to_be_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with valkey.watched(tmp_path, sentinels=1) as watched:
        (one, two, none) = [
            (await found(watched.master.url, wait_replicas=wanted))["replicas"].level for wanted in (1, 2, 0)
        ]
        assert (one, two, none) == ("ok", "error", "warning")
    (told,) = [record.message for record in caplog.records if record.name == "taskq.redis"]
    assert "1 of the 2 replicas that wait_replicas asks for are connected" in told


async def test_each_node_of_a_cluster_is_examined(valkey_cluster: list[Process]) -> None:
    nodes = {f"127.0.0.1:{node.port}" for node in valkey_cluster}
    subjects = {subject.partition(" of ")[::2] for subject in await found(valkey_cluster[0].url)}
    assert {node for subject, node in subjects if subject == "clock"} == nodes


def test_an_app_is_told_what_redis_lacks(tmp_path: Path) -> None:
    task = "@app.task(transaction=True)\nasync def pay() -> None: ...\n"
    (tmp_path / "pay.py").write_text(f"from taskq import App\napp = App()\n{task}")
    (tmp_path / "server").mkdir()
    with valkey.single(tmp_path / "server") as server:
        ran = Shell(tmp_path).run("doctor", server.url, "--app", "pay", code=1)
    assert "error: pay.pay: it needs transaction=True" in ran.out
