"""The Lua of this backend: one script a file in ``lua/``, read once when the backend opens."""

from collections.abc import Sequence
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
    discard_and_settle: Script
    enqueue: Script
    enqueue_one: Script
    enqueue_plain: Script
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


FLAGS = {
    "enqueue": "",
    "enqueue_one": "",
    "enqueue_plain": "",
    "look": "no-writes",
    "stats": "no-writes",
    "store_get": "no-writes",
}
"""A full server refuses to add jobs; whatever ends them or gives room it still does."""

FUNCTIONS = {"discard_and_settle": {"discard": "store_discard", "settle": "settle"}}
"""Scripts that are functions of another, which calls them with keys and arguments of their own."""


def load() -> Scripts:
    """Read every script."""
    return Scripts(**{name: _script(name) for name in Scripts.__struct_fields__})


def preludes(name: str) -> Sequence[str]:
    """What stands before a script. All of it runs in each call, so the commonest one has the least."""
    if name.startswith("store_"):
        return ["entry"]
    if name in FUNCTIONS:
        return []
    if name == "enqueue_plain":
        return ["base"]
    if name == "enqueue_one":
        return ["base", "telling"]
    return ["base", "telling", *(["claim_plain"] if name == "claim" else []), "moves"]


def _script(name: str) -> Script:
    flags = FLAGS.get(name, "allow-oom")
    functions = [f"local function {of}(KEYS, ARGV)\n{_body(body)}\nend" for of, body in FUNCTIONS.get(name, {}).items()]
    text = "\n".join([f"#!lua flags={flags}" if flags else "#!lua", *functions, _body(name)]).encode()
    # The server names scripts so; it is no secret.
    return Script(name, text, sha1(text, usedforsecurity=False).hexdigest().encode())


def _body(name: str) -> str:
    folder = files("taskq_redis") / "lua"
    return "\n".join((folder / f"{part}.lua").read_text("utf-8") for part in (*preludes(name), name))
