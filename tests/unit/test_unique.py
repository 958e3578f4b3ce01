"""Equal calls have equal keys, however they are spelled."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taskq.codec import Codec
from taskq.errors import ConfigError, EncodeError
from taskq.signature import Signature
from taskq.unique import KeySpec, check_names, derive_key


def send(to: str, copies: int = 1, *, at: datetime | None = None, options: dict[str, int] | None = None) -> None: ...


SEND = Signature(send, Codec())


def key(spec: KeySpec, *args: Any, **kwargs: Any) -> str | None:
    return derive_key(spec, "mail.send", {**SEND.defaults, **SEND.bind(args, kwargs)}, Codec())


@given(st.text(), st.integers(0, 9), st.dictionaries(st.text(max_size=3), st.integers(0, 9)))
def test_keys_are_equal_however_the_arguments_are_passed(to: str, copies: int, options: dict[str, int]) -> None:
    backwards = {name: options[name] for name in reversed(list(options))}

    spelled = {
        key(True, to, copies, options=options),
        key(True, to, copies=copies, options=backwards),
        key(True, options=options, copies=copies, to=to),
    }

    assert len(spelled) == 1


def test_a_default_that_is_said_is_the_default() -> None:
    assert key(True, "a") == key(True, "a", 1) == key(True, "a", copies=1, at=None)


def test_other_arguments_give_other_keys() -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    keys = [key(True, "a"), key(True, "b"), key(True, "a", 2), key(True, "a", at=now), key(True, "a", options={"a": 1})]

    assert len(set(keys)) == len(keys)


def test_a_key_of_some_names_leaves_out_the_others() -> None:
    assert key(("to",), "a", 1) == key(("to",), "a", 2)
    assert key(("to",), "a") != key(("to",), "b")
    assert key(("to", "copies"), "a", 1) != key(("to", "copies"), "a", 2)


def test_keys_of_different_tasks_differ_unless_the_key_is_said() -> None:
    def of(task: str, spec: KeySpec) -> str | None:
        return derive_key(spec, task, {"a": 1}, Codec())

    assert of("one", True) != of("two", True)
    assert of("one", "welcome:42") == of("two", "welcome:42") == "welcome:42"
    assert of("one", False) is None


def test_a_name_the_task_does_not_take_is_refused_with_those_it_takes() -> None:
    with pytest.raises(ConfigError, match=r"made of 'recipient', which is none of its arguments \(at, copies"):
        check_names(("to", "recipient"), "mail.send", SEND.names)
    check_names(("to", "copies"), "mail.send", SEND.names)
    check_names("to whom it may concern", "mail.send", SEND.names)


def test_spread_arguments_have_a_key_when_there_are_none() -> None:
    def handler(*ids: int, **more: str) -> None: ...

    signature = Signature(handler, Codec())
    known = {**signature.defaults, **signature.bind((), {})}

    assert derive_key(("ids",), "t", known, Codec()) == derive_key(("ids",), "t", {"ids": ()}, Codec())


def test_a_default_that_cannot_be_sent_makes_no_key() -> None:
    with pytest.raises(EncodeError, match=r"^to: a object"):
        derive_key(True, "t", {"to": object()}, Codec())
