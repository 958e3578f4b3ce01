"""How the calls of one function look on the wire, typed by its annotations.

A call is ``{"v": 1, "args": {"to": "a@example.org"}}``: every argument under its name, unknown fields ignored, what
the caller left out left out here too. Any language can write it.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias
from typing import Any, cast, get_type_hints

import msgspec
from msgspec import inspect as shapes

from taskq.codec import Codec, parts
from taskq.errors import CodecError, ConfigError, DecodeError, EncodeError
from taskq.faithful import refuse_naive, refuse_not_finite, refuse_unfaithful

WIRE_VERSION = 1


class Signature:
    """Binds, encodes and decodes calls of one function; made once per task.

    Raises ConfigError for a function whose parameters cannot cross it. ``injected`` names parameters that are not part
    of the call.
    """

    def __init__(self, function: Callable[..., Any], codec: Codec, *, injected: frozenset[str] = frozenset()) -> None:
        self.name = getattr(function, "__qualname__", repr(function))
        try:
            hints = get_type_hints(function, include_extras=True)
            self._signature = inspect.signature(function)
        except (NameError, TypeError, ValueError) as error:
            raise ConfigError(f"{self.name}(): its annotations cannot be read: {error}") from error
        everything = self._signature.parameters.values()
        parameters = [p for p in everything if p.name not in injected]
        self._codec = codec
        self._signature = self._signature.replace(parameters=parameters)
        self._positional = tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))
        self._keyword = tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)
        self._spread = next((p.name for p in parameters if p.kind is p.VAR_POSITIONAL), None)
        self._extra = next((p.name for p in parameters if p.kind is p.VAR_KEYWORD), None)
        self._only = tuple(p.name for p in parameters if p.kind is p.POSITIONAL_ONLY)
        self._taken = frozenset(p.name for p in everything if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY))
        variadic = (self._spread, self._extra)
        self._required = frozenset(p.name for p in parameters if p.default is p.empty and p.name not in variadic)
        self.defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
        """What a call is taken to say where it says nothing."""
        self._simple = variadic == (None, None) and not self._only
        self._whole = self._simple and self._required.issubset(self._positional)
        self.names = frozenset(p.name for p in parameters)
        fields: list[tuple[str, Any, Any]] = []
        annotations: dict[str, Any] = {**hints}
        if self._spread:
            self.defaults[self._spread] = []
            annotations[self._spread] = GenericAlias(list, (hints.get(self._spread, Any),))
        if self._extra:
            self.defaults[self._extra] = {}
            annotations[self._extra] = GenericAlias(dict, (str, hints.get(self._extra, Any)))
        self.shapes: dict[str, shapes.Type] = {}
        """Of its arguments."""
        self._loose: list[tuple[str, shapes.Type]] = []
        self._dated: list[str] = []
        self._lists = False
        # The wire's order is the order in which decode() hands values to the function.
        for name in (*self._positional, *(n for n in variadic if n), *self._keyword):
            annotation = annotations.get(name, Any)
            shape = codec.check_type(annotation, f"{self.name}(): parameter {name!r}")
            self.shapes[name] = shape
            if any(isinstance(part, shapes.AnyType) for part in parts(shape)):
                self._loose.append((name, shape))
            if any(isinstance(part, shapes.DateTimeType | shapes.TimeType) for part in parts(shape)):
                self._dated.append(name)
            required = name in self._required
            self._lists = isinstance(shape, shapes.ListType)
            fields.append((name, annotation, msgspec.field() if required else msgspec.field(default=msgspec.UNSET)))
        self.arguments = msgspec.defstruct("Arguments", fields, kw_only=True)
        """A call's arguments on the wire."""
        self._decode = codec.decoder(
            msgspec.defstruct("Wire", [("args", self.arguments), ("v", int, WIRE_VERSION)], kw_only=True)
        )
        self.returns: Any = hints.get("return", Any)
        codec.check_type(type(None) if self.returns is None else self.returns, f"{self.name}(): its result")

    @property
    def takes_a_list(self) -> bool:
        """Whether it takes one argument, a list."""
        return len(self.names) == 1 and self._lists

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """The arguments by name, without defaults; raises EncodeError for a call the function would not take."""
        if self._whole and not kwargs and len(args) == len(self._positional):
            return dict(zip(self._positional, args, strict=False))
        if self._simple and len(args) <= len(self._positional):
            call = dict(zip(self._positional, args, strict=False))
            if not (kwargs and (not self.names.issuperset(kwargs) or not call.keys().isdisjoint(kwargs))):
                call.update(kwargs)
                if self._required <= call.keys():
                    return call
        try:
            call = dict(self._signature.bind(*args, **kwargs).arguments)
        except TypeError as error:
            raise EncodeError(f"{self.name}(): {error}") from error
        if self._extra:
            self._refuse_taken(call.get(self._extra, {}), EncodeError)
        return call

    @property
    def first(self) -> str:
        """The argument that a call with one value gives; raises ConfigError where there is no such call."""
        name = next(iter(self._positional), None)
        if name is None or self._required - {name}:
            raise ConfigError(f"{self.name}(): it is to be called with one value, and its parameters are not such")
        return name

    def encode_nothing(self) -> bytes:
        """The body of a call whose arguments are still to come."""
        return self._codec.encode({"v": WIRE_VERSION, "args": {}})

    def encode(self, arguments: Mapping[str, Any]) -> bytes:
        """A call's body; raises EncodeError, with the argument's path, for what would not arrive as it was sent."""
        if self._loose or self._dated:
            self._refuse_unfaithful(arguments)
        try:
            body = self._codec.encode({"v": WIRE_VERSION, "args": arguments})
        except EncodeError as error:
            raise EncodeError(f"{self.name}(): {str(error).removeprefix('args.')}") from error
        # JSON has no word for NaN and the infinities: they are written as null.
        if b"null" in body:
            for name, value in arguments.items():
                refuse_not_finite(value, f"{self.name}(): {name}")
        try:
            self._decode(body)
        except DecodeError as error:
            raise EncodeError(f"{self.name}(): {_readable(error)}") from error
        return body

    def _refuse_unfaithful(self, arguments: Mapping[str, Any]) -> None:
        try:
            for name, shape in self._loose:
                if name in arguments:
                    refuse_unfaithful(arguments[name], shape, f"{self.name}(): {name}")
            for name in self._dated:
                if name in arguments:
                    refuse_naive(arguments[name], f"{self.name}(): {name}")
        except RecursionError as error:
            raise EncodeError(f"{self.name}(): its arguments are nested too deeply, or contain themselves") from error

    def decode(self, body: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The positional and keyword arguments of a body; raises DecodeError and nothing else."""
        wire = self._decode(body)
        if wire.v > WIRE_VERSION:
            raise DecodeError(f"wire version {wire.v} is newer than {WIRE_VERSION}: upgrade this worker")
        values = msgspec.structs.astuple(wire.args)
        if self._simple and not self._keyword and msgspec.UNSET not in values:
            return values, {}
        return self._spell_out(msgspec.structs.asdict(wire.args))

    def _spell_out(self, given: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = {name: value for name, value in given.items() if value is not msgspec.UNSET}
        spread = cast("list[Any]", given.pop(self._spread, []) if self._spread else [])
        extra = cast("dict[str, Any]", given.pop(self._extra, {}) if self._extra else {})
        self._refuse_taken(extra, DecodeError)
        filled = {**self.defaults, **given}
        leading = self._positional if spread else self._only
        named = {name: value for name, value in given.items() if name not in leading}
        return (*(filled[name] for name in leading), *spread), {**named, **extra}

    def _refuse_taken(self, extra: Mapping[str, Any], error: type[CodecError]) -> None:
        """What is sent for ``**kwargs`` must not fill a parameter of its own, least of all a provided one."""
        taken = sorted(self._taken.intersection(extra))
        if taken:
            raise error(f"{self.name}(): {taken[0]!r} is not one of its **{self._extra}")


def _readable(error: DecodeError) -> str:
    """msgspec's message, with the argument's own path in front."""
    message, _, path = str(error).partition(" - at `$.args")
    return f"{path.strip('.`')}: {message}" if path.strip("`") else message
