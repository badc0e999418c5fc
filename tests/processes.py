"""Child processes that talk with a test through a pipe, to be killed, frozen and let on at will.

They are forked from a server that has the package loaded, so that each starts in milliseconds as a
process of its own, with nothing inherited from the test. A worker ends with its context.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

WAIT_SECONDS = 120.0

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.processes", "tests.writer_processes"])


class WorkerFailedError(Exception):
    """A child process raised, or ended without a word; the message holds its traceback."""


class Worker:
    """One child process that runs `work(pipe, *arguments)`.

    Attributes:
        warned: Names of the warnings that the child had shown when it ended.
    """

    def __init__(self, work: Callable[..., None], *arguments: Any) -> None:
        self._pipe, far_end = _context.Pipe()
        self._process = _context.Process(target=_run, args=(far_end, work, arguments), daemon=True)
        self._process.start()
        far_end.close()
        self.warned: list[str] = []

    @property
    def pid(self) -> int:
        """The child's process id."""
        return int(self._process.pid or 0)

    def send(self, message: Any) -> None:
        """Sends something to the child."""
        self._pipe.send(message)

    def receive(self, timeout_seconds: float = WAIT_SECONDS) -> Any:
        """Returns the next thing that the child sends.

        Raises:
            WorkerFailedError: It raised, ended, or sent nothing for too long.
        """
        if not self._pipe.poll(timeout_seconds):
            raise WorkerFailedError(f"process {self.pid} said nothing for {timeout_seconds} seconds")
        try:
            kind, content = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise WorkerFailedError(f"process {self.pid} ended without a word") from error
        if kind == "failed":
            raise WorkerFailedError(content)
        if kind == "done":
            self.warned = content
            return None
        return content

    def drain(self) -> list[Any]:
        """Returns what a child that is no more had still sent; a message that it was cut off in is dropped."""
        messages = []
        with contextlib.suppress(EOFError, OSError):
            while self._pipe.poll():
                kind, content = self._pipe.recv()
                if kind == "failed":
                    raise WorkerFailedError(content)
                if kind == "said":
                    messages.append(content)
        return messages

    def finish(self, timeout_seconds: float = WAIT_SECONDS) -> list[Any]:
        """Waits for the end of the child's work; returns what it still said."""
        deadline = time.monotonic() + timeout_seconds
        messages = []
        while (message := self.receive(max(0.0, deadline - time.monotonic()))) is not None:
            messages.append(message)
        self._process.join(max(1.0, deadline - time.monotonic()))
        if self._process.exitcode != 0:
            raise WorkerFailedError(f"process {self.pid} ended with exit code {self._process.exitcode}")
        return messages

    def is_alive(self) -> bool:
        """Whether the child still runs."""
        return self._process.is_alive()

    def send_signal(self, number: signal.Signals) -> bool:
        """Sends a signal to the child; returns False where it has ended.

        The server that forked it takes its exit code at any moment, whether this process has asked or not.
        """
        try:
            os.kill(self.pid, number)
        except ProcessLookupError:
            return False
        return True

    def kill(self) -> None:
        """Kills the child, as power loss would, and waits until it is gone."""
        self.send_signal(signal.SIGKILL)
        self._process.join()

    def wait_until_gone(self, timeout_seconds: float = WAIT_SECONDS) -> int:
        """Waits for the end of a child that is to end by itself; returns its exit code."""
        self._process.join(timeout_seconds)
        if self._process.exitcode is None:
            raise WorkerFailedError(f"process {self.pid} did not end in {timeout_seconds} seconds")
        return self._process.exitcode

    def freeze(self) -> None:
        """Stops every thread of the child."""
        self.send_signal(signal.SIGSTOP)
        self.wait_until_frozen()

    def wait_until_frozen(self, timeout_seconds: float = WAIT_SECONDS) -> None:
        """Returns once the child is stopped, by this process or by itself."""
        deadline = time.monotonic() + timeout_seconds
        while _state(self.pid) != "T":
            if time.monotonic() > deadline or not self._process.is_alive():
                raise WorkerFailedError(f"process {self.pid} was never stopped: {self.drain()}")
            time.sleep(0.005)

    def thaw(self) -> None:
        """Lets a stopped child go on."""
        self.send_signal(signal.SIGCONT)

    def end(self) -> None:
        """Ends the child whatever it is doing, and frees what it held here."""
        if self._process.is_alive():
            self.kill()
        self._process.join()
        self._process.close()
        self._pipe.close()


def first_to_speak(among: Iterable[Worker], timeout_seconds: float) -> list[Worker]:
    """Returns those who have said something, as soon as anybody has, or none after a while."""
    by_pipe = {worker._pipe: worker for worker in among}
    ready = multiprocessing.connection.wait(list(by_pipe), timeout=timeout_seconds)
    return [worker for pipe, worker in by_pipe.items() if pipe in ready]


@contextlib.contextmanager
def workers() -> Iterator[Callable[..., Worker]]:
    """Gives a maker of workers; all of them end with the block."""
    made: list[Worker] = []

    def start(work: Callable[..., None], *arguments: Any) -> Worker:
        made.append(Worker(work, *arguments))
        return made[-1]

    try:
        yield start
    finally:
        for worker in made:
            worker.end()


def say(pipe: Pipe, content: Any) -> None:
    """In a child: tells the test something other than None."""
    pipe.send(("said", content))


def _run(pipe: Pipe, work: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    try:
        with warnings.catch_warnings(record=True) as shown:
            warnings.simplefilter("always")
            work(pipe, *arguments)
        pipe.send(("done", [warning.category.__name__ for warning in shown]))
    except BaseException:
        pipe.send(("failed", traceback.format_exc()))
        raise SystemExit(1) from None


def _state(pid: int) -> str:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return text.rpartition(")")[2].split()[0]


def fork() -> int:
    """Forks as `os.fork` does: since Python 3.12 that warns where there are threads, which the tests know of."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
