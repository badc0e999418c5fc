"""KeyboardInterrupt at any bytecode of the package, and what has to hold after it.

A trace function counts the bytecodes that run in frames of `ebooklet_tx` in this thread, and raises at one of
them. CPython looks for signals at fewer places than that, so this is harsher than any Ctrl-C.
"""

from __future__ import annotations

import shutil
import sys
import threading
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import ebooklet_tx
from ebooklet_tx.connection import DirectoryConnection
from ebooklet_tx.database import Database
from ebooklet_tx.locks.lease_rules import decode_lease
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from tests.doors import open_database
from tests.memory_store import MemoryStore

PACKAGE = str(Path(ebooklet_tx.__file__).parent)
BIG = b"b" * 300_000
"""Over what a commit may put into the journal alone."""


class Interrupter:
    """Counts bytecodes while `run` runs something, and interrupts at one of them."""

    def __init__(self, at: int | None = None) -> None:
        self.count = 0
        self.where = ""
        self.seen: dict[tuple[object, int], list[int]] = {}
        self._at = at

    def run(self, work: Callable[[], Any]) -> Any:
        sys.settrace(self._on_call)
        try:
            return work()
        finally:
            sys.settrace(None)

    def _on_call(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if not frame.f_code.co_filename.startswith(PACKAGE):
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._on_bytecode

    def _on_bytecode(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "opcode":
            self.count += 1
            if self._at is None:
                self.seen.setdefault((frame.f_code, frame.f_lasti), []).append(self.count)
            if self.count == self._at:
                code = frame.f_code
                self.where = f"{Path(code.co_filename).name}:{frame.f_lineno} in {code.co_name}, {frame.f_lasti}"
                raise KeyboardInterrupt
        return self._on_bytecode


@dataclass
class Stand:
    """A remote with a database, local copies of it, and operations on them; copied for each interrupt.

    `kind` is "directory", "memory", or "tickets": a store in memory without conditional writes.
    """

    folder: Path
    kind: str
    store: Any = None
    values: dict[str, bytes] = field(default_factory=dict)
    pushed_states: list[dict[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.store is None:
            conditions: Any = "ignored" if self.kind == "tickets" else "work"
            self.store = (
                DirectoryStore(self.folder / "remote") if self.kind == "directory" else MemoryStore(conditions)
            )

    def copy(self, folder: Path) -> Stand:
        shutil.copytree(self.folder, folder)
        store = None
        if self.kind != "directory":
            store = MemoryStore("ignored" if self.kind == "tickets" else "work")
            store.objects = deepcopy(self.store.objects)
        return Stand(folder, self.kind, store, self.values, self.pushed_states)

    def open(self, copy: str, flag: str, **options: Any) -> Database:
        given: dict[str, Any] = {
            "lock_timeout": 5.0,
            "n_buckets": 17,
            "retry": RetryPolicy.without_backoff(),
            "conditional_writes": self.kind != "tickets",
        }
        return open_database(
            DirectoryConnection(self.folder / "remote", "db"),
            self.folder / f"{copy}.blt",
            flag,
            wrap_store=self._wrap,
            **given | options,
        )

    def _wrap(self, _plain: ObjectStore) -> ObjectStore:
        return DirectoryStore(self.folder / "remote") if self.kind == "directory" else self.store

    # -- what has to hold ------------------------------------------------------------------

    def leaks(self) -> list[str]:
        """What is still held of this stand, by this process or in the store."""
        found = [f"thread {thread.name}" for thread in threading.enumerate() if "ebooklet_tx" in thread.name]
        for number in Path("/proc/self/fd").iterdir():
            try:
                target = str(number.readlink())
            except OSError:
                continue
            if target.startswith(str(self.folder)):
                found.append(f"descriptor of {target}")
        for entry in self.store.list("db.lock"):
            blob = self.store.get(entry.key)
            record = decode_lease(blob.data, name=entry.key)
            if entry.key != "db.lock" or record.held:
                found.append(f"lock object {entry.key}")
        return found

    def set_aside(self) -> list[str]:
        """Files that are there because something was taken for damage."""
        return [path.name for path in self.folder.iterdir() if "aside" in path.name or "damaged" in path.name]

    def contents(self, copy: str, flag: str = "w") -> dict[str, bytes]:
        """What another session sees that may not wait for anybody."""
        with self.open(copy, flag, lock_timeout=0.0) as db:
            found = dict(db.items())
            assert len(db) == len(found)
            return found


def made_stand(folder: Path, kind: str) -> Stand:
    """A remote with two commits; "a" has both and pending changes, "b" only the first and a change."""
    stand = Stand(folder, kind)
    values = {f"k{number:02}": bytes([number]) * 500 for number in range(12)} | {"big": BIG}
    with stand.open("a", "c") as db:
        db.update(values)
        db.changes().push()
    with stand.open("b", "w") as db:
        db["mine"] = b"pending at b"
    with stand.open("a", "w") as db:
        db["k00"] = b"second commit"
        del db["k01"]
        db.changes().push()
        pushed = dict(db.items())
        db["k02"] = b"pending"
        db["large"] = BIG + b"pending"
    stand.values = values | {"k00": b"second commit", "k02": b"pending", "large": BIG + b"pending"}
    del stand.values["k01"]
    stand.pushed_states = [pushed, stand.values]
    return stand


# -- operations ------------------------------------------------------------------------------


@dataclass
class Trial:
    """One operation on a copy of a stand, interrupted or not."""

    stand: Stand
    database: Database | None = None
    before: dict[str, bytes] = field(default_factory=dict)
    after: dict[str, bytes] = field(default_factory=dict)
    copy: str = "a"

    def opened(self, copy: str = "a") -> Database:
        self.copy = copy
        self.database = self.stand.open(copy, "w")
        self.before = self.after = dict(self.database.items())
        return self.database


def _open(trial: Trial) -> Callable[[], Any]:
    trial.before = trial.after = trial.stand.values

    def work() -> None:
        trial.database = trial.stand.open("a", "w")

    return work


def _open_new_copy(trial: Trial) -> Callable[[], Any]:
    trial.copy = "new"
    trial.before = trial.after = trial.stand.contents("b", "r") | {}
    trial.before.pop("mine")
    trial.after = trial.before

    def work() -> None:
        trial.database = trial.stand.open("new", "c")

    return work


def _transaction(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    trial.after = trial.before | {"t1": b"one", "t2": b"two", "k03": b"three"}
    del trial.after["k04"]

    def work() -> None:
        with db.transaction():
            db["t1"] = b"one"
            db.update({"t2": b"two", "k03": b"three"})
            del db["k04"]

    return work


def _large_transaction(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    trial.after = trial.before | {"t1": BIG + b"1", "t2": BIG + b"2", "large": BIG + b"3"}

    def work() -> None:
        with db.transaction():
            db.update({"t1": BIG + b"1", "t2": BIG + b"2", "large": BIG + b"3"})

    return work


def _clear_and_sync(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    db.update({"c1": b"one", "c2": b"two"})
    db.sync()
    trial.before = dict(db.items())
    trial.after = {"c3": b"three"}

    def work() -> None:
        with db.transaction():
            db.clear()
            db["c3"] = b"three"

    return work


def _push(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    return lambda: db.changes().push()


def _pull(trial: Trial) -> Callable[[], Any]:
    trial.copy = "b"
    db = trial.database = trial.stand.open("b", "w", lock=None)
    with trial.stand.open("a", "w", lock=None) as other:
        other.changes().push()
    trial.before = dict(db.items())
    trial.after = trial.before | {"k02": b"pending", "large": BIG + b"pending"}
    return lambda: db.changes().pull()


def _prune(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    return lambda: db.prune()


def _close(trial: Trial) -> Callable[[], Any]:
    db = trial.opened()
    db.update({"x": b"unsaved", "y": BIG + b"unsaved"})
    trial.after = trial.before = dict(db.items())
    return lambda: db.close()


OPERATIONS: dict[str, Callable[[Trial], Callable[[], Any]]] = {
    "open": _open,
    "open a new copy": _open_new_copy,
    "commit": _transaction,
    "large commit": _large_transaction,
    "clear": _clear_and_sync,
    "push": _push,
    "pull": _pull,
    "prune": _prune,
    "close": _close,
}


def bytecodes_of(template: Stand, folder: Path, operation: str) -> list[list[int]]:
    """The distinct bytecodes that an operation runs, each with the numbers at which it does."""
    trial = Trial(template.copy(folder))
    counter = Interrupter()
    try:
        counter.run(OPERATIONS[operation](trial))
    finally:
        if trial.database is not None:
            trial.database.close()
        shutil.rmtree(folder)
    return list(counter.seen.values())


def problems_after(template: Stand, folder: Path, operation: str, at: int, *, go_on: bool) -> list[str]:
    """Interrupts an operation at a bytecode, closes, and returns what does not hold, with the place.

    Args:
        template: What the operation is done on; it is copied.
        folder: Where to; removed afterwards.
        operation: A key of `OPERATIONS`.
        at: The number of the bytecode.
        go_on: Whether the session is used again before it is closed.
    """
    trial = Trial(template.copy(folder))
    work = OPERATIONS[operation](trial)
    interrupter = Interrupter(at)
    problems: list[str] = []
    try:
        interrupter.run(work)
    except KeyboardInterrupt:
        pass
    except BaseException as error:
        problems.append(f"the interrupt came out as {error!r}")
    try:
        _look(trial, problems, go_on=go_on)
    except Exception as error:
        problems.append(f"{type(error).__name__}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return [f"{operation} of {template.kind} at {at} ({interrupter.where}): {problem}" for problem in problems]


def _look(trial: Trial, problems: list[str], *, go_on: bool) -> None:
    extra: dict[str, bytes] = {}
    database = trial.database
    if database is not None:
        if go_on and not database.closed:
            database["afterwards"] = b"still usable"
            database.sync()
            assert database["afterwards"] == b"still usable"
            extra = {"afterwards": b"still usable"}
        database.close()
        database.close()
    stand = trial.stand
    problems += stand.leaks()
    problems += [f"{name} was set aside" for name in stand.set_aside()]
    found = stand.contents(trial.copy, "c" if trial.copy == "new" else "w")
    if found not in (trial.before | extra, trial.after | extra):
        wanted = trial.before | extra
        wrong = sorted(key for key in found.keys() | wanted.keys() if found.get(key) != wanted.get(key))
        problems.append(f"neither before nor after: {wrong}")
    problems += stand.leaks()
    fresh = stand.contents("fresh", "c")
    pushed = stand.pushed_states if trial.copy != "new" else [trial.after]
    if fresh not in pushed:
        problems.append("a new copy sees what was never pushed")
