"""What handlers get besides the arguments of the call: opened once per app, worker or job, closed in reverse."""

import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any, Literal, TypeVar, cast, overload

import anyio
from msgspec import Struct

from taskq.errors import ConfigError

T = TypeVar("T")

Scope = Literal["app", "worker", "job"]
Provider = Callable[..., Any]
"""A function, coroutine function, async generator function or maker of an async context manager."""

_WIDTH: Mapping[str, int] = {"job": 0, "worker": 1, "app": 2}


class Dependency(Struct, frozen=True):
    """A parameter's default that says who provides its value."""

    provider: Provider
    scope: Scope


@overload
def Depends(provider: Callable[..., AsyncIterator[T]], *, scope: Scope = "app") -> T: ...
@overload
def Depends(provider: Callable[..., AbstractAsyncContextManager[T]], *, scope: Scope = "app") -> T: ...
@overload
def Depends(provider: Callable[..., Awaitable[T]], *, scope: Scope = "app") -> T: ...
@overload
def Depends(provider: Callable[..., T], *, scope: Scope = "app") -> T: ...
def Depends(provider: Provider, *, scope: Scope = "app") -> Any:  # noqa: N802 - reads as part of a signature
    """``pool: Pool = Depends(get_pool)``: a keyword-only parameter that is not part of the call.

    The provider is called once per app, worker or job and may depend on others of at least its own scope. Raises
    ConfigError for a provider that can provide nothing.
    """
    if not callable(provider):
        raise ConfigError(f"Depends({provider!r}): give a function that provides the value")
    if inspect.isgeneratorfunction(provider):
        raise ConfigError(f"Depends({provider!r}): a generator that provides has to be asynchronous: write async def")
    if scope not in _WIDTH:
        raise ConfigError(f"Depends(scope={scope!r}): choose app, worker or job")
    return Dependency(provider, scope)


def dependencies_of(function: Callable[..., Any]) -> dict[str, Dependency]:
    """The parameters of a function that somebody provides. Raises ConfigError for one that a call could fill."""
    found: dict[str, Dependency] = {}
    for parameter in inspect.signature(function).parameters.values():
        if isinstance(parameter.default, Dependency):
            if parameter.kind is not parameter.KEYWORD_ONLY:
                raise ConfigError(
                    f"{getattr(function, '__qualname__', function)}(): {parameter.name!r} depends on something; "
                    "put it behind a * in the signature"
                )
            found[parameter.name] = parameter.default
    return found


class Scoped:
    """One scope's provided values: made when first asked for, closed with the scope, the last one first."""

    def __init__(self, scope: Scope, outer: "Scoped | None", overrides: Mapping[Provider, Provider]) -> None:
        self._scope = scope
        self._outer = outer
        self._overrides = overrides
        self._values: dict[Provider, Any] = {}
        self._opening: dict[Provider, anyio.Lock] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> "Scoped":
        await self._stack.__aenter__()
        return self

    async def __aexit__(self, *error: Any) -> None:
        await self._stack.__aexit__(*error)

    def inner(self, scope: Scope) -> "Scoped":
        """A narrower scope inside this one."""
        return Scoped(scope, self, self._overrides)

    async def values(self, wanted: Mapping[str, Dependency]) -> dict[str, Any]:
        """A value for each name."""
        return {name: await self.value(dependency) for name, dependency in wanted.items()}

    async def prepare(self, wanted: Mapping[str, Dependency]) -> None:
        """Make every value of this scope and the wider ones that these, of narrower scopes, will ask for."""
        for need in wanted.values():
            if _WIDTH[need.scope] >= _WIDTH[self._scope]:
                await self.value(need)
            else:
                await self.prepare(dependencies_of(self._overrides.get(need.provider, need.provider)))

    async def value(self, dependency: Dependency) -> Any:
        """The provided value, from this scope or the wider one it belongs to."""
        if _WIDTH[dependency.scope] > _WIDTH[self._scope]:
            if self._outer is None:
                raise ConfigError(f"nothing provides for scope {dependency.scope!r} here")
            return await self._outer.value(dependency)
        provider = self._overrides.get(dependency.provider, dependency.provider)
        if provider not in self._values:
            # Two jobs may ask for the same value of a wider scope at once; one that asks within itself is told so.
            async with self._opening.setdefault(provider, anyio.Lock()):
                if provider not in self._values:
                    self._values[provider] = await self._open(provider, dependency.scope)
        return self._values[provider]

    async def _open(self, provider: Provider, scope: Scope) -> Any:
        wanted = dependencies_of(provider)
        for name, need in wanted.items():
            if _WIDTH[need.scope] < _WIDTH[scope]:
                raise ConfigError(f"{provider!r} has scope {scope!r}, but its {name!r} only {need.scope!r}")
        needs = await self.values(wanted)
        if inspect.isasyncgenfunction(provider):
            provider = asynccontextmanager(cast("Callable[..., AsyncGenerator[Any]]", provider))
        value = provider(**needs)
        if isinstance(value, AbstractAsyncContextManager):
            return await self._stack.enter_async_context(cast("AbstractAsyncContextManager[Any]", value))
        return await value if inspect.isawaitable(value) else value
