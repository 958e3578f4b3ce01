"""Values that are remembered: encoded as arguments are, decoded by the type that a function names."""

import functools
import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from taskq.codec import Codec
from taskq.errors import DecodeError, EncodeError
from taskq.faithful import refuse_naive, refuse_not_finite, refuse_unfaithful


def remembered(codec: Codec, value: object, type: Any, what: str) -> bytes:
    """The bytes of a value; raises EncodeError for one that would not come back as it is."""
    refuse_unfaithful(value, codec.check_type(type, what), what)
    refuse_not_finite(value, what)
    refuse_naive(value, what)
    data = codec.encode(value)
    try:
        codec.decoder(type)(data)
    except DecodeError as error:
        raise EncodeError(f"{what}: {error}") from error
    return data


def returned_type(function: Callable[..., Any]) -> Any:
    """What a function says it returns; Any when it says nothing."""
    return _hints(function).get("return", Any)


def first_parameter_type(function: Callable[..., Any]) -> Any:
    """What a function says its first argument is; Any when it says nothing."""
    hints = _hints(function)
    return next((hint for name, hint in hints.items() if name != "return"), Any)


def _hints(function: Callable[..., Any]) -> dict[str, Any]:
    while isinstance(function, functools.partial):
        function = function.func
    try:
        return get_type_hints(inspect.unwrap(function))
    except (NameError, TypeError):
        return {}
