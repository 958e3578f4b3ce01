"""The table of guarantees, made from what real deployments declare and from the clauses that prove it."""

import re
from collections.abc import Callable, Sequence
from math import inf

from msgspec import Struct

from taskq.broker import Backend, Traits
from taskq.testing.broker_contract import BrokerContract
from taskq.testing.store_contract import StoreContract

BEGIN, END = "<!-- made from the traits: see tests/docs/test_guarantees.py -->", "<!-- end of what was made -->"


class Column(Struct, frozen=True):
    """A backend, with the traits of its deployments: the first as it should be, others that differ in durability."""

    title: str
    traits: Traits
    parts: frozenset[str]
    durabilities: Sequence[tuple[str, str]]
    """What is kept, and with which setting of the server."""


Cell = Callable[[Column], object]


def trait(name: str) -> Cell:
    return lambda column: getattr(column.traits, name)


def part(name: str) -> Cell:
    return lambda column: name in column.parts


def durability(column: Column) -> str:
    return "<br>".join(f"`{kept}` {setting}".rstrip() for kept, setting in column.durabilities)


def order(column: Column) -> str:
    if column.traits.ordered:
        return "yes"
    return "in bands" if column.traits.bands else "no"


ROWS: Sequence[tuple[str, Cell, str]] = [
    ("delivery", lambda column: "<br>".join(f"`{one}`" for one in sorted(column.traits.delivery)), ""),
    ("what was acknowledged survives (`durability`)", durability, "E1"),
    ("a live id is added once", trait("idempotent"), "E3"),
    ("an ended id is refused for", trait("dedup_window"), "E3"),
    ("unique keys", trait("unique"), "E4"),
    ("priorities, and order within them", order, "F4"),
    ("groups and their limits", trait("groups"), "F7"),
    ("tenants take turns", trait("fair"), "F8"),
    ("one delivery at a time", trait("exclusive"), "F1"),
    ("attempts and losses are exact", trait("exact_attempts"), "F2"),
    ("a stale worker can settle nothing", trait("fenced"), "F3"),
    ("results", part("results"), "S2"),
    ("lists, dead letters, cancel, revive, pause", part("admin"), "S4"),
    ("schedules, flows, limits, collect, steps", part("store"), "K1"),
    ("`defer` within your transaction", part("transactions"), ""),
    ("longest delay the server keeps", lambda column: _seconds(column.traits.max_delay), ""),
    ("longest run under one receipt", lambda column: _seconds(column.traits.max_lease), "X1"),
    ("largest body", lambda column: _bytes(column.traits.max_size), "E2"),
]


def column(title: str, opened: Backend, durabilities: Sequence[tuple[str, str]]) -> Column:
    names = ("results", "hints", "store", "transactions", "admin")
    parts = frozenset(name for name in names if getattr(opened, name) is not None)
    return Column(title, opened.broker.traits, parts, durabilities)


def table(columns: Sequence[Column]) -> str:
    """In Markdown, with what the clauses promise below it."""
    lines = [
        _line(["", *(column.title for column in columns), "clause"]),
        _line(["---"] * (len(columns) + 2)),
        *(_line([words, *(_text(cell(each)) for each in columns), _link(clause)]) for words, cell, clause in ROWS),
        "",
        "### The clauses",
        "",
        "Each is tests of these names, in `taskq/testing`, and a backend of your own can be held to them.",
        "",
        *(f'<a id="c-{clause.lower()}"></a>**C-{clause}**: {"; ".join(_tests(clause))}.\n' for clause in _clauses()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _clauses() -> list[str]:
    """Those of the table and all others, each once."""
    names = [name for contract in (BrokerContract, StoreContract) for name in dir(contract)]
    found = {match[1].upper() for name in names if (match := re.match(r"test_c_([a-z]\d)_", name))}
    assert {clause for _, _, clause in ROWS if clause} <= found
    return sorted(found)


def _tests(clause: str) -> list[str]:
    """What the tests of a clause are called, as sentences."""
    start = f"test_c_{clause.lower()}_"
    names = sorted({*dir(BrokerContract), *dir(StoreContract)})
    return [name.removeprefix(start).replace("_", " ") for name in names if name.startswith(start)]


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _link(clause: str) -> str:
    return f"[C-{clause}](#c-{clause.lower()})" if clause else ""


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return _seconds(value) if value else "no time"
    return str(value)


def _seconds(value: float) -> str:
    if value == inf:
        return "any"
    return f"{value / 3600:g} h" if value >= 3600 else f"{value / 60:g} min"


def _bytes(value: int) -> str:
    return f"{value // 2**20} MiB" if value % 2**20 == 0 else f"{value // 2**10} KiB"
