"""Pieces of the remote's index that were fetched, kept in the journal by digest.

The invariant: a piece is returned only if its bytes have its digest, so that it is neither stale nor damaged. The
cache is bounded; the pieces that were used longest ago go first. Pieces that are held stand outside the bound:
they are the whole index of a commit, which a session asked for. A write costs what it writes: the table is gone
through only when it may be past its bound.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ebooklet_tx.local.journal.journal import Journal, Transaction, driver
from ebooklet_tx.records import digest_of
from ebooklet_tx.timestamps import now_us

CACHE_BYTES = 64 * 2**20
"""What the journal keeps by default: the index of about two million keys."""

WAITING_BYTES = 4 * 2**20
"""Pieces that wait in memory for the next write of the journal; a session that can't write drops the oldest."""

MOST_WAITING_BYTES = 16 * 2**20
"""Beyond this nothing more is taken into memory: a push that writes a large index keeps the first of it."""

SPARE_PART = 16
"""Of a cache that is past its bound this part is emptied, so that the next writes have room."""

HELD = 2**62
"""In place of the time of last use: a piece that no bound drops."""

_AT_ONCE = 500

_INSERT = """
INSERT INTO piece(digest, last_used, bytes) VALUES (?, ?, ?)
ON CONFLICT(digest) DO UPDATE SET bytes = excluded.bytes, last_used = max(last_used, excluded.last_used)
"""
"""A piece that was damaged in the journal is replaced by what was fetched in its place."""


