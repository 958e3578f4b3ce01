"""Runs what a page of the documentation shows: its Python blocks, its files, its commands."""

import ast
import asyncio
import contextlib
import inspect
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from doctest import ELLIPSIS, NORMALIZE_WHITESPACE, OutputChecker
from pathlib import Path
from unittest.mock import patch

from msgspec import Struct

ROOT = Path(__file__).parents[2]
FRAGMENT = "<!-- fragment -->"
"""Stands before a block that shows a piece of something, and cannot run by itself."""

_FENCE = re.compile(r"^( *)(```+)(\w*)([^\n]*)\n(.*?)^\1\2 *$", re.MULTILINE | re.DOTALL)
_TITLE = re.compile(r'title="([^"]+)"')


class Block(Struct, frozen=True):
    """A fenced piece of a page."""

    language: str
    title: str
    text: str
    line: int


class Wrong(Exception):
    """A page shows something that is not so."""


def blocks(page: str) -> Iterator[Block]:
    """The blocks of a page that can be run or written, in order."""
    for fence in _FENCE.finditer(page):
        indent, _, language, info, text = fence.groups()
        if page[: fence.start()].rstrip().endswith(FRAGMENT):
            continue
        title = _TITLE.search(info)
        text = "".join(line.removeprefix(indent) for line in text.splitlines(keepends=True))
        yield Block(language, title[1] if title else "", text, page.count("\n", 0, fence.start()) + 1)


def run(page: str, name: str) -> int:
    """Run a page in the current directory and answer how many of its blocks ran; raises Wrong, or what they raise.

    A Python block with a title is written as a file, one without is executed, all of a page in one namespace and one
    event loop; what it prints is what its ``#>`` lines say. Of a console block each ``$`` line is given to a shell,
    and what follows is its output. ``...`` in an output stands for anything.
    """
    namespace: dict[str, object] = {"__name__": "__main__", "__file__": name}
    ran = 0
    with asyncio.Runner() as runner, patch.dict(os.environ):
        for setting in [variable for variable in os.environ if variable.startswith("TASKQ_")]:
            del os.environ[setting]
        for block in blocks(page):
            where = f"{name}:{block.line}"
            if block.language == "console":
                _run_console(block.text, where)
            elif block.title:
                Path(block.title).write_text(block.text, encoding="utf-8")
            elif block.language == "python":
                # Lines of a traceback are then those of the page.
                _run_python("\n" * block.line + block.text, name, namespace, runner)
            else:
                continue
            ran += 1
    return ran


def _run_python(text: str, name: str, namespace: dict[str, object], runner: asyncio.Runner) -> None:
    code = compile(text, name, "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        if code.co_flags & inspect.CO_COROUTINE:
            runner.run(eval(code, namespace))  # noqa: S307 - our own pages
        else:
            exec(code, namespace)  # noqa: S102 - our own pages
    said = "".join(re.findall(r"^ *#> ?(.*\n)", text, re.MULTILINE))
    _compare(said, printed.getvalue(), name)


def _run_console(text: str, where: str) -> None:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    for command, expected in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", text, re.MULTILINE):
        done = subprocess.run(
            ["/bin/sh", "-c", command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
            timeout=60,
            check=False,
        )
        _compare(expected, done.stdout, f"{where}: {command}")


def _compare(expected: str, printed: str, where: str) -> None:
    if not OutputChecker().check_output(expected, printed, ELLIPSIS | NORMALIZE_WHITESPACE):
        raise Wrong(f"{where}\nthe page says:\n{expected}\nand this came:\n{printed}")
