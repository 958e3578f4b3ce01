"""Values to bytes and back: JSON, typed on the way in. No pickle: hostile bytes can only fail to decode."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import msgspec
from msgspec import inspect as shapes

from taskq.errors import ConfigError, DecodeError, EncodeError

Converter = tuple[Callable[[Any], Any], Callable[[Any], Any]]
"""To something JSON knows, and back."""


class Codec:
    """How values cross the wire.

    msgspec's types (builtins, dataclasses, Structs, datetimes, UUID, Decimal, enums, unions …) and pydantic models are
    known; ``types`` adds others: ``Codec({Money: (str, Money.parse)})``.
    """

    def __init__(self, types: Mapping[type, Converter] | None = None) -> None:
        self._types = dict(types or {})
        self._encoder = msgspec.json.Encoder(enc_hook=self._to_json)
        self._canonical = msgspec.json.Encoder(enc_hook=self._to_json, order="deterministic")

    def encode(self, value: object) -> bytes:
        """Raises EncodeError naming the path of what cannot be sent."""
        try:
            return self._encoder.encode(value)
        except Exception as error:
            raise self._unfit(value, error) from error

    def encode_canonical(self, value: object) -> bytes:
        """As :meth:`encode`, but equal values give equal bytes, whatever the order of their keys."""
        try:
            return self._canonical.encode(value)
        except Exception as error:
            raise self._unfit(value, error) from error

    def decoder(self, type: Any) -> Callable[[bytes], Any]:
        """A function from bytes to a value of ``type``; it raises DecodeError and nothing else."""
        inner = msgspec.json.Decoder(type, dec_hook=self._from_json)

        def decode(data: bytes) -> Any:
            try:
                return inner.decode(data)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
                raise DecodeError(str(error)) from error
            except Exception as error:
                # A converter and a __post_init__ raise what they like.
                raise DecodeError(f"{error.__class__.__name__}: {error}") from error

        return decode

    def check_type(self, type: Any, name: str) -> shapes.Type:
        """The shape of a type; raises ConfigError when it cannot cross the wire."""
        try:
            shape = shapes.type_info(type)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{name}: {error}") from error
        for part in parts(shape):
            if isinstance(part, shapes.CustomType) and not self._knows(part.cls):
                raise ConfigError(
                    f"{name}: a {part.cls.__qualname__} cannot cross the wire; pass an id instead, or teach the app "
                    f"with App(codec=Codec({{{part.cls.__name__}: (to_json, from_json)}}))"
                )
        return shape

    def _unfit(self, value: object, error: Exception) -> EncodeError:
        """Any error will do: converters raise what they like."""
        return EncodeError(self._explain(value, error))

    def _knows(self, type: Any) -> bool:
        return type in self._types or hasattr(type, "model_validate")

    def _to_json(self, value: Any) -> Any:
        converter = self._types.get(cast("type[object]", type(value)))
        if converter is not None:
            return converter[0](value)
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")

    def _from_json(self, type: Any, value: Any) -> Any:
        converter = self._types.get(type)
        return converter[1](value) if converter is not None else type.model_validate(value)

    def _explain(self, value: object, error: Exception, path: str = "") -> str:
        """The path of the first part that does not encode, and why."""
        for step, part in children(value):
            try:
                self._encoder.encode(part)
            except Exception as inner:  # noqa: BLE001 - as in _unfit()
                if len(path) < 500:
                    return self._explain(part, inner, path + step)
        where = path.lstrip(".") or "the value"
        return f"{where}: a {type(value).__qualname__} cannot be sent ({error})"


def parts(shape: shapes.Type) -> list[shapes.Type]:
    """A shape and every shape inside it, each class once."""
    found: list[shapes.Type] = []
    seen: set[Any] = set()
    todo: list[Any] = [shape]
    while todo:
        part = todo.pop()
        cls = getattr(part, "cls", None)
        if isinstance(part, shapes.StructType | shapes.DataclassType | shapes.TypedDictType | shapes.NamedTupleType):
            if cls in seen:
                continue
            seen.add(cls)
        if isinstance(part, shapes.Field):
            todo.append(part.type)
            continue
        found.append(part)
        for field in getattr(part, "__struct_fields__", ()):
            value = getattr(part, field)
            members = cast("tuple[object, ...]", value if isinstance(value, tuple) else (value,))
            todo.extend(m for m in members if isinstance(m, shapes.Type | shapes.Field))
    return found


def changing(shape: shapes.Type) -> list[type]:
    """The classes in a shape whose objects have an id and can be changed: what is sent of them is a copy."""
    found: list[type] = []
    for part in parts(shape):
        match part:
            case shapes.StructType(cls=cls, fields=fields):
                names, frozen = {field.name for field in fields}, cls.__struct_config__.frozen
            case shapes.DataclassType(cls=cls, fields=fields):
                # A frozen one, of attrs too, has a setter of its own, which refuses.
                names = {field.name for field in fields}
                frozen = any("__setattr__" in vars(base) for base in cls.__mro__ if base is not object)
            case shapes.CustomType(cls=cls) if hasattr(cls, "model_validate"):
                model: Any = cls
                names, frozen = set(model.model_fields), model.model_config.get("frozen", False)
            case _:
                continue
        if not frozen and not names.isdisjoint(("id", "pk")):
            found.append(cls)
    return found


def children(value: object) -> Sequence[tuple[str, object]]:
    """The parts of a value with the step that leads to each."""
    if isinstance(value, Mapping):
        return [(f".{key}", part) for key, part in cast("Mapping[object, object]", value).items()]
    if isinstance(value, list | tuple | set | frozenset):
        return [(f"[{index}]", part) for index, part in enumerate(cast("Sequence[object]", value))]
    if isinstance(value, msgspec.Struct):
        return [(f".{name}", getattr(value, name)) for name in value.__struct_fields__]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(f".{field.name}", getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []
