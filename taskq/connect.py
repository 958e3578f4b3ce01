"""From a URL to a backend: the scheme names an entry point, the entry point is the backend's ``connect``."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager

from taskq.broker import Backend
from taskq.errors import ConfigError, UnknownScheme

GROUP = "taskq.backends"

Opener = Callable[..., AbstractAsyncContextManager[Backend]]


def connect(url: str, **options: object) -> AbstractAsyncContextManager[Backend]:
    """The backend behind ``url``, open for as long as the context.

    Raises UnknownScheme when no installed package answers to the scheme, ConfigError when its driver is missing.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        # Not repeated: it may hold a password.
        raise ConfigError("the setting url is no URL; write something like sqlite:///taskq.db")
    # Here, because it costs 12 ms of import that a program without a broker need not pay.
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=GROUP)}
    if scheme not in found:
        known = ", ".join(sorted(found)) or "none: is the package installed?"
        raise UnknownScheme(f"no backend answers to {scheme}:// (installed: {known})")
    try:
        opener: Opener = found[scheme].load()
    except ImportError as error:
        raise ConfigError(f"the backend of {scheme}:// needs a package that is not installed: {error}") from error
    return opener(url, **options)
