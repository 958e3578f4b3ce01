"""What stands in the code says what it is for, and the tree of errors is drawn as it has grown."""

import inspect
import pkgutil
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import pytest

import taskq
from taskq import broker, errors, store

MODULES = [
    taskq.__name__,
    # To import a __main__ is to run it.
    *(found.name for found in pkgutil.walk_packages(taskq.__path__, "taskq.") if not found.name.endswith("__main__")),
]
PROMISING = [*(getattr(taskq, name) for name in taskq.__all__), *vars(broker).values(), *vars(store).values()]
"""What callers and backends hold us to: here the methods, too, say what they promise."""


def own(module: ModuleType) -> Iterator[tuple[str, object]]:
    """The public classes and functions that a module defines."""
    for name, value in vars(module).items():
        named = inspect.isclass(value) or inspect.isfunction(value)
        if named and not name.startswith("_") and value.__module__ == module.__name__:
            yield name, value


def is_silent(value: object) -> bool:
    # A dataclass, a Struct and a subclass have some text by themselves: only what was written counts.
    written = vars(value).get("__doc__") if inspect.isclass(value) else inspect.getdoc(value)
    return not written


@pytest.mark.parametrize("name", MODULES)
def test_a_module_and_every_public_name_in_it_says_what_it_is_for(name: str) -> None:
    module = import_module(name)

    assert module.__doc__
    assert [name for name, value in own(module) if is_silent(value)] == []


def test_every_public_method_says_what_it_promises() -> None:
    classes = {value for value in PROMISING if inspect.isclass(value) and value.__module__.startswith("taskq.")}
    silent = [
        f"{cls.__name__}.{name}"
        for cls in classes
        for name, value in vars(cls).items()
        if not name.startswith("_") and (inspect.isfunction(value) or isinstance(value, property)) and not value.__doc__
    ]

    assert len(classes) > 20
    assert sorted(silent) == []


def test_every_exported_name_is_there() -> None:
    assert [name for name in taskq.__all__ if not hasattr(taskq, name)] == []


# The tree of errors

LINE = re.compile(r"^    (?P<trunk>(?:│   |    )*)(?P<branch>[├└]── )?(?P<names>.+?)(?:  +(?P<rest>.*))?$")
NAME = re.compile(r"[A-Z]\w+")


def drawn() -> dict[str, str]:
    """Each class of the drawing and the one above it."""
    assert errors.__doc__ is not None
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in errors.__doc__.partition("::\n")[2].splitlines():
        found = LINE.match(line)
        if found is None:
            continue
        depth = len(found["trunk"]) // 4 + 1 if found["branch"] else 0
        names = [NAME.match(part) for part in found["names"].split(" · ")]
        above = path[depth - 1] if depth else "Exception"
        here = [name[0] for name in names if name is not None]
        parents.update(dict.fromkeys(here, above))
        path[depth:] = here[:1]
        # Behind a name stands what it is about, or the names below it.
        below = [NAME.fullmatch(part.partition(":")[0]) for part in (found["rest"] or "").split(" · ")]
        parents.update({name[0]: here[0] for name in below if name is not None})
    return parents


def grown() -> dict[str, str]:
    return {name: value.__base__.__name__ for name, value in own(errors) if isinstance(value, type) and value.__base__}


def test_the_tree_of_errors_is_drawn_as_it_has_grown() -> None:
    assert drawn() == grown()
