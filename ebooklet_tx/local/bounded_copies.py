"""A bound on the Booklet file: the copies that were read longest ago give way to what is fetched.

The invariant: only copies of values that the remote has go. What is pending stays, even where it alone exceeds
the bound; then nothing that is fetched is kept. A copy goes by a rebuild of the file, which is as safe against a
crash as any other.

When a copy was read is told by where it lies: the file is a log, and a trim writes what it keeps in the order of
reading. Reads of copies that lie in the file are noted in memory, with the file's length at that moment as the
time. At its end, a session that has read some writes the last of them into the journal, in one row. So a read
costs no write, and the order is approximate: of many thousand reads since the last trim, the oldest are
forgotten, and such a copy counts as read when it was written.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from typing import NamedTuple

from ebooklet_tx.errors import InvalidArgumentError, LocalStorageError
from ebooklet_tx.local.booklet.block_writer import index_bytes_wanted
from ebooklet_tx.local.booklet.layout import BLOCK_HEAD_BYTES, DEFAULT_N_BUCKETS, HEADER_BYTES, POINTER_BYTES
from ebooklet_tx.local.journal.journal import Journal, put_meta
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors
from ebooklet_tx.local.open_pair import OpenPair

_log = logging.getLogger("ebooklet_tx")

LEAST_LOCAL_BYTES = 2**20
"""The least bound that `open` takes: an empty file with its index has some ten kilobytes."""

MOST_NOTED = 65_536
"""Reads that a session notes; the oldest are forgotten first."""

MOST_SAVED = 8192
"""Reads that the journal keeps from one session to the next, 14 bytes each."""

READ_TIMES = "read_times"
"""The fact under which it keeps them: the file's generation, then a hash of the key and a time for each."""

_HASH_BYTES = 8
_TIME_BYTES = 6
_GENERATION_BYTES = 8

_COPIES = """
SELECT key, local_offset_bytes, length(CAST(key AS BLOB)) + local_length_bytes, pending != 0 FROM entry
 WHERE local_digest IS NOT NULL
   AND local_digest IS CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END
"""
_STAGED = "SELECT count(*), coalesce(sum(length(CAST(key AS BLOB)) + length(value)), 0) FROM staged"


class TrimPlan(NamedTuple):
    """What a trim keeps, those first that were read longest ago, and how large the file is then.

    Attributes:
        keys: The keys whose copies stay.
        size_bytes: The file's size after it.
        n_buckets: Of the file's index after it.
    """

    keys: list[str]
    size_bytes: int
    n_buckets: int


def check_local_bytes(value: object, *, least_bytes: int | None = None, name: str = "max_local_bytes") -> int:
    """Returns a bound on the local file, checked.

    Args:
        value: What was given.
        least_bytes: The least that is of use; None for that of `open`.
        name: The argument's name, for the message.

    Raises:
        InvalidArgumentError: It is no whole number, or too small.
    """
    least = LEAST_LOCAL_BYTES if least_bytes is None else least_bytes
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InvalidArgumentError(f"{name} must be an int of at least {least}, in bytes, not {value!r}")
    return value


