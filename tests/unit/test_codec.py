"""Values to bytes and back; what cannot cross is refused with its path."""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from taskq.codec import Codec
from taskq.errors import ConfigError, DecodeError, EncodeError


class Money:
    def __init__(self, amount: Decimal) -> None:
        self.amount = amount


class Broken(Exception):
    pass


@dataclass
class Positive:
    number: int

    def __post_init__(self) -> None:
        if self.number < 0:
            raise Broken("below nothing")


class Address(BaseModel):
    street: str
    number: int = 1


def _fails(_: object) -> Any:
    raise Broken("the converter")


MONEY = Codec({Money: (lambda money: str(money.amount), lambda text: Money(Decimal(text)))})


def test_a_custom_type_crosses_by_its_converters() -> None:
    body = MONEY.encode({"price": Money(Decimal("9.50"))})
    back = MONEY.decoder(dict[str, Money])(body)

    assert body == b'{"price":"9.50"}'
    assert back["price"].amount == Decimal("9.50")


def test_a_pydantic_model_crosses_and_is_validated() -> None:
    decode = Codec().decoder(Address)

    assert decode(Codec().encode(Address(street="High"))) == Address(street="High", number=1)
    with pytest.raises(DecodeError):
        decode(b'{"street": 5}')


@pytest.mark.parametrize("body", [b'"zz"', b"null", b'"1e"', b"[]"])
def test_whatever_a_converter_raises_is_a_decode_error(body: bytes) -> None:
    with pytest.raises(DecodeError):
        MONEY.decoder(Money)(body)


def test_whatever_a_post_init_raises_is_a_decode_error() -> None:
    with pytest.raises(DecodeError, match="Broken: below nothing"):
        Codec().decoder(Positive)(b'{"number": -1}')


def test_whatever_a_converter_raises_is_an_encode_error_with_the_path() -> None:
    codec = Codec({Money: (_fails, _fails)})

    with pytest.raises(EncodeError, match=r"^order\.lines\[1\]: a Money cannot be sent \(the converter\)"):
        codec.encode({"order": {"lines": [1, Money(Decimal(1))]}})


@dataclass
class Line:
    item: object


class Order(msgspec.Struct):
    lines: list[Line]


@pytest.mark.parametrize(
    ("value", "path"),
    [
        (object(), "the value"),
        ({"a": [1, {"b": object()}]}, r"a\[1\]\.b"),
        (Order([Line(1), Line(object())]), r"lines\[1\]\.item"),
        ({"a": (1, {object()})}, r"a\[1\]\[0\]"),
        ({"a": "\ud800"}, "a"),
        ({"a": {(1, 2): 3}}, "a"),
    ],
)
def test_what_cannot_be_sent_is_named_by_its_path(value: object, path: str) -> None:
    with pytest.raises(EncodeError, match=rf"^{path}: a .* cannot be sent"):
        Codec().encode(value)


def test_a_value_that_contains_itself_is_refused() -> None:
    circle: list[object] = []
    circle.append(circle)

    with pytest.raises(EncodeError):
        Codec().encode({"a": circle})


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@given(JSON)
def test_what_json_knows_arrives_as_it_was_sent(value: object) -> None:
    assert Codec().decoder(Any)(Codec().encode(value)) == value


@given(st.dictionaries(st.text(), JSON))
def test_equal_values_give_equal_canonical_bytes(value: Mapping[str, object]) -> None:
    backwards = {key: value[key] for key in reversed(list(value))}

    assert Codec().encode_canonical(value) == Codec().encode_canonical(backwards)


def test_sets_have_one_canonical_order() -> None:
    assert Codec().encode_canonical({"c", "a", "b"}) == b'["a","b","c"]'


def test_what_has_no_canonical_bytes_is_an_encode_error() -> None:
    with pytest.raises(EncodeError, match=r"^a: a object"):
        Codec().encode_canonical({"a": object()})


def test_a_type_that_cannot_cross_is_refused_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match=r"parameter: a Money cannot cross the wire; pass an id instead, or teach"):
        Codec().check_type(list[Money | None], "parameter")
    MONEY.check_type(list[Money | None], "parameter")
    Codec().check_type(dict[str, Address], "parameter")


def test_a_type_inside_a_recursive_type_is_checked_once() -> None:
    Codec().check_type(Node, "parameter")
    with pytest.raises(ConfigError, match="Money"):
        Codec().check_type(BadNode, "parameter")


@dataclass
class Node:
    children: "list[Node]"


@dataclass
class BadNode:
    children: "list[BadNode]"
    price: Money
