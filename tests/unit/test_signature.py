"""Calls to bytes and back: faithful, or refused at the call site."""

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum
from typing import Annotated, Any, Literal, NamedTuple, TypedDict, cast
from uuid import UUID

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict

from taskq.codec import Codec
from taskq.errors import ConfigError, DecodeError, EncodeError
from taskq.signature import Signature


def signature_of(function: Callable[..., Any], **options: Any) -> Signature:
    return Signature(function, Codec(), **options)


def arrived(function: Callable[..., Any], *args: Any, **kwargs: Any) -> dict[str, Any]:
    """What the function would see of this call after the wire, by name, its own defaults filled in."""
    signature = signature_of(function)
    args, kwargs = signature.decode(signature.encode(signature.bind(args, kwargs)))
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()
    return bound.arguments


# Round trips


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


@dataclass
class Item:
    name: str
    price: Decimal
    tags: frozenset[str] = frozenset()


class Parcel(msgspec.Struct):
    items: list[Item]
    colour: Colour
    sent: datetime | None = None


class Model(BaseModel):
    model_config = ConfigDict(ser_json_inf_nan="strings")
    id: UUID
    when: datetime
    level: Level


class Place(NamedTuple):
    x: float
    y: float


class Person(TypedDict, total=False):
    name: str
    age: int


