"""The command line, run in this process or in one of its own, without the credentials of whoever runs the tests.

A process of its own costs a second of CPU time for its imports. So most tests call `main` here, which
gives the same exit code and the same lines; the tests of processes, signals and pipes start real ones.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.cli import commands
from tests.processes import workers
from tests.writer_processes import push_and_die

Done = subprocess.CompletedProcess[str]


class Stream(io.TextIOWrapper):
    """A standard stream of a command: a terminal, or a pipe."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="utf-8", newline="", write_through=True)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal

    def text(self) -> str:
        """What was written; bytes that are no UTF-8 as surrogates."""
        self.flush()
        return self.buffer.getvalue().decode(errors="surrogateescape")  # type: ignore[attr-defined]


def run(*arguments: object, given: bytes | None = None, terminal: bool = False, **environment: str) -> Done:
    """Runs a command in this process; a warning is an error, as in every test.

    Args:
        arguments: Those of the command line.
        given: What stdin gives.
        terminal: Whether the standard streams are a terminal.
        environment: Variables of the environment.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            patch.delenv(name)
        for name, value in {"AWS_EC2_METADATA_DISABLED": "true", **environment}.items():
            patch.setenv(name, value)
        patch.setattr(sys, "argv", ["ebooklet-tx", *map(str, arguments)])
        out = stack.enter_context(contextlib.redirect_stdout(Stream(terminal=terminal)))
        errors = stack.enter_context(contextlib.redirect_stderr(Stream(terminal=terminal)))
        if given is not None:
            patch.setattr(sys, "stdin", Stream(given, terminal=terminal))
        try:
            code = commands.main([str(argument) for argument in arguments])
        except SystemExit as ended:
            code = 0 if ended.code is None else int(ended.code)
    return subprocess.CompletedProcess(arguments, code, out.text(), errors.text())


def run_process(*arguments: object, **environment: str) -> Done:
    """Runs `python -m ebooklet_tx` with these arguments."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    return subprocess.run(
        [sys.executable, "-m", "ebooklet_tx", *map(str, arguments)],
        env={**own, "AWS_EC2_METADATA_DISABLED": "true", **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
    )


def data(child: Done) -> Any:
    """The JSON that a command printed, and nothing beside it."""
    assert child.stderr == ""
    return json.loads(child.stdout)


def complaint(child: Done) -> str:
    """The one line of a command that failed."""
    assert child.stdout == ""
    assert child.stderr.count("\n") == 1
    assert child.stderr.startswith("ebooklet_tx: ")
    return child.stderr


def kill_push(remote: Any, path: Path, when: str = "before-root", **environment: str) -> None:
    """Pushes what is pending in a process that is killed around the put of the root."""
    with workers() as start:
        child = start(push_and_die, json.dumps(remote.to_dict()), str(path), when, environment, os.devnull)
        assert child.wait_until_gone() == -signal.SIGKILL, child.drain()
