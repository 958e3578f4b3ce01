"""Many defers at once take part in whatever a single one would."""

import pytest

from taskq import App, Retry
from taskq.testing import deferred, run_until_idle

pytestmark = pytest.mark.anyio


async def test_a_bulk_defer_inside_a_transactional_handler_commits_or_vanishes_with_it(url: str) -> None:
    app = App(url)

    @app.task
    async def child(number: int) -> None: ...

    @app.task(transaction=True, retry=Retry(1))
    async def parent(fails: bool) -> None:
        await app.defer_many(child.call(number) for number in range(3))
        if fails:
            raise ValueError

    async with app:
        await parent.defer(True)
        await run_until_idle(app)
        assert await deferred(app) == []
        await parent.defer(False)
        await app.run_worker(max_jobs=1)
        assert [job.arguments for job in await deferred(app)] == [{"number": number} for number in range(3)]
