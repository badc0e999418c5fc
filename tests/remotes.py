"""Databases in a store in memory, that sessions of any name share, and stores in which a process dies."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ebooklet_tx.connection import Connection, DirectoryConnection, S3Connection
from ebooklet_tx.database import Database
from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import LockLostError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.maintenance import break_locks as breaking
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryingStore, RetryPolicy
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.remote import Remote
from tests.doors import open_database
from tests.memory_store import MemoryStore
from tests.pairs import N_BUCKETS
from tests.store_wrappers import PassingStore

T = TypeVar("T")
Wrap = Callable[[ObjectStore], ObjectStore]


class Killed(BaseException):
    """The process is dead; nothing in it catches this."""


class DyingStore(PassingStore):
    """Kills the process at its n-th request, before or after that takes effect: no later one is sent.

    Attributes:
        requests: How many requests were made; those of the dead process are not counted.
        log: Kind and key of each, in order.
    """

    def __init__(self, inner: ObjectStore, at: int = 0, *, after: bool = False) -> None:
        super().__init__(inner)
        self.log: list[tuple[str, str]] = []
        self._at = at
        self._after = after
        self._dead = False

    @property
    def requests(self) -> int:
        return len(self.log)

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        with self._mutex:
            if self._dead and threading.current_thread().name.startswith("ebooklet_tx "):
                # The thread that renews a lock would have died with the process: this is what ends it.
                raise LockLostError("its process is dead")
            if self._dead:
                raise Killed
            self.log.append((kind, key))
            last = len(self.log) == self._at
            self._dead = last
        if last and not self._after:
            raise Killed
        answer = send()
        if last:
            raise Killed
        return answer


def values_of(count: int, size_bytes: int, seed: int = 0) -> dict[str, bytes]:
    source = random.Random(seed)
    return {f"k{number:03}": source.randbytes(size_bytes) for number in range(count)}


@dataclass
class Shelf:
    """A store that databases and strangers share, and local files by name.

    Attributes:
        folder: Where local files lie.
        store: The store; the places that connections name stand for names in it.
    """

    folder: Path
    store: Any = field(default_factory=MemoryStore)
    conditional: bool = True
    policy: RetryPolicy = field(default_factory=RetryPolicy.without_backoff)
    _fresh: int = 0

    def remote(self, name: str, wrap: Wrap = lambda inner: inner, *, threads: int = 1) -> Remote:
        return Remote(
            RetryingStore(wrap(self.store), self.policy),
            ObjectNames(name),
            self.policy,
            threads=threads,
            mode=CommitMode(
                swaps=self.conditional,
                place=("http://127.0.0.1:9", "bucket") if "/" in name else ("file", ""),
            ),
        )

    def open(
        self, name: str, copy: str, flag: str = "c", *, wrap: Wrap | None = None, **options: Any
    ) -> Database:
        """Opens a database of the store; the place that its connection names is never asked."""
        place: Connection = (
            S3Connection("id", "key", name, "bucket", "http://127.0.0.1:9")
            if "/" in name
            else DirectoryConnection(self.folder / "nothing", name)
        )
        given: dict[str, Any] = {
            "lock": None,
            "lock_timeout": 5.0,
            "n_buckets": N_BUCKETS,
            "retry": self.policy,
        } | options
        return open_database(
            place,
            self.folder / f"{copy}.blt",
            flag,
            conditional_writes=self.conditional,
            wrap_store=lambda _: self.store if wrap is None else wrap(self.store),
            **given,
        )

    def contents(self, name: str, copy: str | None = None) -> dict[str, Any]:
        """What a reader sees, metadata under the key ""; on a new machine unless a copy is named."""
        if copy is None:
            self._fresh += 1
            copy = f"fresh{self._fresh}"
        with self.open(name, copy, "r") as db:
            found = dict(db.items())
            assert len(db) == len(found)
            metadata = db.get_metadata()
        return found if metadata is None else found | {"": metadata}

    def push(self, name: str, copy: str, values: dict[str, bytes | None], metadata: Any = None) -> None:
        with self.open(name, copy) as db:
            for key, value in values.items():
                if value is None:
                    del db[key]
                else:
                    db[key] = value
            if metadata is not None:
                db.set_metadata(metadata)
            db.changes().push()

    def keys(self, prefix: str = "") -> set[str]:
        return {entry.key for entry in self.store.list(prefix)}

    def unlock(self, name: str) -> None:
        """What a user does about the lock of a process that is surely gone."""
        breaking.unlock(self.remote(name), force=True)


@contextmanager
def dying(db: Database) -> Iterator[None]:
    """Expects the process of a session to die inside; lets go of what the system would take from it."""
    try:
        yield
    except Killed:
        lock = db._session.locks.held
        if lock is not None:
            lock.forget_in_child()
        db._session.local.abandon()
        db._closed = True
        db._ending = Ending()
    else:
        raise AssertionError("the process lived on")
