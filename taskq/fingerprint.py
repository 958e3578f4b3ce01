"""What a task's calls look like, to be kept and compared: whether jobs that wait still fit the code to come."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from taskq.broker import Finding
from taskq.errors import CodecError
from taskq.job import Job
from taskq.task import Task
from taskq.versions import brought_up, version_of


class Argument(Struct, frozen=True):
    """One argument on the wire."""

    required: bool
    schema: Any
    """As JSON Schema, with everything it refers to."""


class Fingerprint(Struct, frozen=True):
    """A task as its callers and its queued jobs see it."""

    version: int
    arguments: Mapping[str, Argument]


def fingerprint(task: Task[..., Any]) -> Fingerprint:
    """How calls of this task look now."""
    schema = msgspec.json.schema(task.signature.arguments, schema_hook=_opaque)
    definitions = schema["$defs"]
    own = definitions[schema["$ref"].removeprefix("#/$defs/")]
    required = frozenset(own.get("required", ()))
    arguments = {
        name: Argument(name in required, _with_definitions(part, definitions))
        for name, part in own.get("properties", {}).items()
    }
    return Fingerprint(task.definition.version, arguments)


def compare(recorded: Mapping[str, Fingerprint], now: Mapping[str, Fingerprint]) -> Sequence[Finding]:
    """What jobs of the recorded code would suffer from the code as it is now."""
    findings: list[Finding] = []
    for name, before in sorted(recorded.items()):
        after = now.get(name)
        if after is None:
            findings.append(
                Finding(name, "warning", "the task is gone; its jobs that wait would be set aside after a day", _GONE)
            )
        elif after.version < before.version:
            findings.append(Finding(name, "error", f"version {after.version} is older than {before.version}", _OLDER))
        elif after.version == before.version:
            findings.extend(_compare_arguments(name, before.arguments, after.arguments))
    return findings


_REFERENCE = re.compile(r'"\$ref":"#/\$defs/([^"]+)"')
_GONE = "keep it until its queue is empty, or give the new one this name="
_OLDER = "versions only rise: workers take newer calls for those of a newer deploy"
_RAISE = "raise the task's version= and bring older calls up to date with upcast="


def _compare_arguments(task: str, before: Mapping[str, Argument], after: Mapping[str, Argument]) -> Sequence[Finding]:
    findings: list[Finding] = []
    for name, argument in after.items():
        old = before.get(name)
        if old is None and argument.required:
            message = f"argument {name!r} is new, and jobs that wait lack it"
            findings.append(Finding(task, "error", message, f"give it a default, or {_RAISE}"))
        elif old is not None and old.schema != argument.schema:
            findings.append(Finding(task, "error", f"argument {name!r} has another type", _RAISE))
        elif old is not None and argument.required and not old.required:
            message = f"argument {name!r} lost its default, and jobs that wait may lack it"
            findings.append(Finding(task, "error", message, f"give it a default, or {_RAISE}"))
    gone = [name for name in before if name not in after]
    if gone:
        findings.append(Finding(task, "warning", f"arguments {', '.join(gone)} are ignored from now on", _RAISE))
    return findings


def refusal(task: Task[..., Any] | None, job: Job) -> Finding | None:
    """Why this code would not run a job that waits; None when it would."""
    if task is None:
        return Finding(job.task, "error", "this code does not know it, and jobs wait", _GONE)
    version = version_of(job.headers)
    definition = task.definition
    if version > definition.version:
        return Finding(job.task, "warning", f"jobs of version {version} are left to newer code")
    try:
        body = job.body
        if version < definition.version and definition.upcast is not None:
            body = brought_up(body, version, definition.upcast)
        task.signature.decode(body)
    except CodecError as error:
        return Finding(job.task, "error", f"jobs would be set aside: {error}", _RAISE)
    return None


def _opaque(type: Any) -> dict[str, Any]:
    """A type that only a converter knows: its name is all that can be compared."""
    return {"x-type": f"{type.__module__}.{type.__qualname__}"}


def _with_definitions(part: Any, definitions: Mapping[str, Any]) -> Any:
    """A schema with what it refers to in it, however deep, each once."""
    found: dict[str, Any] = {}
    todo: list[Any] = [part]
    while todo:
        for name in _REFERENCE.findall(msgspec.json.encode(todo.pop()).decode()):
            if name not in found:
                found[name] = definitions[name]
                todo.append(definitions[name])
    return {"schema": part, "definitions": found} if found else part