# Real zones have hours that Python calls unequal to themselves in any other zone: those that a clock skips or repeats.
ZONES = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))
MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001 - bounds are naive
FINITE = st.floats(allow_nan=False, allow_infinity=False)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False)
ITEMS = st.builds(Item, st.text(), DECIMALS, st.frozensets(st.text(max_size=5), max_size=3))
PARCELS = st.builds(Parcel, st.lists(ITEMS, max_size=3), st.sampled_from(Colour), st.none() | MOMENTS)
MODELS = st.builds(
    Model, id=st.uuids(), when=MOMENTS.map(lambda moment: moment.astimezone(UTC)), level=st.sampled_from(Level)
)
SPANS = st.timedeltas(timedelta(days=-10_000), timedelta(days=10_000))


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (int, st.integers(-(2**63), 2**64 - 1)),
        (bool, st.booleans()),
        (float, FINITE),
        (str, st.text()),
        (bytes, st.binary()),
        (Decimal, DECIMALS),
        (UUID, st.uuids()),
        (datetime, MOMENTS),
        (date, st.dates()),
        (time, st.times(timezones=st.just(UTC))),
        (timedelta, SPANS),
        (Colour, st.sampled_from(Colour)),
        (Level, st.sampled_from(Level)),
        (Literal["a", "b", 3], st.sampled_from(["a", "b", 3])),
        (int | str | None, st.none() | st.integers(-(2**63), 2**63) | st.text()),
        (float | bool | None, st.none() | FINITE | st.booleans()),
        (Item, ITEMS),
        (Parcel, PARCELS),
        (Parcel | None, st.none() | PARCELS),
        (Model, MODELS),
        (list[Model], st.lists(MODELS, max_size=2)),
        (Place, st.builds(Place, FINITE, FINITE)),
        (Person, st.fixed_dictionaries({}, optional={"name": st.text(), "age": st.integers(0, 200)})),
        (list[list[int]], st.lists(st.lists(st.integers(-9, 9), max_size=3), max_size=3)),
        (dict[str, list[Colour]], st.dictionaries(st.text(), st.lists(st.sampled_from(Colour), max_size=2))),
        (dict[int, float], st.dictionaries(st.integers(-99, 99), FINITE)),
        (dict[UUID, Decimal], st.dictionaries(st.uuids(), DECIMALS, max_size=3)),
        (set[int], st.sets(st.integers(-99, 99))),
        (frozenset[date], st.frozensets(st.dates())),
        (tuple[int, str], st.tuples(st.integers(0, 9), st.text())),
        (tuple[Decimal, ...], st.lists(DECIMALS).map(tuple)),
        (Annotated[int, msgspec.Meta(ge=0)], st.integers(0, 99)),
        (Sequence[int], st.lists(st.integers(0, 9))),
        (Mapping[str, int], st.dictionaries(st.text(), st.integers(0, 9))),
    ],
    ids=lambda given: "" if isinstance(given, st.SearchStrategy) else str(given),
)
def test_a_value_of_an_annotated_type_arrives_as_it_was_sent(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    def handler(value: Any) -> None: ...

    handler.__annotations__["value"] = annotation
    signature = signature_of(handler)

    @given(values)
    def arrives(value: Any) -> None:
        (back,), _ = signature.decode(signature.encode({"value": value}))
        assert back == value
        assert type(back) is type(value)

    arrives()


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers(0, 9) | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
    | st.dates() | st.uuids() | st.decimals(),
    lambda inner: st.lists(inner, max_size=3) | st.tuples(inner) | st.frozensets(st.integers(0, 9), max_size=2)
    | st.dictionaries(st.text(max_size=3) | st.integers(0, 9), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@dataclass
class Loose:
    payload: Any = None


@pytest.mark.parametrize(
    ("annotation", "values"),
    [
        (Any, ANYTHING),
        (list[Any] | None, st.none() | st.lists(ANYTHING, max_size=3)),
        (dict[Any, Any] | str, st.dictionaries(st.text(max_size=3) | st.integers(0, 9), ANYTHING, max_size=3)),
        (tuple[Any, ...], st.lists(ANYTHING, max_size=3).map(tuple)),
        (Loose, st.builds(Loose, ANYTHING)),
    ],
    ids=["Any", "list", "dict", "tuple", "dataclass"],
)
def test_where_nothing_is_said_of_a_type_a_value_is_faithful_or_refused(
    annotation: Any, values: st.SearchStrategy[Any]
) -> None:
    def handler(value: Any) -> None: ...

    handler.__annotations__["value"] = annotation
    signature = signature_of(handler)

    @given(values)
    def faithful_or_refused(value: Any) -> None:
        try:
            body = signature.encode({"value": value})
        except EncodeError:
            return
        (back,), _ = signature.decode(body)
        assert same(back, value)

    faithful_or_refused()


def same(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Loose):
        return same(one.payload, other.payload)
    if isinstance(one, list | tuple):
        pairs = zip(cast("Sequence[Any]", one), cast("Sequence[Any]", other), strict=True)
        return all(same(*pair) for pair in pairs)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - anything
    return bool(one == other)


# How a call is spelled


def mixed(a: int, b: str = "b", *rest: float, c: int, d: int = 4, **more: str) -> None: ...
def positional(a: int, b: int = 2, /, c: int = 3) -> None: ...
def spread(*numbers: int) -> None: ...
def named(**words: str) -> None: ...
def nothing() -> None: ...


@pytest.mark.parametrize(
    ("function", "args", "kwargs"),
    [
        (mixed, (1,), {"c": 3}),
        (mixed, (1, "x"), {"c": 3, "d": 5}),
        (mixed, (), {"a": 1, "b": "x", "c": 3}),
        (mixed, (1, "x", 0.5, 1.5), {"c": 3, "z": "zz"}),
        (mixed, (1,), {"c": 3, "y": "yy", "z": "zz"}),
        (positional, (1,), {}),
        (positional, (1, 5), {"c": 6}),
        (positional, (1, 5, 6), {}),
        (spread, (), {}),
        (spread, (1, 2, 3), {}),
        (named, (), {"words": "even this", "self": "and this"}),
        (nothing, (), {}),
    ],
)
def test_a_call_arrives_as_python_would_have_bound_it(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    bound = inspect.signature(function).bind(*args, **kwargs)
    bound.apply_defaults()

    assert arrived(function, *args, **kwargs) == bound.arguments


@given(st.data())
def test_positions_and_keywords_give_equal_bodies(data: st.DataObject) -> None:
    def handler(a: int, b: int = 2, c: int = 3) -> None: ...

    signature = signature_of(handler)
    values = data.draw(st.lists(st.integers(0, 9), min_size=1, max_size=3))
    split = data.draw(st.integers(0, len(values)))
    by_name = dict(list(zip("abc", values, strict=False))[split:])

    assert signature.encode(signature.bind(values[:split], by_name)) == signature.encode(signature.bind(values, {}))


def test_what_the_caller_left_out_is_left_out_on_the_wire_so_that_the_newest_default_counts() -> None:
    def old(a: int, b: int = 2, *, c: int = 3) -> None: ...
    def new(a: int, b: int = 20, *, c: int = 30, d: int = 40) -> tuple[int, int, int, int]:
        return a, b, c, d

    body = signature_of(old).encode(signature_of(old).bind((1,), {}))
    args, kwargs = signature_of(new).decode(body)

    assert body == b'{"v":1,"args":{"a":1}}'
    assert new(*args, **kwargs) == (1, 20, 30, 40)


def test_the_newest_default_counts_before_spread_arguments_too() -> None:
    def handler(a: int, b: int = 20, *rest: int) -> tuple[int, ...]:
        return a, b, *rest

    args, kwargs = signature_of(handler).decode(b'{"args":{"a":1,"rest":[7]}}')

    assert handler(*args, **kwargs) == (1, 20, 7)


def test_a_left_out_positional_only_argument_does_not_shift_the_others() -> None:
    def handler(a: int = 10, b: int = 20, /) -> tuple[int, int]:
        return a, b

    args, kwargs = signature_of(handler).decode(b'{"args":{"b":5}}')

    assert handler(*args, **kwargs) == (10, 5)


def test_unknown_fields_are_ignored() -> None:
    def handler(a: int) -> None: ...

    assert signature_of(handler).decode(b'{"v":1,"args":{"a":1,"gone":2},"trace":"x"}') == ((1,), {})


def test_a_newer_wire_version_asks_for_an_upgrade() -> None:
    with pytest.raises(DecodeError, match="upgrade this worker"):
        signature_of(nothing).decode(b'{"v":2,"args":{}}')


def test_injected_parameters_are_no_part_of_the_call() -> None:
    def handler(a: int, *, pool: object = None) -> None: ...

    signature = signature_of(handler, injected=frozenset({"pool"}))

    assert signature.decode(signature.encode(signature.bind((1,), {}))) == ((1,), {})
    with pytest.raises(EncodeError, match="pool"):
        signature.bind((1,), {"pool": 5})


def test_nobody_fills_an_injected_or_typed_parameter_by_way_of_the_spare_keywords() -> None:
    def handler(a: int, *, pool: object = None, **more: Any) -> None: ...

    signature = signature_of(handler, injected=frozenset({"pool"}))

    with pytest.raises(EncodeError, match=r"'pool' is not one of its \*\*more"):
        signature.bind((1,), {"pool": 5})
    for name in ("pool", "a"):
        with pytest.raises(DecodeError, match=rf"'{name}' is not one of its \*\*more"):
            signature.decode(b'{"args":{"a":1,"more":{"%s":5}}}' % name.encode())


# Refused at the call site


@pytest.mark.parametrize(
    ("args", "kwargs", "says"),
    [
        ((), {}, "missing a required argument: 'to'"),
        (("a", "b"), {}, "too many positional arguments"),
        (("a",), {"subjekt": "x"}, "unexpected keyword argument 'subjekt'"),
        (("a",), {"to": "b"}, "multiple values for argument 'to'"),
    ],
)
def test_a_call_the_function_would_not_take_is_refused(
    args: tuple[Any, ...], kwargs: dict[str, Any], says: str
) -> None:
    def send(to: str, *, subject: str = "") -> None: ...

    with pytest.raises(EncodeError, match=rf"send\(\): .*{says}"):
        signature_of(send).bind(args, kwargs)


class Unknown:
    pass


@pytest.mark.parametrize(
    ("annotation", "value", "says"),
    [
        (int, "5", r"value: Expected `int`, got `str`"),
        (int, True, r"value: Expected `int`, got `bool`"),
        (str, None, r"value: Expected `str`, got `null`"),
        (Literal["a", "b"], "c", r"value: Invalid enum value 'c'"),
        (Annotated[int, msgspec.Meta(ge=0)], -1, r"value: Expected `int` >= 0"),
        (list[int], [1, "2"], r"value\[1\]: Expected `int`, got `str`"),
        (dict[str, list[int]], {"a": [1, 2.5]}, r"value.*: Expected `int`, got `float`"),
        (Item, Item("a", Decimal(1), cast("Any", [1])), r"value\.tags\[0\]: Expected `str`"),
        (float, math.nan, r"value: nan cannot be sent"),
        (float | None, math.inf, r"value: inf cannot be sent"),
        (list[float | None], [1.0, None, math.nan], r"value\[2\]: nan cannot be sent"),
        (Any, {"a": [-math.inf]}, r"value\.a\[0\]: -inf cannot be sent"),
        (Any, {1, 2}, r"value: a set would not arrive as it was sent; annotate"),
        (Any, {"a": (1, 2)}, r"value\.a: a tuple would not arrive"),
        (Any, {1: 2}, r"value: a dict would not arrive"),
        (Any, [Unknown()], r"value\[0\]: a Unknown would not arrive"),
        (Any, Colour.RED, r"value: a Colour would not arrive"),
        (Any, b"raw", r"value: a bytes would not arrive"),
        (dict, {1: 2}, r"value: a dict would not arrive"),
        (list, [{1}], r"value\[0\]: a set would not arrive"),
        (list[Any] | None, [1, {2}], r"value\[1\]: a set would not arrive"),
        (tuple[int, Any], (1, {2}), r"value\[1\]: a set would not arrive"),
        (Loose, Loose({"a": {2}}), r"value\.payload\.a: a set would not arrive"),
        (dict[str, Loose], {"x": Loose((1,))}, r"value\.x\.payload: a tuple would not arrive"),
        (datetime, datetime(2030, 1, 1), r"value: .* has no time zone"),  # noqa: DTZ001 - what is refused
        (list[Parcel], [Parcel([], Colour.RED, datetime(2030, 1, 1))], r"value\[0\]\.sent: .* has no time zone"),  # noqa: DTZ001
        (time, time(12), r"value: .* has no time zone"),
        (str, "\ud800", r"value: a str cannot be sent"),
    ],
)
def test_what_would_not_arrive_as_it_was_sent_is_refused_with_its_path(annotation: Any, value: Any, says: str) -> None:
    def handler(value: Any) -> None: ...

    handler.__annotations__["value"] = annotation
    with pytest.raises(EncodeError, match=rf"handler\(\): {says}"):
        signature_of(handler).encode({"value": value})


def test_null_and_the_word_null_are_no_reason_to_refuse() -> None:
    def handler(a: float | None, b: str) -> None: ...

    assert arrived(handler, None, "null") == {"a": None, "b": "null"}


@pytest.mark.parametrize("annotation", [Any, list[Any]])
def test_a_value_that_contains_itself_is_refused(annotation: Any) -> None:
    def handler(value: Any) -> None: ...

    handler.__annotations__["value"] = annotation
    circle: list[Any] = []
    circle.append(circle)
    with pytest.raises(EncodeError, match="nested too deeply, or contain themselves"):
        signature_of(handler).encode({"value": circle})


# Refused at import


def no_codec(value: Unknown) -> None: ...
def no_union(value: str | datetime) -> None: ...
def no_result() -> Unknown:
    return Unknown()


def no_name(value: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821  # pyright: ignore[reportUndefinedVariable, reportUnknownParameterType] - what is refused
def no_nested(value: list[dict[str, Unknown]]) -> None: ...


REFUSED: list[tuple[Callable[..., Any], str]] = [
    (no_codec, r"parameter 'value': a Unknown cannot cross the wire; pass an id instead"),
    (no_union, r"parameter 'value': Type unions may not contain more than one str-like"),
    (no_result, r"its result: a Unknown cannot cross the wire"),
    (no_name, r"its annotations cannot be read: name 'Nowhere'"),
    (no_nested, r"parameter 'value': a Unknown"),
]


@pytest.mark.parametrize(("function", "says"), REFUSED)
def test_a_function_whose_calls_cannot_cross_the_wire_is_refused(function: Callable[..., Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        signature_of(function)


# Hostile bodies


class Money:
    def __init__(self, amount: Decimal) -> None:
        self.amount = amount


@dataclass
class Tree:
    name: str
    price: Decimal | None = None
    children: "list[Tree]" = field(default_factory=list["Tree"])


def hostile(
    a: int,
    b: list[Parcel] | None = None,
    /,
    c: Any = None,
    *rest: Tree,
    d: Model | None = None,
    e: Literal["x", 1] = "x",
    f: dict[int, float] | None = None,
    g: Money | None = None,
    **more: datetime,
) -> None: ...


HOSTILE = Signature(hostile, Codec({Money: (lambda money: str(money.amount), lambda text: Money(Decimal(text)))}))
VALID = (
    b'{"v":1,"args":{"a":1,"b":[{"items":[{"name":"n","price":"1.5"}],"colour":"red"}],"c":{"k":[1,null]},'
    b'"rest":[{"name":"t","children":[{"name":"u"}]}],"d":{"id":"12345678123456781234567812345678",'
    b'"when":"2030-01-01T00:00:00Z","level":1},"e":1,"f":{"1":2.5},"g":"9.5","more":{"m":"2030-01-01T00:00:00Z"}}}'
)


def only_decodes_or_refuses(body: bytes) -> None:
    try:
        args, kwargs = HOSTILE.decode(body)
    except DecodeError:
        return
    # Whatever is let through can be called with, and is of the types the function says.
    bound = inspect.signature(hostile).bind(*args, **kwargs)
    assert type(bound.arguments["a"]) is int


def test_the_valid_body_is_valid() -> None:
    args, kwargs = HOSTILE.decode(VALID)

    assert args[0] == 1
    assert kwargs["m"] == datetime(2030, 1, 1, tzinfo=UTC)


@given(st.binary())
@example(b"")
@example(b"\xff\xfe")
@example(b"null")
@example(b"[" * 100_000)
@example(b'{"args":{"a":1,"c":' + b"[" * 5000 + b"]" * 5000 + b"}}")
@example(b'{"args":{"a":1,"rest":[' + b'{"name":"x","children":[' * 3000)
@example(b'{"args":{"a":' + b"9" * 5000 + b"}}")
@example(b'{"args":{"a":1,"c":' + b"9" * 5000 + b"}}")
@example(b'{"args":{"a":1,"c":1e400}}')
@example(b'{"args":{"a":1,"a":"x"},"args":{"a":"y"}}')
@example(b'{"args":{"a":1,"c":"\\ud800"}}')
@example(b'{"args":{"a":1,"c":"\\udc00\\ud800"}}')
@example(b'{"args":{"a":1,"c":"\xed\xa0\x80"}}')
@example(b'{"args":{"a":1,"g":"zz"}}')
@example(b'{"args":{"a":1,"g":"sNaN"}}')
@example(b'{"args":{"a":1,"more":{"a":"2030-01-01T00:00:00Z"}}}')
@example(b'{"args":{"a":1,"more":{"d":"2030-01-01T00:00:00Z"}}}')
@example(b'{"v":1e30,"args":{"a":1}}')
@example(b'{"v":-1,"args":{"a":1}}')
@example(b'{"args":{"a":1},"v":' + b"9" * 400 + b"}")
def test_hostile_bytes_only_fail_to_decode(body: bytes) -> None:
    only_decodes_or_refuses(body)


@given(st.data())
def test_mutations_of_a_valid_body_only_fail_to_decode(data: st.DataObject) -> None:
    body = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(body)))
        end = data.draw(st.integers(start, min(len(body), start + 20)))
        body[start:end] = data.draw(
            st.binary(max_size=5) | st.sampled_from([b"null", b"-1", b"1e999", b'"', b"{}", b"[[", b"\\ud800", b","])
        )

    only_decodes_or_refuses(bytes(body))


LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5)
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["name", "price", "children", "items", "id", "1"]), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c", "rest", "d", "e", "f", "g", "more"]), TREES))
def test_shapes_of_the_wrong_types_only_fail_to_decode(args: dict[str, Any]) -> None:
    only_decodes_or_refuses(msgspec.json.encode({"v": 1, "args": {"a": 1, **args}}))
