"""A real terminal, with a program in it: what stands on its screen, and keys for it."""

import fcntl
import os
import pty
import select
import struct
import subprocess
import sys
import termios
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager

import pyte

from tests.cli.shell import PATIENCE

ROWS, COLUMNS = 50, 160


class Terminal:
    """A program's screen."""

    def __init__(self, process: "subprocess.Popen[bytes]", keyboard: int) -> None:
        self._process = process
        self._keyboard = keyboard
        self._screen = pyte.Screen(COLUMNS, ROWS)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        """What stands there now."""
        return "\n".join(line.rstrip() for line in self._screen.display)

    def shows(self, *words: str) -> str:
        """A line of the screen with all these words, waiting for it."""
        while not (line := self._line(words)):
            assert self._draw(), f"no line with {words} on the screen:\n{self.text}"
        return line

    def clears(self, *words: str) -> None:
        """Wait until no line of the screen has all these words."""
        while self._line(words):
            assert self._draw(), f"a line with {words} stays on the screen:\n{self.text}"

    def press(self, keys: str) -> None:
        """Type."""
        os.write(self._keyboard, keys.encode())

    def code(self) -> int:
        """The program's exit code, waiting for its end."""
        while self._draw():
            pass
        return self._process.wait(PATIENCE)

    def _draw(self) -> bool:
        """Draw what comes; False when nothing comes any more."""
        readable, _, _ = select.select([self._keyboard], [], [], PATIENCE)
        try:
            data = os.read(self._keyboard, 65536) if readable else b""
        except OSError:
            # Linux answers with an error, not with an end, once nobody holds the other side.
            data = b""
        self._stream.feed(data)
        return bool(data)

    def _line(self, words: Sequence[str]) -> str:
        return next((line for line in self._screen.display if all(word in line for word in words)), "")


@contextmanager
def terminal(*arguments: str, directory: str, environment: Mapping[str, str]) -> Generator[Terminal]:
    """``taskq ARGUMENTS`` in a terminal, killed at the end if it still runs."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    with subprocess.Popen(
        [sys.executable, "-m", "taskq.cli", *arguments],
        cwd=directory,
        env={**os.environ, "TERM": "xterm-256color", **environment},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    ) as process:
        os.close(theirs)
        try:
            yield Terminal(process, ours)
        finally:
            process.kill()
            os.close(ours)
