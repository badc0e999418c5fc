"""Terminals: commands run in them as at a prompt, and what they show is recorded as text.

One is of Python's own. Each command in it is a process with a pseudo-terminal, forked from a server that has the
package loaded; what it writes goes through a small screen, so that a bar that is drawn again and again is
recorded as it was seen last. The other one is tmux, with a shell in it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import struct
import subprocess
import sys
import termios
import time
import tty
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

from ebooklet_tx.cli import commands
from ebooklet_tx.progress import bars
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.connecting import wrapped_stores
from tests.processes import say, workers
from tests.store_wrappers import PassingStore

COLUMNS, LINES = 100, 40
PACK_SECONDS, UNSEEN_SECONDS = 2.0, 1.5
"""How long a pack takes to be sent, and what is over sooner shows no bar: that of sending is seen, and no other,
also where the machine is busy."""

_SEQUENCE = re.compile(r"\x1b\[([0-9;]*)([A-Za-z])|[\r\n]|[^\x1b\r\n]+")


class Screen:
    """What a terminal shows, without an end of its lines."""

    def __init__(self) -> None:
        self._lines = [""]
        self._row = self._column = 0

    def feed(self, text: str) -> None:
        """Shows what was written."""
        for match in _SEQUENCE.finditer(text):
            piece = match[0]
            if piece == "\r":
                self._column = 0
            elif piece == "\n":
                self._row, self._column = self._row + 1, 0
            elif match[2] == "A":
                self._row = max(0, self._row - int(match[1] or 1))
            elif match[2] == "K":
                self._lines[self._row] = self._lines[self._row][: self._column]
            elif match[2] is None:
                self._put(piece)
            while self._row >= len(self._lines):
                self._lines.append("")

    def _put(self, text: str) -> None:
        line = self._lines[self._row].ljust(self._column)
        end = self._column + len(text)
        self._lines[self._row] = line[: self._column] + text + line[end:]
        self._column = end

    def text(self) -> str:
        """Returns the lines, without spaces at their ends and empty lines at the end of all."""
        return "\n".join(line.rstrip() for line in self._lines).rstrip("\n")


def shown(command: str, folder: Path) -> str:
    """Runs one line of a prompt in a folder; returns what the terminal shows of it.

    The line is a call of `ebooklet-tx`, with `echo TEXT |` before it or not; `$PWD` is the folder.
    """
    given, call = _parsed(command.replace("$PWD", str(folder)))
    master, slave = pty.openpty()
    try:
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
        tty.setraw(slave)
        screen = Screen()
        with workers() as start:
            child = start(_run, os.ttyname(slave), str(folder), given, call)
            for text in _written(master, child):
                screen.feed(text)
        return screen.text()
    finally:
        os.close(master)
        os.close(slave)


class Tmux:
    """A shell in a terminal of tmux: the programs as they are installed, at a real prompt."""

    def __init__(self, folder: Path) -> None:
        """Starts the shell in a folder."""
        self._folder = folder
        self._call = ["tmux", "-L", f"tests-{os.getpid()}", "-f", os.devnull]
        own = {name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "TMUX"))}
        environment = own | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PROMPT_COMMAND": shlex.join([*self._call, "wait-for", "-S", "prompt"]),
            "PS1": "$ ",
        }
        size = ["-x", "250", "-y", str(LINES)]
        shell = ["bash", "--norc", "--noprofile"]
        begin = [*self._call, "new-session", "-d", *size, "-c", str(folder), *shell]
        subprocess.run(begin, env=environment, check=True)
        self._tmux("wait-for", "prompt")

    def shown(self, command: str, folder: Path) -> str:
        """Types a line; returns what is shown between it and the next prompt."""
        assert folder == self._folder
        self._tmux("send-keys", "-R")
        self._tmux("clear-history")
        self._tmux("send-keys", "-l", command)
        self._tmux("send-keys", "Enter")
        self._tmux("wait-for", "prompt")
        lines = self._tmux("capture-pane", "-p", "-J", "-S", "-").splitlines()
        lines = [line.rstrip() for line in lines]
        typed = next(number for number, line in enumerate(lines) if command in line)
        return "\n".join(line for line in lines[typed + 1 :] if line != "$").rstrip("\n")

    def end(self) -> None:
        """Ends the shell and its terminal."""
        self._tmux("kill-server")

    def _tmux(self, *words: str) -> str:
        return subprocess.run(
            [*self._call, *words], check=True, capture_output=True, text=True, timeout=60
        ).stdout


def _parsed(command: str) -> tuple[str | None, list[str]]:
    words = shlex.split(command)
    given = None
    if "|" in words:
        bar = words.index("|")
        assert words[0] == "echo"
        given, words = " ".join(words[1:bar]) + "\n", words[bar + 1 :]
    assert words[0] == "ebooklet-tx", command
    return given, words


def _written(master: int, child: object) -> Iterator[str]:
    """Yields what a child writes to its terminal until it has ended and all is read."""
    deadline = time.monotonic() + 60
    ended = False
    while True:
        if select.select([master], [], [], 0.02)[0]:
            yield os.read(master, 65536).decode(errors="replace")
        elif ended:
            return
        ended = not child.is_alive()  # type: ignore[attr-defined]
        assert time.monotonic() < deadline, "the command does not end"


class SlowStore(PassingStore):
    """Takes its time for each pack."""

    def put(self, key: str, data: bytes, **options: object) -> str:
        if "/pack/" in key:
            time.sleep(PACK_SECONDS)
        return super().put(key, data, **options)  # type: ignore[arg-type]


def _slowed(store: ObjectStore) -> ObjectStore:
    return SlowStore(store)


def _run(pipe: Pipe, terminal: str, folder: str, given: str | None, call: list[str]) -> None:
    """Runs a command in a session of its own whose terminal is that one."""
    os.setsid()
    descriptor = os.open(terminal, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(descriptor, standard)
    if given is not None:
        source, sink = os.pipe()
        os.write(sink, given.encode())
        os.close(sink)
        os.dup2(source, 0)
    sys.stdin, sys.stdout = os.fdopen(0), os.fdopen(1, "w", buffering=1)
    sys.stderr = os.fdopen(2, "w", buffering=1)
    sys.argv = call
    os.chdir(folder)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    bars.UNSEEN_SECONDS = UNSEEN_SECONDS
    with wrapped_stores(_slowed):
        code = commands.main(call[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    say(pipe, code)
