"""A child one of whose system calls fails or is torn: what it does, and what must be true of it meanwhile.

It runs under the layer of `faulty_calls.c`. When a step raises an error of ours it does one of two things: it
ends at once, as by a crash, or it checks that its session is usable (or says that it is closed), takes the
step again without the fault, and goes on to the end.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import ebooklet_tx
from ebooklet_tx.errors import (
    Error,
    LocalIntegrityError,
    LocalStorageError,
    LockTimeoutError,
    RemoteIntegrityError,
    SessionClosedError,
)
from ebooklet_tx.local.booklet import value_file
from ebooklet_tx.local.journal import journal, sqlite_errors
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.retry import RetryPolicy
from tests.faults.crashes import end_as_by_a_crash
from tests.faults.scenarios import (
    BUCKETS,
    FILE,
    SCENARIOS,
    Change,
    Child,
    Content,
    Scenario,
    Step,
    Template,
    content_of,
    make_base,
    remote_of,
    value_of,
)

OTHER_FILE = "other.blt"
PATIENCE_SECONDS = 60
LIBRARY_VARIABLE = "LD_PRELOAD"


@dataclass(frozen=True)
class Fault:
    """One thing to be done to a process: the n-th call of a name, and so many after it.

    Attributes:
        call: Its name in `faulty_calls.c`; "" for any.
        number: From 1; 0 for none, which only counts.
        action: "fail", "after", "short", "torn" or "none".
        error: The errno.
        times: How many calls in sequence.
        about: Which file the counted call was about; for the account.
    """

    call: str
    number: int
    action: str = "fail"
    error: int = 5
    times: int = 1
    about: str = ""

    def __str__(self) -> str:
        many = "" if self.times == 1 else f" and the next {self.times - 1}"
        return f"{self.call} {self.number}{many} on {self.about}: {self.action} {os.strerror(self.error)}"

    def order(self) -> dict[str, Any]:
        return asdict(self)


class Layer:
    """The layer below this process, which was started with it."""

    def __init__(self) -> None:
        self._library = ctypes.CDLL(os.environ[LIBRARY_VARIABLE])
        for name in ("faulty_counted", "faulty_treated"):
            getattr(self._library, name).restype = ctypes.c_long

    def arm(self, pattern: Path, fault: Fault, log: int = -1) -> None:
        self._library.faulty_arm(
            os.fsencode(pattern),
            fault.call.encode(),
            ctypes.c_long(fault.number),
            ctypes.c_long(fault.times),
            fault.action.encode(),
            fault.error,
            log,
        )

    def pause(self, paused: bool) -> None:
        self._library.faulty_pause(int(paused))

    def disarm(self) -> None:
        self._library.faulty_disarm()

    def treated(self) -> int:
        return int(self._library.faulty_treated())


class EnduringChild(Child):
    """A child whose patience with stores and locks is short, and that knows a second machine."""

    pushed_elsewhere = False
    lock: str | None = None

    def open(self) -> None:
        self.database = self._opened(self.path, self.flag, self.lock)

    def open_again(self) -> None:
        """Opens behind a failure, which may have left a lease that only its time frees."""
        try:
            self.open()
        except LockTimeoutError:
            if self.lock is None:
                raise
            self.lock = None
            self.open()

    def _opened(self, path: Path, flag: str, lock: str | None = None) -> Any:
        return ebooklet_tx.open(
            self.remote,
            path,
            flag,
            n_buckets=BUCKETS,
            lock=lock,
            lock_timeout=0.3,
            retry=RetryPolicy.without_backoff(),
        )

    def push_elsewhere(self) -> None:
        """Another machine commits, once."""
        if self.pushed_elsewhere:
            return
        with self._opened(self.folder / OTHER_FILE, "w") as database:
            _elsewhere(database)
            database.changes().push()
        self.pushed_elsewhere = True


class Enduring:
    """Takes steps under a fault; each failure has to be one of ours and to leave the session usable."""

    _kept: ClassVar[list[Any]] = []

    def __init__(self, child: EnduringChild, report: socket.socket, order: dict[str, Any]) -> None:
        self._child = child
        self._report = report
        self._dies = order["dies"]
        self._fault = Fault(**order["fault"])
        self._state = Content()
        self._layer = Layer()
        self._log = order.get("log")
        # An endless loop or wait is a failure, and no exception could be caught.
        signal.alarm(PATIENCE_SECONDS)
        # So are waits for a lock that a fault makes seem taken for good.
        DirectoryStore.__init__.__kwdefaults__["lock_timeout_seconds"] = 0.3
        journal._BUSY_TIMEOUT_SECONDS = sqlite_errors._BUSY_TIMEOUT_SECONDS = 0.3
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600) if self._log else -1
        self._layer.arm(child.folder, self._fault, log)

    def take(self, child: Child, step: Step) -> None:
        """Takes a step to its end, or ends the process when it fails.

        Raises:
            AssertionError: A failure was not told as it should be, or something is lost by it.
        """
        if step.name == "pull":
            self._elsewhere()
        if step.name == "open":
            child.database = None
        try:
            step.run(child)
            self._check_after(step)
        except Error as error:
            self._tell(f"raised {type(error).__name__} in {step.name}: {error}")
            if isinstance(error, LocalIntegrityError | RemoteIntegrityError):
                raise AssertionError(f"sound bytes are called damaged: {error}") from error
            # What fails for good is mended as soon as it is noticed.
            self._layer.disarm()
            if self._dies:
                self._end()
            self._again(step, error)
            self._check_after(step)

    def finish(self) -> None:
        """Tells how many calls were treated."""
        self._tell(f"treated {self._layer.treated()}")

    def _end(self) -> None:
        self._report.sendall(b"died\n")
        os._exit(0)

    def _tell(self, text: str) -> None:
        self._report.sendall(b"event " + text.replace("\n", " ").encode() + b"\n")

    def _elsewhere(self) -> None:
        self._layer.pause(True)
        self._child.push_elsewhere()
        self._layer.pause(False)

    def _again(self, step: Step, error: Error) -> None:
        """Checks what a failed step left, and takes it again."""
        if step.name == "open":
            # What failed may have been the first look into an open one.
            if self._child.database is None:
                self._child.open_again()
            return
        if step.name == "close":
            self._close_again(step)
            return
        try:
            found = content_of(self._child.database)
        except (SessionClosedError, LocalStorageError) as still:
            # SQLite takes a lock that it could not release for held until it is closed.
            if isinstance(still, LocalStorageError):
                if "close the database and open it again" not in str(still):
                    raise
                with suppress(LocalStorageError):
                    self._child.database.close()
            self._tell("closed by it")
            self._child.open_again()
            found = content_of(self._child.database)
            if step.change is None or found.same_as(self._after(step)):
                return
        self._check_between(found, step)
        if step.name == "transaction" and not found.same_as(self._state):
            raise AssertionError(f"the failed transaction left {found.difference(self._state)}") from error
        step.run(self._child)

    def _close_again(self, step: Step) -> None:
        self._child.database.close()
        self._child.open_again()
        found = content_of(self._child.database)
        if not (found.same_as(self._state) or found.same_as(self._after(step))):
            raise AssertionError(f"after the failed close: {found.difference(self._after(step))}")
        step.run(self._child)

    def _check_between(self, found: Content, step: Step) -> None:
        """Each key has the value before the step, or the one after it."""
        after = self._after(step)
        for key in found.keys() | after.keys() | self._state.keys():
            if found.get(key) not in (self._state.get(key), after.get(key)):
                raise AssertionError(f"after the failed {step.name} {key!r} has a wrong value")

    def _check_after(self, step: Step) -> None:
        if step.name == "open" and step.change is None:
            self._state = content_of(self._child.database) if not self._state else self._state
        self._state_after = self._after(step)
        if step.name != "close":
            found = content_of(self._child.database)
            if not found.same_as(self._state_after):
                raise AssertionError(f"after {step.name}: {found.difference(self._state_after)}")
        self._state = self._state_after

    def _after(self, step: Step) -> Content:
        state = self._state.copy()
        if step.change is not None:
            step.change(state)
        return state


# -- what they do ------------------------------------------------------------------------------


def _keys(numbers: range) -> list[str]:
    return [f"k{number:03}" for number in numbers]


def _set(numbers: range, salt: str, size_bytes: int) -> Change:
    def change(target: Any) -> None:
        for key in _keys(numbers):
            target[key] = value_of(key, salt, size_bytes)

    return change


def _drop(numbers: range) -> Change:
    """Deletes what is there: unlike `del`, it can be done again."""

    def change(target: Any) -> None:
        for key in _keys(numbers):
            target.pop(key, None)

    return change


def _both(*changes: Change) -> Change:
    def change(target: Any) -> None:
        for one in changes:
            one(target)

    return change


def _note(data: object) -> Change:
    return lambda target: target.set_metadata(data)


def _step(
    name: str, act: Callable[[Child], object], change: Change | None = None, *, pushes: bool = False
) -> Step:
    def run(child: Child) -> None:
        if change is not None and name != "pull":
            change(child.database)
        act(child)

    return Step(name, run, change, pushes)


def _in_transaction(change: Change) -> Step:
    def run(child: Child) -> None:
        with child.database.transaction():
            change(child.database)

    return Step("transaction", run, change)


def _load(child: Child) -> None:
    child.database.load_items()


OPEN = _step("open", lambda child: child.open())


def sync(change: Change) -> Step:
    return _step("sync", lambda child: child.database.sync(), change)


def push(change: Change | None = None) -> Step:
    return _step("push", lambda child: child.database.changes().push(), change, pushes=True)


def close(change: Change | None = None) -> Step:
    return _step("close", lambda child: child.database.close(), change)


PULL = _step("pull", lambda child: child.database.changes().pull(), lambda target: _elsewhere(target))
PRUNE = _step("prune", lambda child: child.database.prune())
LOAD = _step("load", _load)
COMPACT = _step("compact", lambda child: child.database.compact(live_share=1.0), pushes=True)

_elsewhere = _both(_set(range(30, 34), "elsewhere", 3000), _drop(range(34, 36)))


def _make_with_other(folder: Path) -> Template:
    made = make_base(folder)
    with ebooklet_tx.open(remote_of(folder), folder / OTHER_FILE, "w", n_buckets=BUCKETS, lock=None):
        pass
    return made


def _make_nothing(folder: Path) -> Template:
    return Template(Content(), Content(), reopen_flag="c", readable=False)


def _make_interrupted(folder: Path) -> Template:
    """As a crash within an append leaves it: the guard stands, and the journal knows nothing of the append."""
    made = make_base(folder)
    database = ebooklet_tx.open(remote_of(folder), folder / FILE, "w", n_buckets=BUCKETS, lock=None)
    database["never acknowledged"] = bytes(300_000)
    with mock.patch.object(value_file, "append_blocks", side_effect=OSError(5, "fails")), suppress(Error):
        database.sync()
    end_as_by_a_crash(database, folder)
    return made


_EVERYTHING = [
    OPEN,
    sync(_both(_set(range(4), "small", 300), _drop(range(10, 12)), _note({"small": 1}))),
    _in_transaction(_both(_set(range(100, 106), "together", 200), _drop(range(12, 14)))),
    sync(_both(_set(range(4, 6), "big", 160_000), _drop(range(14, 16)))),
    push(_set(range(6, 7), "pushed", 2000)),
    PULL,
    LOAD,
    PRUNE,
    close(_both(_set(range(7, 9), "closing", 500), _drop(range(16, 18)))),
    OPEN,
    sync(_set(range(18, 20), "again", 400)),
    _in_transaction(_both(_set(range(20, 22), "again", 160_000), _note({"again": 1}))),
    close(),
]

_FIRST_TIME = [
    OPEN,
    sync(_both(_set(range(10), "first", 500), _note({"first": 1}))),
    push(_set(range(20, 24), "first", 40_000)),
    _in_transaction(_both(_set(range(10, 12), "first", 300), _drop(range(2)))),
    push(),
    close(_set(range(12, 14), "first", 100)),
    OPEN,
    close(),
]

_EXCLUSIVELY = [
    OPEN,
    push(_both(_set(range(12), "alone", 20_000), _drop(range(20, 30)))),
    sync(_set(range(2), "alone", 700)),
    push(),
    COMPACT,
    close(),
    OPEN,
    close(),
]

ENDURED: dict[str, Scenario] = {
    "everything": Scenario(_make_with_other, _EVERYTHING),
    "the first time": Scenario(_make_nothing, _FIRST_TIME, flag="c"),
    "fetching": Scenario(SCENARIOS["keeping what is fetched"].make, [OPEN, LOAD, close(), OPEN, close()]),
    "only reading": Scenario(
        SCENARIOS["keeping what a reader fetched"].make, [OPEN, LOAD, close(), OPEN, close()], flag="r"
    ),
    "exclusively": Scenario(make_base, _EXCLUSIVELY),
    "recovering": Scenario(_make_interrupted, [OPEN, sync(_set(range(3), "small", 300)), close(), OPEN, close()]),
    "after plain edits": Scenario(SCENARIOS["plain edits"].make, [OPEN, close(), OPEN, close()]),
}


def run(order: dict[str, Any], report: socket.socket) -> None:
    """Takes the steps of a scenario in this process, as `kill_server` does for its own."""
    scenario = ENDURED[order["scenario"]]
    child = EnduringChild(Path(order["folder"]), order["remote"], scenario.flag)
    child.lock = "exclusive" if order["scenario"] == "exclusively" else None
    Enduring._kept.append(child)
    report.sendall(b"ready\n")
    if report.recv(1) != b"g":
        return
    enduring = Enduring(child, report, order)
    for number, step in enumerate(scenario.steps):
        report.sendall(b"begun %d\n" % number)
        enduring.take(child, step)
        report.sendall(b"done %d\n" % number)
    enduring.finish()
    report.sendall(b"end\n")


__all__ = ["ENDURED", "FILE", "EnduringChild", "Fault", "Layer", "run"]
