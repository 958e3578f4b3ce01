"""What the doctor finds on real servers."""

import time
from contextlib import AsyncExitStack, nullcontext
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import asyncpg
import pytest
from taskq_postgres import connect, queries
from taskq_postgres.doctor import judged

from taskq.broker import Finding
from taskq.errors import BrokerRejected, BrokerUnavailable
from taskq.testing.deployment import wait_until
from tests.backends.postgres.conftest import plain
from tests.backends.postgres.test_postgres_marks import held
from tests.cli.shell import Shell
from tests.servers import postgres as postgresql
from tests.servers.process import Process


async def found(url: str, **options: object) -> dict[str, Finding]:
    async with connect(url, migrate=True, **options) as backend:
        assert backend.doctor is not None
        return {finding.subject: finding for finding in await backend.doctor()}


@pytest.mark.anyio
async def test_the_settings_that_lose_jobs_or_stop_the_server_from_clearing_up_are_found() -> None:
    with postgresql.postgres(options=["fsync=on", "full_page_writes=on", "max_connections=20"]) as server:
        assert {finding.level for finding in (await found(server.url)).values()} == {"ok"}
        for setting, subject, level in (
            ("synchronous_commit = off", "commit", "warning"),
            ("autovacuum = off", "dead rows", "error"),
            ("synchronous_standby_names = '*'", "standbys", "error"),
        ):
            async with plain(server.url) as direct:
                await direct.execute("ALTER SYSTEM RESET ALL")
                await direct.execute(f"ALTER SYSTEM SET {setting}")
                await direct.execute("SELECT pg_reload_conf()")
            server.stop()
            server.start()
            async with connect(server.url) as backend:
                assert backend.doctor is not None
                finding = {finding.subject: finding for finding in await backend.doctor()}[subject]
                assert (finding.level, bool(finding.remedy)) == (level, True), finding


@pytest.mark.anyio
async def test_what_the_server_says_of_itself_is_judged(own: Process) -> None:
    async with connect(own.url, migrate=True) as backend, plain(own.url) as direct:
        assert backend.doctor is not None
        async with held(own.url):
            findings = {finding.subject: finding for finding in await backend.doctor()}
            assert findings["transactions"].message == "the oldest has been open for 0 s"
        row = dict(await direct.fetchrow(queries.load("taskq").health) or {})
    for changed, subject, level in (
        ({"fsync": False}, "commit", "error"),
        ({"full_page_writes": False}, "full pages", "warning"),
        ({"full_page_writes": True}, "full pages", "ok"),
        ({"oldest": 3600.0}, "transactions", "warning"),
        ({"prepared": 3600.0}, "transactions", "warning"),
        ({"idle_slots": 1}, "transactions", "warning"),
        ({"dead": 1_000_000}, "dead rows", "warning"),
        ({"used": row["most"] - 3}, "connections", "warning"),
        ({"standbys": 1}, "standbys", "warning"),
        ({"standbys": 1, "synchronous_standbys": 1}, "standbys", "ok"),
        ({"standby": True}, "version", "error"),
        ({"version_num": 140_000}, "version", "error"),
    ):
        (finding,) = [one for one in judged({**row, **changed}, 5) if one.subject == subject]
        assert (finding.level, bool(finding.remedy)) == (level, level != "ok"), finding


@pytest.mark.anyio
async def test_a_server_that_is_too_old_refuses_to_open(
    postgres: Process, schema: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # No server that old is to be had for tests.
    monkeypatch.setattr(import_module("taskq_postgres.connect"), "OLDEST", 99)
    with pytest.raises(BrokerRejected, match=r"is PostgreSQL 18: use PostgreSQL 99 or newer"):
        async with connect(postgres.url, schema=schema, migrate=True):
            pass


@pytest.mark.anyio
async def test_a_server_without_the_connections_of_a_worker_refuses_to_open() -> None:
    with postgresql.postgres(options=["max_connections=12"]) as server:
        async with AsyncExitStack() as others, plain(server.url) as direct:
            # Who is no superuser sees little of others' sessions, and is to count them all the same.
            await direct.execute("CREATE ROLE app LOGIN; GRANT CREATE ON DATABASE postgres TO app")
            url = server.url.replace("postgres@", "app@")
            for _ in range(3):
                await others.enter_async_context(plain(server.url))
            assert "room for 0 more processes of 5 each" in (await found(url))["connections"].message
            await others.enter_async_context(plain(server.url))
            for changed, says in (
                (
                    {},
                    r"5 of 9 connections are in use, and .* up to 5 \(2 for its verbs.*: raise max_conn",
                ),
                ({"connections": 1}, None),
                ({"pooled": True}, None),
            ):
                await wait_until(lambda: alone(direct, 5))
                with nullcontext() if says is None else pytest.raises(BrokerUnavailable, match=says):
                    assert (await found(url, **changed))["connections"].level == "warning"


async def alone(direct: "asyncpg.Connection[asyncpg.Record]", sessions: int) -> bool:
    """Whether those that others have closed are gone."""
    count = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
    return bool(await direct.fetchval(count) == sessions)


@pytest.mark.anyio
async def test_a_pooler_is_seen_and_wants_a_way_round_it(postgres: Process, schema: str) -> None:
    for options, level in (({}, "warning"), ({"listen_url": postgres.url}, "ok")):
        assert (await found(postgres.url, schema=schema, pooled=True, **options))["pooler"].level == level


@pytest.mark.anyio
async def test_as_22_what_is_wrong_with_clock_and_pooler_is_said_when_the_app_opens(
    postgres: Process, schema: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await found(postgres.url, schema=schema)
    assert not caplog.messages
    ours = SimpleNamespace(time=lambda: time.time() + 300)
    monkeypatch.setattr(import_module("taskq_postgres.doctor"), "time", ours)
    assert (await found(postgres.url, schema=schema, pooled=True))["clock"].level == "warning"
    clock, pooler = caplog.messages
    assert "clock 300.0 s behind this machine's: run NTP on both" in clock
    assert "pooler in between: fetches look once a second, and there are no hints: name a direct way" in pooler


def test_the_command_fails_where_a_need_cannot_be_kept(tmp_path: Path, postgres: Process, schema: str) -> None:
    shell, url = Shell(tmp_path), f"{postgres.url}?schema={schema}&migrate=1"
    # The servers of the tests never wait for the disk.
    ran = shell.run("doctor", url, "--durability", "disk", code=1)
    assert "error: commit: fsync off" in ran.out
    assert "error: durability: seconds, not disk" in ran.out
