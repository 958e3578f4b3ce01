"""From a URL to a backend: the scheme names an entry point, the entry point is the backend's ``connect``."""

import re
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from taskq.broker import Backend, Migrations
from taskq.errors import ConfigError, UnknownScheme

GROUP = "taskq.backends"
MIGRATIONS = "taskq.migrations"
PAYLOADS = "taskq.payloads"

Opener = Callable[..., AbstractAsyncContextManager[Backend]]


def connect(url: str, **options: object) -> AbstractAsyncContextManager[Backend]:
    """The backend behind ``url``, open for as long as the context.

    Raises UnknownScheme when no installed package answers to the scheme, ConfigError when its driver is missing.
    """
    opener: Opener = _load(GROUP, url)
    return opener(url, **options)


def migrations(url: str) -> Migrations | None:
    """The schema behind ``url``; None where the backend needs none, or keeps it up to date by itself."""
    _load(GROUP, url)
    found: Callable[[str], Migrations] | None = _load(MIGRATIONS, url)
    return None if found is None else found(url)


def payload_opener(url: str) -> Any:
    """What opens the place behind ``url`` where somebody else's package keeps payloads; None when none does."""
    return _load(PAYLOADS, url)


def _load(group: str, url: str) -> Any:
    """What the entry point of this URL's scheme names; None when only backends have one."""
    scheme, separator, _ = url.partition("://")
    if not separator:
        # Not repeated: it may hold a password.
        raise ConfigError("the setting url is no URL; write something like sqlite:///taskq.db")
    # Here, because it costs 12 ms of import that a program without a broker need not pay.
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=group)}
    if scheme not in found:
        if group != GROUP:
            return None
        known = ", ".join(sorted(found)) or "none: is the package installed?"
        raise UnknownScheme(f"no backend answers to {scheme}:// (installed: {known})")
    try:
        return found[scheme].load()
    except ImportError as error:
        package = found[scheme].dist
        remedy = "" if package is None else _remedy(package.name, package.requires or (), error.name or "")
        raise ConfigError(
            f"the backend of {scheme}:// needs a package that is not installed: {error}{remedy}"
        ) from error


def _remedy(package: str, requires: Sequence[str], module: str) -> str:
    """How to install the extra that brings a module, if the package's requirements tell it."""
    names = re.compile(rf"\b{re.escape(module)}\b[^;]*; *extra *== *['\"]([\w-]+)['\"]")
    extra = next((match[1] for match in map(names.search, requires) if match), None)
    return "" if extra is None else f"; pip install '{package}[{extra}]'"
