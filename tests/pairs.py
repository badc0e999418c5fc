"""Local pairs and folder remotes for the tests of sync: made, opened, compared, tampered with."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.formats.root import ROOT_HEADER_BYTES, Root, decode_root
from ebooklet_tx.index.building import RUN_LIST_BYTES, IndexLimits
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import CommitRecord, digest_of
from ebooklet_tx.stores.retry import RetryPolicy
from tests.doors import open_database

OLD_STAMP = 1_600_000_000_000_000
N_BUCKETS = 1009
"""Enough for what most tests hold; Booklet's own 12,007 take longer to write than all the rest."""
LARGE = b"l" * 40_000
"""Too large to ride in the index."""


@dataclass
class Bench:
    """A folder with one remote and any number of local copies of it."""

    folder: Path
    name: str = "db"

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'remote' / self.name}"

    @property
    def root(self) -> Path:
        """The remote's root object."""
        return self.folder / "remote" / self.name

    def objects(self, kind: str) -> list[Path]:
        """The remote's packs, or the objects of its index, oldest first."""
        found = (self.folder / "remote" / f"{self.name}.d" / kind).glob("*")
        return sorted(found, key=lambda path: path.stat().st_mtime_ns)

    def path(self, copy: str = "a") -> Path:
        return self.folder / f"{copy}.blt"

    def journal(self, copy: str = "a") -> Path:
        return self.folder / f"{copy}.blt.journal"

    def open(self, copy: str = "a", flag: str = "c", **options: Any) -> Database:
        options.setdefault("n_buckets", N_BUCKETS)
        options.setdefault("lock", None)
        options.setdefault("lock_timeout", 5.0)
        options.setdefault("retry", RetryPolicy.without_backoff())
        return open_database(self.url, self.path(copy), flag, **options)

    def contents(self, copy: str) -> dict[str, Any]:
        """What a reader with this copy sees, metadata under the key ""."""
        with self.open(copy, "r") as db:
            found = dict(db.items())
            assert len(db) == len(found)
            metadata = db.get_metadata()
        return found if metadata is None else found | {"": metadata}

    _fresh = 0

    def fresh_contents(self) -> dict[str, Any]:
        """What a machine sees that has never had a copy."""
        self._fresh += 1
        return self.contents(f"fresh{self._fresh}")


def make(bench: Bench, values: dict[str, bytes], copy: str = "a") -> None:
    """Sets values in a copy and pushes them."""
    with bench.open(copy) as db:
        db.update(values)
        db.changes().push()


def push(bench: Bench, copy: str, values: dict[str, bytes | None]) -> None:
    """Another writer's commit."""
    with bench.open(copy, "c") as db:
        for key, value in values.items():
            if value is None:
                del db[key]
            else:
                db[key] = value
        db.changes().push()


def root_of(bench: Bench) -> Root:
    return decode_root(bench.root.read_bytes(), name="root")


def with_tail(root: bytes, tail: bytes) -> bytes:
    """A root with another tail, of the same length, under a digest that fits; it need not be one."""
    body = root[ROOT_HEADER_BYTES : len(root) - len(tail)] + tail
    start = root[: ROOT_HEADER_BYTES - 16]
    return start + digest_of(start + body) + body


def pending(db: Database) -> dict[str, str]:
    """The operations that are still to be pushed, by key."""
    return {change["key"]: change["operation"] for change in db.changes().iter_changes()}


def history(bench: Bench) -> list[tuple[int, int]]:
    """(keys set, keys deleted) of each commit, oldest first, as a fresh copy learns it."""
    bench._fresh += 1
    with bench.open(f"history{bench._fresh}", "r") as db:
        return [(record.set_count, record.deleted_count) for record in commits_of(db)]


def index_of(db: Database) -> CommitIndex:
    """The index of the commit that a session stands on."""
    index = db._session.index.of_base(read_base(db._session.journal))
    assert index is not None
    return index


def commits_of(db: Database) -> list[CommitRecord]:
    """The records of a database's commits up to the one that a session stands on, oldest first."""
    base = read_base(db._session.journal)
    if not base.seq:
        return []
    index = index_of(db)
    return list(index.remote.history.records(index.manifest))[::-1]


def limit_tails(patch: pytest.MonkeyPatch, tail_bytes: int, *, run_list_bytes: int = RUN_LIST_BYTES) -> None:
    """Lets less of the index ride in the root than else, so that a few rows make an index object."""
    limits = IndexLimits(tail_bytes=tail_bytes, run_list_bytes=run_list_bytes)
    patch.setattr("ebooklet_tx.sync.commit.builder.IndexLimits", lambda: limits)


def many_large(count: int = 10) -> dict[str, bytes]:
    """Values of 40,000 bytes each, no two of them equal."""
    return {f"k{number:02}": random.Random(number).randbytes(40_000) for number in range(count)}


@contextmanager
def writer_store(path: Path) -> Iterator[LocalStore]:
    """The local half alone, opened for writing, with no remote asked."""
    store = LocalStore.open_writer(path, create=False, timeout_seconds=5.0)
    try:
        yield store
    finally:
        store.abandon()


def local_state(path: Path) -> dict[str, tuple[int, bytes | None, int]]:
    """What the journal says of each key: pending operation, digest and timestamp."""
    with writer_store(path) as store:
        return {e.key: (e.pending, e.digest, e.timestamp_us) for e in entries_where(store.journal, "1")}


@contextmanager
def mtime_kept(path: Path) -> Iterator[None]:
    """Whatever is done to a file in here does not show in its modification time."""
    before = path.stat()
    yield
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def flip(path: Path, byte: int, bit: int) -> None:
    """Flips one bit of a file in place."""
    with path.open("r+b") as file:
        file.seek(byte)
        (old,) = file.read(1)
        file.seek(byte)
        file.write(bytes([old ^ (1 << bit)]))
