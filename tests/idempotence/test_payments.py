"""AS-37: a payment and a grant of credit, killed wherever they can die: charged once, and the balance is exact."""

import os
import signal
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest

from taskq import App, current
from taskq.job import Delivery
from taskq.testing import deferred
from taskq.testing.lives import LEASE, run_delivery, settle_run
from taskq.testing.mortal import Died, Life
from taskq.testing.observers import answered
from tests.backends.sqs.deployment import Tenant
from tests.idempotence import granter
from tests.servers.fixtures import postgres as postgres
from tests.servers.fixtures import running as running
from tests.servers.fixtures import server_logs as server_logs
from tests.servers.fixtures import sqs as sqs
from tests.servers.fixtures import valkey as valkey
from tests.servers.fixtures import valkey_cluster as valkey_cluster
from tests.servers.tenants import queue_anywhere

LONG = "TASKQ_TEST_LONG" in os.environ
RUNS = 1000 if LONG else 40

pytestmark = [pytest.mark.anyio, pytest.mark.long, pytest.mark.timeout(3600)]


@pytest.fixture(params=["memory", "sqlite", "valkey", "cluster", "postgres", *(["sqs"] if LONG else [])])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "sqs":
        monkeypatch.setenv("TASKQ_COMPANION", f"sqlite:///{tmp_path}/companion.db")
        return Tenant(request.getfixturevalue("sqs")).url
    return queue_anywhere(request, tmp_path)


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    bank = sqlite3.connect(tmp_path / "bank.db")
    bank.executescript(
        "CREATE TABLE account (id INT PRIMARY KEY, balance INT NOT NULL); INSERT INTO account VALUES (1, 0);"
        "CREATE TABLE grants (id TEXT PRIMARY KEY);"
    )
    yield bank
    bank.close()


class Provider:
    """Charges cards, each key once, and says so when it is asked."""

    def __init__(self) -> None:
        self.charges: Counter[str] = Counter()
        self._keys: set[str] = set()

    async def charge(self, card: str, key: str) -> None:
        await anyio.lowlevel.checkpoint()
        if key not in self._keys:
            self._keys.add(key)
            self.charges[card] += 1
        await anyio.lowlevel.checkpoint()


def shop(url: str, provider: Provider, bank: sqlite3.Connection) -> App:
    app = App(url)

    @app.task(name="pay", max_losses=10_000)
    async def pay(card: str, cents: int) -> None:
        async with current().once(f"pay {card}", on_unknown="retry") as payment:
            if payment.needed:
                await provider.charge(card, key=f"pay {card}")
        await grant(card, cents)

    async def grant(card: str, cents: int) -> None:
        with bank:
            if bank.execute("INSERT OR IGNORE INTO grants VALUES (?)", (card,)).rowcount:
                bank.execute("UPDATE account SET balance = balance + ? WHERE id = 1", (cents,))
        await anyio.lowlevel.checkpoint()

    return app


async def fetch(app: App) -> Delivery:
    with anyio.fail_after(20):
        while True:
            for delivery in await app.backend.broker.fetch(["default"], 1, lease=LEASE, wait=1.0):
                return delivery


async def run_to_the_end(app: App, doomed: App, life: Life) -> bool:
    """Whether it died before; the next run is another worker's."""
    pay = app.find_task("pay")
    delivery = await fetch(app)
    died = True
    try:
        async with AsyncExitStack() as stack:
            # What a dead process held open is lost with it. Memory is in no other process.
            if doomed is not app:
                await stack.enter_async_context(doomed)
            run, outcome = await run_delivery(doomed, delivery, doomed.find_task("pay"), life)
        died = False
    except Died:
        await app.backend.broker.extend([delivery.receipt], 0.0)
        run, outcome = await run_delivery(app, await fetch(app), pay)
    decision = await settle_run(app, run, outcome)
    assert (run.settled, decision.end) == (True, "returned")
    return died


async def test_a_payment_that_is_killed_wherever_it_can_die_is_charged_once(url: str, bank: sqlite3.Connection) -> None:
    provider = Provider()
    app = shop(url, provider, bank)
    doomed = app if url.startswith("memory") else shop(url, provider, bank)
    pay = app.find_task("pay")
    stops = 0
    async with app:
        for number in range(RUNS):
            await pay.defer(f"card {number}", 50)
            stops = stops + 1 if await run_to_the_end(app, doomed, Life(stops)) else 0
    assert set(provider.charges.values()) == {1}
    assert bank.execute("SELECT balance FROM account").fetchone() == (50 * RUNS,)
    assert bank.execute("SELECT count(*) FROM grants").fetchone() == (RUNS,)


async def test_two_grants_at_once_for_one_payment_are_one(url: str, bank: sqlite3.Connection) -> None:
    provider = Provider()
    app = shop(url, provider, bank)
    pay = app.find_task("pay")
    async with app:
        for number in range(5):
            for _ in range(2):
                await pay.defer(f"card {number}", 50)
        async with app.working(slots=10):
            with anyio.fail_after(30):
                while any(queue.ready + queue.later + queue.leased for queue in await app.admin.stats()):  # noqa: ASYNC110
                    await anyio.sleep(0.02)
    assert dict(provider.charges) == {f"card {number}": 1 for number in range(5)}
    assert bank.execute("SELECT balance FROM account").fetchone() == (250,)


@pytest.mark.parametrize("url", ["sqlite", "postgres"], indirect=True)
async def test_a_grant_in_its_jobs_transaction_is_made_once_wherever_its_process_is_killed(url: str) -> None:
    app = granter.bank(url)
    async with app:
        assert app.backend.transactions is not None
        async with app.backend.transactions.begin() as connection:
            await answered(connection.execute("CREATE TABLE account AS SELECT 0 AS balance"))
        await app.find_task("grant").defer(3)
        command, deaths = [sys.executable, granter.__file__, url], 0
        while (await anyio.run_process([*command, str(deaths)], check=False)).returncode == -signal.SIGKILL:
            deaths += 1 if LONG else 6
        assert deaths > 5
        async with app.backend.transactions.begin() as connection:
            find = getattr(connection, "fetch", connection.execute)
            assert [tuple(row) for row in await answered(find("SELECT balance FROM account"))] == [(3,)]
            await answered(connection.execute("DROP TABLE account"))
        assert [job.task for job in await deferred(app)] == ["receipt"]
