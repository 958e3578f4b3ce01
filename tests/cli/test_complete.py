"""``taskq complete``."""

from pathlib import Path

import anyio
import msgspec
from click.testing import CliRunner

from taskq import App
from taskq.cli import program


def test_a_failed_step_is_skipped_with_a_value(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'queue.db'}"
    app = App(url)
    got: list[int] = []

    @app.task(name="shop.fail", retry=1)
    async def fail(word: str) -> int:
        raise ValueError(word)

    @app.task(name="shop.take")
    async def take(number: int) -> None:
        got.append(number)

    async def work(*, first: bool) -> None:
        async with app:
            if first:
                await app.defer(fail.options(id="step").call("a").then(take))
            await app.run_worker(until="idle")

    def taskq(*arguments: str) -> str:
        return CliRunner().invoke(program, [*arguments, "--url", url]).output

    anyio.run(lambda: work(first=True))
    assert "is no JSON" in taskq("complete", "step", "--value", "{")
    assert taskq("complete", "step", "--value", "7") == "step: ends with this value\n"
    anyio.run(lambda: work(first=False))
    assert got == [7]
    assert msgspec.json.decode(taskq("complete", "none", "--json")) == {"id": "none", "completed": False}
    assert "complete" in taskq("audit")
