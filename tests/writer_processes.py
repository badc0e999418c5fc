"""What the child processes of the tests with many writers do; see `tests.processes`."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any, TypeVar

import ebooklet_tx
from ebooklet_tx import MISSING, Conflict, Database, LockLostError
from ebooklet_tx.cli import demo
from ebooklet_tx.local.journal.operations import stage_value
from ebooklet_tx.local.journal.pending import resolutions
from ebooklet_tx.locks import process_identity as this_process
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.sync.commit import commit_mode, writer_locks
from tests.doors import open_database
from tests.modules import load_all
from tests.pairs import N_BUCKETS
from tests.places import Place
from tests.processes import say
from tests.store_wrappers import PassingStore

T = TypeVar("T")

# What the package loads when it is first needed, each child would load anew: they are forked from here.
load_all()

SERIALIZER = "orjson"


def open_at(place: Place, path: Path, flag: str, **options: Any) -> Database:
    """Opens a database of a test."""
    return open_database(place.connection, path, flag, SERIALIZER, N_BUCKETS, **options)


def added_up(conflict: Conflict) -> int:
    """Merges two counts: what both sides added to their common base."""
    base, ours, theirs = (
        0 if value is MISSING else value for value in (conflict.base, conflict.ours, conflict.theirs)
    )
    return int(ours + theirs - base)


def count(
    pipe: Pipe, place: Place, path: Path, number: int, pushes: int, counters: int, lock: str | None
) -> None:
    """Pushes again and again one more for its own counter, and one more for each of the shared ones.

    With a lock the database is opened and closed each time, as only that lets others in; no conflict
    may come up then. Without one the session stays open, and counts are added up.
    """
    say(pipe, "ready")
    pipe.recv()
    if lock is None:
        with open_at(place, path, "w", lock=None) as db:
            for _ in range(pushes):
                _count_one(db, number, counters)
                say(pipe, db.changes().push(on_conflict=added_up).commit_id)
        return
    for _ in range(pushes):
        with open_at(place, path, "w", lock=lock) as db:
            _count_one(db, number, counters)
            say(pipe, db.changes().push().commit_id)


def push_and_die(
    _pipe: Pipe, remote: str, path: str, when: str, environment: Mapping[str, str], output: str | Path
) -> None:
    """Pushes as the child of the demonstration does, which kills itself around the put of the root."""
    os.environ.update(environment)
    with open(output, "w") as sys.stdout:  # noqa: PTH123
        demo._child(remote, path, when)


def set_and_die(_pipe: Pipe, remote: str, path: Path, key: str, value: str) -> None:
    """Sets a value, which is committed, and is killed with the database open."""
    db = ebooklet_tx.open(remote, path, "w")
    db[key] = value
    db.sync()
    os.kill(os.getpid(), signal.SIGKILL)


PATIENCE_SECONDS = 1500.0
"""How long a writer of a crowd waits for its turn, however slow the machine is."""

MINDS: tuple[bool | str, ...] = ("auto", True, False)


def count_changing_its_mind(
    pipe: Pipe, place: Place, path: Path, number: int, pushes: int, lock: str | None
) -> None:
    """Counts as `count` does, and holds another thing of the store at each push."""
    say(pipe, "ready")
    pipe.recv()
    for turn in range(pushes):
        mind = MINDS[(number + turn) % len(MINDS)]
        commit_mode.probe_results.clear()
        with open_at(place, path, "w", lock=lock, lock_timeout=PATIENCE_SECONDS, conditional_writes=mind) as db:
            db._session.locks.timeout_seconds = PATIENCE_SECONDS
            _count_one(db, number, 1)
            say(pipe, db.changes().push(on_conflict=added_up).commit_id)


def _count_one(db: Database, number: int, counters: int) -> None:
    for key in (f"own/{number}", *(f"shared/{each}" for each in range(counters))):
        db[key] = db.get(key, 0) + 1


def resolve_and_die(_pipe: Pipe, place: Place, path: Path, keys: list[str], at: int) -> None:
    """Settles conflicts by a value, and is killed before that of the given number, from 1, is staged."""
    staged: list[str] = []

    def die(raw: sqlite3.Connection, key: str, value: bytes | None, timestamp_us: int) -> None:
        staged.append(key)
        if len(staged) == at:
            os.kill(os.getpid(), signal.SIGKILL)
        stage_value(raw, key, value, timestamp_us)

    resolutions.stage_value = die  # type: ignore[attr-defined]  # mypy sees a name of another module
    open_at(place, path, "w", lock=None).changes().resolve(keys, "merged")


class _StoppingStore(PassingStore):
    """Stops its whole process, once, when the root is about to be written."""

    def __init__(self, inner: ObjectStore, root: str) -> None:
        super().__init__(inner)
        self._root = root
        self._stopped = False

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        if kind == "put" and key == self._root and not self._stopped:
            self._stopped = True
            os.kill(os.getpid(), signal.SIGSTOP)
        return send()


def on_machine(name: str) -> None:
    """Makes this process one of another machine, as far as a lock can tell."""
    this_process.boot_id = lambda: f"boot of {name}"
    socket.gethostname = lambda: name


def hold(
    pipe: Pipe,
    place: Place,
    path: Path,
    changes: dict[str, Any],
    ttl_seconds: float,
    freezes_at_commit: bool,
    elsewhere: bool = True,
) -> None:
    """Takes the lock, on a machine of its own if told so, changes keys, and pushes when told.

    Says "holding", then the outcome: "pushed" or "lost", with the keys that are pending after it.
    """
    if elsewhere:
        on_machine("the holder's")
    writer_locks.LOCK_TTL_SECONDS = ttl_seconds
    key = place.connection.key

    def wrap(store: ObjectStore) -> ObjectStore:
        return _StoppingStore(store, key) if freezes_at_commit else store

    with open_at(place, path, "w", wrap_store=wrap) as db:
        db.update(changes)
        db.sync()
        say(pipe, "holding")
        pipe.recv()
        try:
            db.changes().push()
            outcome = "pushed"
        except LockLostError:
            outcome = "lost"
        say(pipe, (outcome, [change["key"] for change in db.changes().iter_changes()]))


@dataclass(frozen=True)
class Event:
    """One commit or read of a recorded history; the times are those of the machine's one clock.

    Attributes:
        kind: "try" before a commit, "commit" after it, "read".
        label: Of a commit, what it wrote as `last`; of a read, what it found there.
        state: A digest of everything that was read.
    """

    kind: str
    label: str | None
    began_seconds: float
    ended_seconds: float
    seq: int = 0
    commit_id: str | None = None
    state: str | None = None


def state_digest(content: Mapping[str, Any]) -> str:
    """Returns a digest of a whole database."""
    text = "\n".join(f"{key}={content[key]}" for key in sorted(content))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_history(pipe: Pipe, place: Place, path: Path, name: str) -> None:
    """Commits one key of its own and a common one, again and again, and reads what there is between."""
    with open_at(place, path, "w", lock=None) as db:
        number = 0
        while not pipe.poll():
            number += 1
            label = f"{name}/{number}"
            began = time.monotonic()
            say(pipe, Event("try", label, began, began))
            db.update({f"seq/{label}": number, "last": label})
            result = db.changes().push(on_conflict="ours")
            say(pipe, Event("commit", label, began, time.monotonic(), result.seq, result.commit_id))
            if number % 3 == 0:
                _pull_and_read(pipe, db)


def read_history(pipe: Pipe, place: Place, path: Path, _name: str) -> None:
    """Reads again and again: by pulling in a session that stays open, and from nothing."""
    with open_at(place, path, "r") as db:
        number = 0
        while not pipe.poll():
            number += 1
            _pull_and_read(pipe, db)
            fresh = path.with_name(f"{path.stem}-{os.getpid()}-{number}.blt")
            began = time.monotonic()
            with open_at(place, fresh, "r") as new:
                _read(pipe, new, began)
            for left in path.parent.glob(f"{fresh.name}*"):
                left.unlink()


def _pull_and_read(pipe: Pipe, db: Database) -> None:
    began = time.monotonic()
    db.changes().pull()
    _read(pipe, db, began)


def _read(pipe: Pipe, db: Database, began: float) -> None:
    content = dict(db.items())
    say(pipe, Event("read", content.get("last"), began, time.monotonic(), state=state_digest(content)))
