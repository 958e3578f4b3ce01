"""The SQL of this backend: one statement a file in ``sql/``, read once when the backend opens."""

from importlib.resources import files

from msgspec import Struct


class Queries(Struct, frozen=True):
    """Each statement under its file's name."""

    ack: str
    add_job: str
    cancel: str
    count_lapsed: str
    dead_letter: str
    discard: str
    discard_lapsing: str
    drop_key: str
    drop_members: str
    ended_id: str
    extend: str
    forget_ended: str
    front: str
    held: str
    hints: str
    holder_of_id: str
    holder_of_key: str
    keep_ended: str
    key: str
    lapse_dead: str
    lapse_ended: str
    lapse_hints: str
    lapse_members: str
    lapsed_keys: str
    lapsing: str
    last_hint: str
    lease: str
    list_dead: str
    list_leased: str
    list_waiting: str
    member: str
    members: str
    nack: str
    outcome: str
    park: str
    promote: str
    publish: str
    purge: str
    put_key: str
    put_member: str
    queue_of: str
    queues: str
    record: str
    release_key: str
    remove_job: str
    replace_job: str
    retake: str
    revive: str
    show: str
    stats: str
    step_back: str
    take_turn: str
    upcoming: str


def load() -> Queries:
    """Read every statement."""
    folder = files("taskq_sqlite") / "sql"
    return Queries(**{name: (folder / f"{name}.sql").read_text("utf-8") for name in Queries.__struct_fields__})