class BoundedCopies:
    """The copies in the Booklet file of one session, and the bound on them.

    Attributes:
        max_bytes: How large the file may be.
    """

    def __init__(self, pair: OpenPair, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._pair = pair
        self._reads: dict[str, int] = {}
        self._saved = 0
        self._notes = 0
        self._generation = b""
        self._length_bytes = 0
        self._in_vain: tuple[int, object] | None = None
        self.look()

    def note(self, key: str) -> None:
        """Notes that the copy of a key was read just now."""
        # In order of reading: the oldest come first.
        self._reads.pop(key, None)
        self._reads[key] = self._length_bytes
        self._notes += 1
        if len(self._reads) > MOST_NOTED:
            del self._reads[next(iter(self._reads))]

    def look(self) -> None:
        """Takes over the file's length as the time of the reads to come, after it was written."""
        file = self._pair.file
        self._length_bytes = file.state().length_bytes
        if file.generation != self._generation:
            # Rewritten, by this session or another: all that was noted was read just now, in that order.
            self._generation = file.generation
            self._reads = dict.fromkeys(self._reads, self._length_bytes)

    # -- room ------------------------------------------------------------------------------

    def make_room(self, more_keys: int, more_bytes: int) -> int:
        """Drops copies where an append would exceed the bound; returns how many bytes there is room for.

        Args:
            more_keys: How many values are to be appended.
            more_bytes: Their bytes, with those of the keys.
        """
        self.look()
        staged_keys, staged_bytes = self._pair.journal.rows(_STAGED)[0]
        staged = size_of_blocks(staged_keys, staged_bytes)
        needed = staged + size_of_blocks(more_keys, more_bytes)
        more_keys += staged_keys
        growth = index_bytes_wanted(self._pair.file.header, more_keys)
        if self._length_bytes + needed + growth > self.max_bytes:
            self._trim(min(self.max_bytes * 3 // 4, self.max_bytes - needed), needed, more_keys)
            growth = index_bytes_wanted(self._pair.file.header, more_keys)
        return self.max_bytes - self._length_bytes - staged - growth

    def keep_within(self) -> None:
        """Drops copies where the file exceeds the bound as it is."""
        self.look()
        if self._length_bytes > self.max_bytes:
            self._trim(self.max_bytes * 3 // 4)

    def _trim(self, target_bytes: int, needed_bytes: int = 0, more_keys: int = 0) -> None:
        """Drops copies down to a target; leaves all as it is where that would be of little use."""
        base = self._pair.journal.get_meta("base_commit_id")
        eighth = self.max_bytes // 8
        if self._in_vain is not None:
            length, then = self._in_vain
            if then == base and self._length_bytes < length + eighth:
                return
        plan = self.plan(target_bytes, more_keys)
        fits = plan.size_bytes + needed_bytes <= self.max_bytes
        if not fits and self._length_bytes - plan.size_bytes < eighth:
            # Nearly all of it is pending: to look again for each append would cost the size each time.
            self._in_vain = self._length_bytes, base
            return
        self._in_vain = None
        try:
            self.apply(plan)
        except LocalStorageError as error:
            _log.warning("%s was not trimmed to %d bytes: %s", self._pair.path, self.max_bytes, error)

    def apply(self, plan: TrimPlan) -> int:
        """Rewrites the file as planned; returns how many copies were dropped."""
        dropped = self._pair.rebuild(keys=plan.keys, n_buckets=plan.n_buckets)
        # The order in which the copies lie is that of their reading from now on.
        self._reads.clear()
        self.look()
        return dropped

    def plan(self, target_bytes: int, more_keys: int = 0) -> TrimPlan:
        """Returns what stays in a file of a size: what is pending, and what was read last.

        Args:
            target_bytes: The size.
            more_keys: How many keys are to come after that, without a larger index.
        """
        times = self._times()
        pinned: list[tuple[tuple[int, int], str, int]] = []
        others: list[tuple[tuple[int, int], str, int]] = []
        with self._pair.journal.mutex, sqlite_errors(self._pair.journal.path):
            for key, offset, length, is_pending in self._pair.journal.raw.execute(_COPIES):
                at = times.of(key, offset)
                (pinned if is_pending else others).append((at, key, length))
        others.sort(reverse=True)
        chosen = pinned
        size = sum(length for _, _, length in pinned)
        for item in others:
            count = len(chosen) + 1
            if size_of_file(self._buckets(count, more_keys), count, size + item[2]) > target_bytes:
                break
            chosen.append(item)
            size += item[2]
        chosen.sort()
        n_buckets = self._buckets(len(chosen), more_keys)
        return TrimPlan([key for _, key, _ in chosen], size_of_file(n_buckets, len(chosen), size), n_buckets)

    def _buckets(self, keys: int, more_keys: int) -> int:
        """Returns how many buckets serve some keys, and those that come before the next trim."""
        return max(min(self._pair.file.header.n_buckets, DEFAULT_N_BUCKETS), keys * 3 // 2, keys + more_keys)

    # -- from one session to the next --------------------------------------------------------

    @property
    def has_news(self) -> bool:
        """Whether reads were noted that the journal does not have."""
        return self._notes > self._saved

    def save(self) -> None:
        """Writes the last reads to the journal, within the lock."""
        self.look()
        times = self._times()
        with self._pair.journal.transaction() as transaction:
            put_meta(transaction, {READ_TIMES: times.encoded(self._generation)})
        self._saved = self._notes

    def _times(self) -> _Times:
        """Returns what is known of reads, those of earlier sessions included."""
        times = _Times(self._pair.journal, self._generation)
        times.add(self._reads)
        return times


class _Times:
    """When copies were read, by the hash of the key: the file's length then, and the place in the order."""

    def __init__(self, journal: Journal, generation: bytes) -> None:
        self._at: dict[bytes, int] = {}
        noted = journal.get_meta(READ_TIMES)
        if isinstance(noted, bytes) and noted[:_GENERATION_BYTES] == generation:
            self._at.update(_decoded(noted[_GENERATION_BYTES:]))
        self._ranks: dict[bytes, int] | None = None

    def add(self, reads: dict[str, int]) -> None:
        for key, time in reads.items():
            hashed = _hash(key)
            self._at.pop(hashed, None)
            self._at[hashed] = time
        self._ranks = {hashed: rank for rank, hashed in enumerate(self._at, 1)} if self._at else None

    def of(self, key: str, offset_bytes: int) -> tuple[int, int]:
        """Returns what orders copies by their reading: the later of when it was written and when it was read."""
        if self._ranks is None:
            return offset_bytes, 0
        hashed = _hash(key)
        return max((offset_bytes, 0), (self._at.get(hashed, 0), self._ranks.get(hashed, 0)))

    def encoded(self, generation: bytes) -> bytes:
        last = list(self._at.items())[-MOST_SAVED:]
        return generation + b"".join(hashed + time.to_bytes(_TIME_BYTES, "little") for hashed, time in last)


def _decoded(noted: bytes) -> Iterator[tuple[bytes, int]]:
    size = _HASH_BYTES + _TIME_BYTES
    for at in range(0, len(noted) - size + 1, size):
        time = int.from_bytes(noted[at + _HASH_BYTES : at + size], "little")
        yield noted[at : at + _HASH_BYTES], time


def _hash(key: str) -> bytes:
    return blake2b(key.encode(), digest_size=_HASH_BYTES).digest()


def size_of_blocks(keys: int, key_and_value_bytes: int) -> int:
    """Returns how many bytes values take in a Booklet file."""
    return keys * BLOCK_HEAD_BYTES + key_and_value_bytes


def size_of_file(n_buckets: int, keys: int, key_and_value_bytes: int) -> int:
    """Returns how large a Booklet file without dead bytes is."""
    return HEADER_BYTES + n_buckets * POINTER_BYTES + size_of_blocks(keys, key_and_value_bytes)


__all__: Sequence[str] = ["LEAST_LOCAL_BYTES", "BoundedCopies", "TrimPlan", "check_local_bytes", "size_of_blocks"]
