"""The parent's side of the kill matrix: runs children to their end, and knows how far they came."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[2]
PATIENCE_SECONDS = 120.0

CALLS = (
    "write", "pwrite64", "writev", "pwritev", "pwritev2", "fsync", "fdatasync", "ftruncate", "truncate",
    "rename", "renameat", "renameat2", "link", "linkat", "unlink", "unlinkat", "open", "openat", "creat",
    "utimensat", "fallocate", "mkdir", "mkdirat",
)  # fmt: skip
"""System calls that change files or make changes durable; not every machine has each of them."""

_LINE = re.compile(r"(?:\d+ +)?([a-z0-9_]+)\((.*)")
_PATH = re.compile(r"(/[^>\"]+)[>\"]")


@dataclass(frozen=True)
class Point:
    """One place to die at: the n-th call of a kind, just before it takes effect.

    `path` is what the call was about where that is known.
    """

    call: str
    number: int
    path: str = field(default="", compare=False)

    def __str__(self) -> str:
        return f"{self.call} {self.number}"


@dataclass
class Outcome:
    """How far a child came; `stopped` is how often it waited for its disk to be mended."""

    killed: bool
    begun: int = -1
    done: int = -1
    stopped: int = 0
    events: list[str] = field(default_factory=list)

    def allowed(self) -> range:
        """Returns the numbers of the states that may be found: before the step under way, or after it."""
        return range(self.done + 1, max(self.begun, self.done) + 2)


class KillServer:
    """A running fork server."""

    def __init__(self, variables: Mapping[str, str] | None = None) -> None:
        """Starts it, with some variables added to the environment that its children inherit."""
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "error", "-m", "tests.faults.kill_server", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=REPOSITORY,
                env=os.environ | dict(variables or {}),
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._socket.settimeout(PATIENCE_SECONDS)
        self._answers = self._socket.makefile("r")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    @staticmethod
    def _let_on(tracer: subprocess.Popen[str] | None, child: socket.socket) -> None:
        """Takes the fault away and lets the child go on."""
        if tracer is not None:
            _detach(tracer)
        child.sendall(b"g")

    def run(self, order: dict[str, Any], *, strace: list[str] | None = None) -> Outcome:
        """Runs one child until it ends or is killed.

        Args:
            order: What the child is to do.
            strace: Options of strace to attach to it, or None for no strace.

        Raises:
            AssertionError: The child failed by itself.
        """
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                socket.send_fds(self._socket, [json.dumps(order).encode()], [theirs.fileno()])
            pid = json.loads(self._answers.readline())["pid"]
            ours.settimeout(PATIENCE_SECONDS)
            with ours.makefile("r") as lines:
                if lines.readline() != "ready\n":
                    raise AssertionError(f"the child did not start: {lines.read()}")
                tracer = _attached(pid, strace) if strace is not None else None
                ours.sendall(b"g")
                try:
                    outcome = _followed(lines, lambda: self._let_on(tracer, ours))
                finally:
                    # Whatever it told, its end is waited for: the next answer is the next child's.
                    status = json.loads(self._answers.readline())["status"]
        if tracer is not None:
            tracer.wait(timeout=PATIENCE_SECONDS)
            if tracer.stderr is not None:
                tracer.stderr.close()
        outcome.killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        if not outcome.killed and status != 0:
            raise AssertionError(f"the child ended with status {status}")
        return outcome


def _detach(tracer: subprocess.Popen[str]) -> None:
    tracer.terminate()
    tracer.wait(timeout=PATIENCE_SECONDS)


def _attached(pid: int, options: list[str]) -> subprocess.Popen[str]:
    tracer = subprocess.Popen(
        ["strace", *options, "-p", str(pid)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    line = tracer.stderr.readline() if tracer.stderr is not None else ""
    if "attached" not in line:
        tracer.kill()
        tracer.wait()
        os.kill(pid, signal.SIGKILL)
        raise AssertionError(f"strace could not attach: {line}")
    return tracer


def _followed(lines: Any, let_on: Callable[[], None]) -> Outcome:
    outcome = Outcome(killed=False)
    for line in lines:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "begun":
            outcome.begun = int(rest)
        elif word == "done":
            outcome.done = int(rest)
        elif word == "event":
            outcome.events.append(rest)
        elif word == "stopped":
            outcome.stopped += 1
            let_on()
        elif word == "failed":
            raise AssertionError(rest.replace("\x0b", "\n"))
    return outcome


# -- strace ------------------------------------------------------------------------------------


def _trace_option() -> str:
    # The question mark lets a call pass that this machine does not have.
    return "trace=" + ",".join(f"?{call}" for call in CALLS)


def counting_options(log: Path) -> list[str]:
    """Returns strace's options for writing down a child's calls."""
    return ["-y", "-s", "0", "-o", str(log), "-e", _trace_option()]


def killing_options(point: Point) -> list[str]:
    """Returns strace's options for killing a child at a point.

    strace delivers the signal when the call is entered, and a process that is to die does not carry
    the call out. What a call leaves behind is therefore seen by dying at the next one.
    """
    return _injecting_options(point, "signal=KILL", "")


def failing_options(point: Point, error: str, *, only_once: bool = False) -> list[str]:
    """Returns strace's options for failing a child's calls of one kind from a point on."""
    return _injecting_options(point, f"error={error}", "" if only_once else "+")


def _injecting_options(point: Point, what: str, on: str) -> list[str]:
    injected = f"inject={point.call}:{what}:when={point.number}{on}"
    return ["-o", os.devnull, "-e", f"trace={point.call}", "-e", injected]


def points_of(log: Path, folder: Path) -> list[Point]:
    """Reads from strace's account which calls touched a folder, as points, in order.

    strace counts the calls of each kind for itself. Files that are only opened for reading are passed
    over, as are those of the remote, which only its own tests kill at.
    """
    counts: Counter[str] = Counter()
    points = []
    for line in log.read_text(errors="replace").splitlines():
        match = _LINE.match(line)
        if match is None:
            continue
        call, rest = match[1], match[2]
        counts[call] += 1
        reading = call in ("open", "openat") and "O_CREAT" not in rest and "O_TRUNC" not in rest
        if str(folder) in rest and not reading:
            points.append(Point(call, counts[call], _PATH.findall(rest)[-1].rpartition("/")[2]))
    return points


@contextmanager
def _sleeping_child() -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        if child.stdin is not None:
            child.stdin.close()


def strace_works() -> bool:
    """Tells whether strace is there and may attach and inject."""
    if shutil.which("strace") is None:
        return False
    with _sleeping_child() as child:
        try:
            tracer = _attached(child.pid, killing_options(Point("write", 1)))
        except AssertionError:
            return False
        if child.stdin is not None:
            child.stdin.write(b"x")
            child.stdin.flush()
        killed = child.wait(timeout=PATIENCE_SECONDS) == -signal.SIGKILL
        tracer.wait(timeout=PATIENCE_SECONDS)
        if tracer.stderr is not None:
            tracer.stderr.close()
        return killed
