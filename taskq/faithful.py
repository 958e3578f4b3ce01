"""What would not arrive as it was sent is refused where it is sent, with its path."""

from collections.abc import Mapping, Sequence
from datetime import datetime, time
from math import isfinite
from typing import cast

from msgspec import inspect as shapes

from taskq.codec import children
from taskq.errors import EncodeError


def refuse_unfaithful(value: object, shape: shapes.Type, path: str) -> None:
    """Where nothing is said of a type, only what JSON gives back as it was may pass."""
    if isinstance(shape, shapes.AnyType) and not _is_json(value):
        raise EncodeError(
            f"{path}: a {type(value).__qualname__} would not arrive as it was sent; "
            "annotate the parameter with its type, or pass what JSON knows"
        )
    for step, part, inner in _typed_children(value, shape):
        refuse_unfaithful(part, inner, path + step)


def _typed_children(value: object, shape: shapes.Type) -> Sequence[tuple[str, object, shapes.Type]]:
    """The parts of a value, the step that leads to each, and what is said of its type."""
    inner: Mapping[str, shapes.Type] = {}
    match shape:
        case shapes.AnyType():
            return [(step, part, shape) for step, part in children(value)]
        case shapes.ListType() | shapes.SetType() | shapes.FrozenSetType() | shapes.VarTupleType():
            if isinstance(value, list | tuple | set | frozenset):
                return [(step, part, shape.item_type) for step, part in children(cast("object", value))]
        case shapes.DictType():
            if isinstance(value, Mapping):
                keys = dict.fromkeys(cast("Mapping[object, object]", value))
                values = [(step, part, shape.value_type) for step, part in children(cast("object", value))]
                return [("", keys, shape.key_type), *values]
        case shapes.TupleType():
            inner = {f"[{index}]": item for index, item in enumerate(shape.item_types)}
        case shapes.NamedTupleType():
            inner = {f"[{index}]": field.type for index, field in enumerate(shape.fields)}
        case shapes.StructType() | shapes.DataclassType() | shapes.TypedDictType():
            inner = {f".{field.name}": field.type for field in shape.fields}
        case shapes.UnionType():
            return [found for arm in shape.types for found in _typed_children(value, arm)]
        case _:
            pass
    return [(step, part, inner[step]) for step, part in children(value) if step in inner]


def _is_json(value: object) -> bool:
    if type(value) is dict:
        return all(type(key) is str for key in cast("dict[object, object]", value))
    return value is None or type(value) in (str, int, float, bool, list)


def refuse_not_finite(value: object, path: str) -> None:
    """JSON has no word for NaN and the infinities: they would arrive as None."""
    if isinstance(value, float) and not isfinite(value):
        raise EncodeError(f"{path}: {value} cannot be sent: it would arrive as None")
    for step, part in children(value):
        refuse_not_finite(part, path + step)


def refuse_naive(value: object, path: str) -> None:
    """A time without a zone names another moment on another machine."""
    if isinstance(value, datetime | time) and value.tzinfo is None:
        raise EncodeError(f"{path}: {value!r} has no time zone; say which moment is meant, as in datetime.now(UTC)")
    for step, part in children(value):
        refuse_naive(part, path + step)
