"""A remote in memory whose clock the test sets, with local copies: for what becomes of its garbage."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ebooklet_tx.database import Database
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.maintenance import checking
from ebooklet_tx.maintenance.check_reports import CollectReport, CompactReport, FsckReport, VerifyReport
from ebooklet_tx.maintenance.compact import compact
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from tests.doors import open_database, with_wrapped_stores
from tests.memory_store import MemoryStore
from tests.pairs import N_BUCKETS

VALUE_BYTES = 6000
"""Too long to ride in the index: a push of it sends a pack."""

Wrap = Callable[[ObjectStore], ObjectStore]


def value(seed: object, size_bytes: int = VALUE_BYTES) -> bytes:
    """Bytes that don't compress, the same for the same seed."""
    return random.Random(str(seed)).randbytes(size_bytes)


class Yard:
    """One remote and any number of local copies of it.

    Attributes:
        hours: The store's time.
        store: The remote's objects.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hours = 0.0
        self.store = MemoryStore(clock=lambda: self.hours * 3600)
        self.names = ObjectNames("db")
        self._fresh = 0

    @property
    def url(self) -> str:
        return f"file://{self.folder / 'unused' / 'db'}"

    def path(self, copy: str = "a") -> Path:
        return self.folder / f"{copy}.blt"

    def _options(self, wrap: Wrap | None) -> dict[str, Any]:
        return {
            "retry": RetryPolicy.without_backoff(2),
            "wrap_store": lambda _inner: self.store if wrap is None else wrap(self.store),
        }

    def open(self, copy: str = "a", flag: str = "c", *, wrap: Wrap | None = None, **options: Any) -> Database:
        options.setdefault("n_buckets", N_BUCKETS)
        options.setdefault("lock", None)
        options.setdefault("lock_timeout", 5.0)
        return open_database(self.url, self.path(copy), flag, **self._options(wrap), **options)

    def push(self, values: dict[str, bytes | None], copy: str = "a", at_hours: float | None = None) -> None:
        """Sets keys, or deletes them with None, and pushes."""
        if at_hours is not None:
            self.hours = at_hours
        with self.open(copy) as db:
            for key, one in values.items():
                if one is None:
                    del db[key]
                else:
                    db[key] = one
            assert db.changes().push()

    def collect(
        self, *, at_hours: float | None = None, wrap: Wrap | None = None, **options: Any
    ) -> CollectReport:
        if at_hours is not None:
            self.hours = at_hours
        return with_wrapped_stores(checking.collect)(self.url, **self._options(wrap), **options)

    def fsck(self, **options: Any) -> FsckReport:
        return with_wrapped_stores(checking.fsck)(self.url, **self._options(options.pop("wrap", None)), **options)

    def verify(self, **options: Any) -> VerifyReport:
        return with_wrapped_stores(checking.verify)(
            self.url, **self._options(options.pop("wrap", None)), **options
        )

    def compact(self, copy: str = "a", *, wrap: Wrap | None = None, **options: Any) -> CompactReport:
        with self.open(copy, "w", wrap=wrap) as db:
            return compact(db._session, **options)

    def contents(self, copy: str) -> dict[str, bytes]:
        """What a reader with this copy sees."""
        with self.open(copy, "r") as db:
            return dict(db.items())

    def fresh_contents(self) -> dict[str, bytes]:
        """What a machine sees that has never had a copy."""
        self._fresh += 1
        return self.contents(f"fresh{self._fresh}")

    def keys(self, kind: str) -> list[str]:
        """The keys of the objects of a kind, `pack` or `index`, oldest first."""
        prefix = f"{self.names.prefix}{kind}/"
        found = [(one.modified, key) for key, one in self.store.objects.items() if key.startswith(prefix)]
        return [key for _, key in sorted(found)]