class PieceCache:
    """Keeps pieces: in memory until the journal is written next, then in its table `piece`.

    Attributes:
        most_bytes: What the table may hold; None for no bound.
    """

    def __init__(self, *, most_bytes: int | None = CACHE_BYTES) -> None:
        self.most_bytes = most_bytes
        self._journal: Journal | None = None
        self._mutex = threading.Lock()
        self._waiting: dict[bytes, bytes] = {}
        self._waiting_bytes = 0
        self._used: set[bytes] = set()
        self._stored_bytes: int | None = None
        self._data_version = 0

    def use(self, journal: Journal) -> None:
        """Takes the journal that the pieces are kept in, or another one of the same database."""
        self._journal = journal
        self._stored_bytes = None

    def get(self, digests: Collection[bytes]) -> dict[bytes, bytes]:
        """Returns those of some pieces that it has."""
        with self._mutex:
            found = {digest: self._waiting[digest] for digest in digests if digest in self._waiting}
        stored = self._stored([digest for digest in digests if digest not in found])
        with self._mutex:
            self._used.update(stored)
        return found | stored

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Takes pieces that were found sound."""
        with self._mutex:
            for digest, data in pieces.items():
                if digest not in self._waiting and self._waiting_bytes < MOST_WAITING_BYTES:
                    self._waiting[digest] = data
                    self._waiting_bytes += len(data)

    @property
    def is_waiting(self) -> bool:
        """Whether something waits in memory."""
        return bool(self._waiting)

    @property
    def is_full(self) -> bool:
        """Whether enough waits in memory to be worth a write of the journal."""
        return self._waiting_bytes > WAITING_BYTES

    def drop_oldest(self) -> None:
        """Forgets what waits longest, in a session that can't write now."""
        with self._mutex:
            while self._waiting_bytes > WAITING_BYTES:
                self._waiting_bytes -= len(self._waiting.pop(next(iter(self._waiting))))

    def write(self, transaction: Transaction) -> None:
        """Writes what waits, and which pieces were used, within a transaction of the caller's."""
        if self._waiting:
            self._evict(transaction, self._write(driver(transaction)))

    def hold(self, transaction: Transaction, digests: Collection[bytes], fetched: Mapping[bytes, bytes]) -> bool:
        """Writes pieces, and holds them until `release_others`: no bound drops them.

        Args:
            transaction: The caller's.
            digests: The pieces.
            fetched: Those among them that were fetched now, whether or not they wait in memory as well.

        Returns:
            False when some of the pieces are neither here nor given: another session has dropped them.
        """
        raw = driver(transaction)
        self._write(raw)
        raw.executemany(_INSERT, [(digest, HELD, data) for digest, data in fetched.items()])
        raw.executemany(f"UPDATE piece SET last_used = {HELD} WHERE digest = ?", [(each,) for each in digests])
        self._evict(transaction, None)
        return not self.not_held(digests)

    def release_others(self, transaction: Transaction, digests: Collection[bytes]) -> None:
        """Releases the pieces that are held and not among those given; they count as used just now."""
        raw = driver(transaction)
        others = {digest for (digest,) in raw.execute(f"SELECT digest FROM piece WHERE last_used = {HELD}")}
        turn = now_us()
        others.difference_update(digests)
        raw.executemany("UPDATE piece SET last_used = ? WHERE digest = ?", [(turn, each) for each in others])
        self._evict(transaction, None)

    def not_held(self, digests: Collection[bytes]) -> set[bytes]:
        """Returns those of some pieces that a bound may drop, or that are not in the journal at all."""
        return set(digests) - self._digests(digests, f" AND last_used = {HELD}")

    def missing(self, digests: Collection[bytes]) -> set[bytes]:
        """Returns those of some pieces that would have to be fetched."""
        with self._mutex:
            absent = {digest for digest in digests if digest not in self._waiting}
        return absent - self._digests(absent)

    def _write(self, raw: sqlite3.Connection) -> int:
        """Writes what waits, and returns how many bytes these are."""
        with self._mutex:
            waiting, used = dict(self._waiting), set(self._used)
        turn = now_us()
        raw.executemany(
            f"UPDATE piece SET last_used = ? WHERE digest = ? AND last_used < {HELD}",
            [(turn, digest) for digest in sorted(used)],
        )
        raw.executemany(_INSERT, [(digest, turn, data) for digest, data in waiting.items()])
        with self._mutex:
            self._used.difference_update(used)
            for digest in waiting:
                if digest in self._waiting:
                    self._waiting_bytes -= len(self._waiting.pop(digest))
        return sum(map(len, waiting.values()))

    def _evict(self, transaction: Transaction, added_bytes: int | None) -> None:
        """Brings the table back to its bound, where it may be past it.

        Args:
            transaction: The caller's.
            added_bytes: What it has added; None where it is not known how many bytes the table holds.
        """
        if self.most_bytes is None:
            return
        # Another session's pieces count as well, and only that it wrote something is seen without going through.
        (version,) = driver(transaction).execute("PRAGMA data_version").fetchone()
        known = None if version != self._data_version or added_bytes is None else self._stored_bytes
        # Too high where a transaction is rolled back; then the next pass sets it right.
        total = None if known is None or added_bytes is None else known + added_bytes
        if total is None or total > self.most_bytes:
            total = evict(transaction, self.most_bytes, self.most_bytes - self.most_bytes // SPARE_PART)
        self._data_version, self._stored_bytes = version, total

    def _digests(self, digests: Collection[bytes], condition: str = "") -> set[bytes]:
        """Returns those of some pieces that are in the journal."""
        return {digest for (digest,) in self._rows("digest", digests, condition)}

    def _stored(self, digests: Collection[bytes]) -> dict[bytes, bytes]:
        rows = self._rows("digest, bytes", digests)
        return {digest: data for digest, data in rows if digest_of(data) == digest}

    def _rows(self, columns: str, digests: Collection[bytes], condition: str = "") -> Iterator[tuple[Any, ...]]:
        if self._journal is None:
            return
        ordered = list(digests)
        for start in range(0, len(ordered), _AT_ONCE):
            some = ordered[start : start + _AT_ONCE]
            marks = ",".join("?" * len(some))
            query = f"SELECT {columns} FROM piece WHERE digest IN ({marks}){condition}"
            yield from self._journal.rows(query, some)


def evict(transaction: Transaction, most_bytes: int, left_bytes: int) -> int:
    """Drops pieces where there are more than `most_bytes`, those first that were used longest ago.

    Args:
        transaction: The caller's.
        most_bytes: What the table may hold, but for held pieces.
        left_bytes: What it holds at most once pieces were dropped.

    Returns:
        How many bytes it holds.
    """
    raw = driver(transaction)
    (total,) = raw.execute(
        f"SELECT coalesce(sum(length(bytes)), 0) FROM piece WHERE last_used < {HELD}"
    ).fetchone()
    if total <= most_bytes:
        return int(total)
    gone: list[tuple[int]] = []
    query = f"SELECT id, length(bytes) FROM piece WHERE last_used < {HELD} ORDER BY last_used, id"
    for number, size in raw.execute(query):
        gone.append((number,))
        total -= size
        if total <= left_bytes:
            break
    raw.executemany("DELETE FROM piece WHERE id = ?", gone)
    return int(total)


__all__ = ["CACHE_BYTES", "PieceCache", "evict"]
