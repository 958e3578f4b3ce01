"""Tenants take turns, however much one of them has."""

import pytest

from taskq import App
from tests.worker.moves import wait_until

pytestmark = pytest.mark.anyio

SLOTS = 4


async def test_ten_thousand_jobs_of_one_tenant_keep_anothers_waiting_for_one_round(url: str) -> None:
    app = App(url, slots=SLOTS)
    started: list[str] = []

    @app.task(keep=0)
    async def work(tenant: str) -> None:
        started.append(tenant)

    async with app:
        await app.defer_many(work.options(tenant="much").call("much") for _ in range(10_000))
        for tenant in ("little", "less"):
            await work.options(tenant=tenant).defer(tenant)
        await work.defer("nobody")
        async with app.working():
            await wait_until(lambda: {"little", "less", "nobody"} <= set(started))
    assert max(map(started.index, ("little", "less", "nobody"))) <= 4


async def test_a_tenant_is_seen_where_the_job_is(url: str) -> None:
    app = App(url)

    @app.task(tenant="acme")
    async def work() -> None: ...

    async with app:
        await work.options(group="g").defer()
        await work.defer()
        records = await app.admin.list_jobs("default", "ready", after=None, limit=10)
    assert [(record.job.tenant, record.job.group) for record in records] == [("acme", "g"), ("acme", None)]
