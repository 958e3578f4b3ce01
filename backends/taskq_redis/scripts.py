"""The Lua of this backend: one script a file in ``lua/``, read once when the backend opens."""

from hashlib import sha1
from importlib.resources import files

from msgspec import Struct


class Script(Struct, frozen=True):
    """What the server is sent, and the name it knows it by."""

    name: str
    text: bytes
    sha: bytes


class Scripts(Struct, frozen=True):
    """Each script under its file's name."""

    cancel: Script
    claim: Script
    enqueue: Script
    extend: Script
    leave: Script
    look: Script
    outcome: Script
    purge: Script
    revive: Script
    settle: Script
    stats: Script
    store_add: Script
    store_discard: Script
    store_get: Script
    store_swap: Script


PRELUDES = {True: "entry", False: "moves"}
"""What stands before a script: of the store, or of a queue."""

FLAGS = {"enqueue": "", "look": "no-writes", "stats": "no-writes", "store_get": "no-writes"}
"""A full server refuses to add jobs; whatever ends them or gives room it still does."""


def load() -> Scripts:
    """Read every script."""
    return Scripts(**{name: _read(name) for name in Scripts.__struct_fields__})


def _read(name: str) -> Script:
    folder = files("taskq_redis") / "lua"
    prelude = PRELUDES[name.startswith("store_")]
    parts = [(folder / f"{part}.lua").read_text("utf-8") for part in (prelude, name)]
    flags = FLAGS.get(name, "allow-oom")
    text = "\n".join([f"#!lua flags={flags}" if flags else "#!lua", *parts]).encode()
    # The server names scripts so; it is no secret.
    return Script(name, text, sha1(text, usedforsecurity=False).hexdigest().encode())
