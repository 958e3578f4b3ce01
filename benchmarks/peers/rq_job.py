"""A module of its own, because rq imports a job's function by its name."""

from collections.abc import Callable

run: Callable[[int, str], None] | None = None


def job(number: int, content: str) -> None:
    if run is not None:
        run(number, content)
