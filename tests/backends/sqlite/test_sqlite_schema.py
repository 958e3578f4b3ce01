"""The statements and the tables: nothing is missing, nothing is left over, and the plans use the indexes."""

import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files
from pathlib import Path

import pytest
import taskq_sqlite
from taskq_sqlite import connect, queries
from taskq_sqlite.migrate import migrate, migrations, statements
from taskq_sqlite.rows import rows_of

from taskq.errors import SchemaOutdated

SOURCE = Path(taskq_sqlite.__file__).parent
SQL = queries.load()
NAMES = queries.Queries.__struct_fields__
JOBS = 50_000


class _Anything(dict[str, int]):
    """Parameters of any name."""

    def __missing__(self, name: str) -> int:
        return 1


def plan(connection: sqlite3.Connection, name: str) -> list[str]:
    statement: str = getattr(SQL, name)
    spoken = re.sub(r"--.*|'[^']*'", "", statement)
    parameters = _Anything() if ":" in spoken else (1,) * spoken.count("?")
    return [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters)]


@pytest.fixture
def empty() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, ":memory:")
        yield connection


@pytest.fixture(scope="module")
def full() -> Iterator[sqlite3.Connection]:
    """Jobs in every state, most of them waiting."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection, ":memory:")
        states = ["ready"] * 6 + ["later", "leased", "parked", "dead"]
        rows = (
            (f"q{n % 3}", f"{n:06}", states[n % 10], n % 7, float(n), f"g{n % 50}" if n % 10 == 8 else None)
            for n in range(JOBS)
        )
        connection.execute("BEGIN")
        connection.executemany(
            "INSERT INTO taskq_jobs (queue, id, task, body, state, priority, due, grp)"
            " VALUES (?, ?, 'task', x'', ?, ?, ?, ?)",
            rows,
        )
        connection.execute("COMMIT")
        # The planner is at its most inventive when it knows how much there is of everything.
        connection.execute("ANALYZE")
        yield connection


def test_every_statement_has_its_file_and_every_file_its_statement() -> None:
    found = {file.name.removesuffix(".sql") for file in (files("taskq_sqlite") / "sql").iterdir()}
    assert found == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_is_run_somewhere(name: str) -> None:
    source = "".join(path.read_text("utf-8") for path in SOURCE.glob("*.py"))
    assert re.search(rf"\bsql\.{name}\b|\b_sql\.{name}\b", source)


@pytest.mark.parametrize("name", NAMES)
def test_every_statement_says_first_what_it_does_and_prepares(name: str, empty: sqlite3.Connection) -> None:
    statement: str = getattr(SQL, name)
    assert re.match(r"-- [A-Z].*[.:,\w]\n", statement)
    assert ";" not in re.sub(r"--.*", "", statement)
    plan(empty, name)


def test_the_migrations_from_empty_give_the_golden_schema(empty: sqlite3.Connection) -> None:
    found = empty.execute("SELECT sql FROM sqlite_schema WHERE name LIKE 'taskq_%' AND sql IS NOT NULL ORDER BY name")
    schema = "".join(f"{sql};\n" for (sql,) in found)
    assert schema == (Path(__file__).parent / "schema.sql").read_text("utf-8")


def test_the_migrations_are_numbered_without_gaps() -> None:
    assert list(migrations()) == list(range(1, len(migrations()) + 1))


def test_a_script_is_cut_into_its_statements() -> None:
    script = "-- one; still a comment\nCREATE TABLE a (b TEXT DEFAULT ';');\n\nCREATE TABLE c (d);\n"
    assert [statement.count("CREATE") for statement in statements(script)] == [1, 1]


def test_a_file_of_a_newer_version_is_left_alone(empty: sqlite3.Connection) -> None:
    newest = max(migrations())
    empty.execute("INSERT INTO taskq_migrations (version) VALUES (?)", (newest + 1,))
    with pytest.raises(SchemaOutdated, match=f"version {newest + 1}.*upgrade taskq"):
        migrate(empty, "some.db")


@pytest.mark.anyio
async def test_the_tables_live_in_the_applications_own_file(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "app.db")) as application, application:
        application.execute("CREATE TABLE orders (id)")
    async with connect(f"sqlite:///{tmp_path}/app.db"):
        pass
    with closing(sqlite3.connect(tmp_path / "app.db")) as application:
        tables = {name for (name,) in application.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {name for name in tables if not name.startswith(("taskq_", "sqlite_"))} == {"orders"}


@pytest.mark.parametrize(
    ("name", "index"),
    [
        ("front", "taskq_jobs_ready (queue=?)"),
        ("promote", "taskq_jobs_timed (queue=? AND state=? AND due<?)"),
        ("upcoming", "taskq_jobs_timed (queue=? AND state=?)"),
        ("park", "taskq_jobs_shown (queue=? AND grp=?)"),
        ("show", "taskq_jobs_waiting (queue=? AND grp=? AND group_limit=?)"),
        ("holder_of_id", "taskq_jobs_id (queue=? AND id=?)"),
        ("holder_of_key", "taskq_jobs_key (queue=? AND uniq=?)"),
        ("lapse_dead", "taskq_jobs_lapses"),
        ("lapse_ended", "taskq_ended_lapses"),
        ("lapse_members", "taskq_members_until"),
        ("lapsed_keys", "taskq_keys_until"),
        ("list_dead", "taskq_jobs_dead (queue=? AND id>?)"),
        ("lapsing", "taskq_members_lapsing (key=? AND gone=?"),
        ("retake", "taskq_jobs_placed (queue=? AND grp=?)"),
    ],
)
def test_the_statement_goes_by_its_index(full: sqlite3.Connection, name: str, index: str) -> None:
    steps = plan(full, name)
    assert any(index in step for step in steps)
    assert not [step for step in steps if step.startswith(("SCAN taskq_jobs", "SCAN taskq_ended", "SCAN taskq_mem"))]


def test_a_fetch_neither_sorts_nor_passes_over_what_is_not_due(full: sqlite3.Connection) -> None:
    steps = [step for step in plan(full, "front") if "taskq_jobs" in step or "TEMP B-TREE" in step]
    assert steps == ["SEARCH taskq_jobs USING INDEX taskq_jobs_ready (queue=?)"]
    assert len(rows_of(*full.execute(SQL.front, ("q1", 10)).fetchone())) == 10


@pytest.mark.parametrize("name", ["ack", "held", "nack", "dead_letter", "extend", "retake", "lease"])
def test_a_receipt_leads_straight_to_its_row(full: sqlite3.Connection, name: str) -> None:
    assert "SEARCH taskq_jobs USING INTEGER PRIMARY KEY (rowid=?)" in plan(full, name)
