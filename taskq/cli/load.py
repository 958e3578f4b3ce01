"""From ``MODULE:app`` to the app."""

import sys
import traceback
from importlib import import_module
from pathlib import Path
from types import ModuleType

import click

from taskq.app import App
from taskq.errors import TaskqError
from taskq.worker.generation import WRONG

APP = "MODULE:app"


class ImportFailed(click.ClickException):
    """The app's module raised."""

    exit_code = WRONG


def load_app(target: str) -> App:
    """The app that ``MODULE:app`` names, the module found from the current directory, too.

    Raises UsageError when there is none, ClickException with the traceback when its module fails.
    """
    name, _, attribute = target.partition(":")
    attribute = attribute or "app"
    if not all(part.isidentifier() for part in (*name.split("."), *attribute.split("."))):
        raise click.UsageError(f"{target!r} names no app: write {APP}, as in shop.jobs:app")
    module = _imported(name)
    found: object = module
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if isinstance(found, App):
        return found
    apps = ", ".join(f"{name}:{key}" for key, value in vars(module).items() if isinstance(value, App))
    there = f"{attribute!r} is no taskq.App but {type(found).__name__}" if found is not None else f"no {attribute!r}"
    raise click.UsageError(f"module {name!r}: {there} (apps in it: {apps or 'none'})")


def version_of(target: str) -> str | None:
    """The version of the package that an imported app is in, if it tells one."""
    from importlib import metadata  # here: it takes a tenth of the time that importing taskq takes

    package = target.partition(":")[0].partition(".")[0]
    version: object = getattr(sys.modules[package], "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return import_module(name)
    except TaskqError:
        raise
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and error.name and f"{name}.".startswith(f"{error.name}."):
            raise click.UsageError(f"there is no module {error.name!r} in {here} or on Python's path") from None
        raise ImportFailed(f"importing {name} failed\n{_traceback_behind_import(error)}") from error


def _traceback_behind_import(error: Exception) -> str:
    """The traceback without this command's own frames and the import system's."""
    story = traceback.TracebackException.from_exception(error)
    theirs = [frame for frame in story.stack if not frame.filename.startswith("<frozen importlib")]
    story.stack = traceback.StackSummary.from_list(theirs[2:])
    return "".join(story.format()).rstrip()
