"""The page of all commands is what the command line says of itself."""

import os
from collections.abc import Iterator

import click

from taskq.cli import program
from tests.docs.pages import ROOT

PAGE = ROOT / "docs/reference/commands.md"
HEAD = """\
# Every command

What `--help` says of each. [The command line](cli.md) tells what they are for, with examples.
"""


def commands(context: click.Context) -> Iterator[click.Context]:
    """The commands below this one, and those below them."""
    assert isinstance(context.command, click.Group)
    for name, command in sorted(context.command.commands.items()):
        below = click.Context(command, context, info_name=name)
        yield below
        if isinstance(command, click.Group):
            yield from commands(below)


def test_the_page_of_commands_is_what_they_say_of_themselves() -> None:
    root = click.Context(program, info_name="taskq", terminal_width=100, max_content_width=100)
    root.help_option_names = program.context_settings["help_option_names"]
    told = [f"\n## {one.command_path}\n\n```text\n{one.get_help()}\n```\n" for one in commands(root)]

    fresh = HEAD + "".join(told)

    if "TASKQ_WRITE_PAGES" in os.environ:
        PAGE.write_text(fresh, encoding="utf-8")
    said = PAGE.read_text(encoding="utf-8")
    assert said == fresh, "TASKQ_WRITE_PAGES=1 pytest tests/docs/test_commands.py writes the page anew"
