"""Commits: how what a session wrote becomes durable, entirely or not at all.

It moves operations from a session's overlay into the journal (staging)
or into the Booklet file and the journal (append). The invariant: one journal transaction decides.
Before it nothing of the commit is there; after it all of it is, whatever becomes of the process.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, NamedTuple, TypeAlias

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.limits import MAX_TIMESTAMP_US
from ebooklet_tx.local.booklet.block_writer import Value
from ebooklet_tx.local.booklet.value_file import FileState, ValueFile, new_append_number
from ebooklet_tx.local.journal.entries import digests_of, stale_keys
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.known import insert_known
from ebooklet_tx.local.journal.operations import (
    DROP_EMPTY,
    record_deletes,
    record_placed_sets,
    record_sets,
)
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.local.piece_cache import PieceCache
from ebooklet_tx.records import METADATA_KEY, RemoteSide, digest_of
from ebooklet_tx.records import digests_of as digests_of_values

_log = logging.getLogger("ebooklet_tx")

_LOCAL_PLACE = """
UPDATE entry SET local_timestamp_us = ?, local_digest = ?, local_offset_bytes = ?, local_length_bytes = ?
WHERE key = ?
"""

_NO_LOCAL_PLACE = """
UPDATE entry SET local_timestamp_us = NULL, local_digest = NULL, local_offset_bytes = NULL,
  local_length_bytes = NULL WHERE key = ?
"""

_STAGED_TO_FOLD = """
SELECT s.key, s.timestamp_us, s.digest, s.value, e.local_digest IS NOT NULL
FROM staged AS s JOIN entry AS e ON e.key = s.key
WHERE s.digest IS CASE e.pending WHEN 0 THEN e.remote_digest WHEN 1 THEN e.pending_digest END
  AND (s.digest IS NOT e.local_digest OR s.timestamp_us IS NOT e.local_timestamp_us)
"""


Copy: TypeAlias = tuple[str, int, bytes, int]
"""Key, timestamp, digest and length of a value in the Booklet file."""


class Fetched(NamedTuple):
    """A value that came from the remote and is to be kept in the Booklet file.

    Attributes:
        replaces: Whether it takes the place of a block of its key: of one that was found damaged.
        side: What the index of `commit_id` says of the key, where the journal had no entry of it.
    """

    key: str
    timestamp_us: int
    digest: bytes
    value: Value
    replaces: bool = False
    side: RemoteSide | None = None
    commit_id: str | None = None


class FetchedColumns(NamedTuple):
    """Many such values, a sequence for each field: of none of the keys the journal has a current copy.

    Attributes:
        sides: Seven sequences: the fields of `RemoteSide`, with what the index of `commit_id` says of the keys.
        values: The value of each key.
        replacing: Keys whose block is replaced; others may be among them.
    """

    sides: Sequence[Sequence[Any]]
    values: Sequence[Value]
    replacing: Collection[str] = ()
    commit_id: str | None = None

    def items(self) -> list[Fetched]:
        """Returns them one by one."""
        sides = map(RemoteSide._make, zip(*self.sides, strict=True))
        return [
            Fetched(side[0], side[2] or 0, side[3] or b"", value, side[0] in self.replacing, side, self.commit_id)
            for side, value in zip(sides, self.values, strict=True)
        ]

    def last(self, count: int) -> FetchedColumns:
        """Returns the last of them."""
        first = len(self.values) - count
        return self._replace(sides=[column[first:] for column in self.sides], values=self.values[first:])


NOTHING_FETCHED = FetchedColumns([()] * len(RemoteSide._fields), ())


def stage(journal: Journal, overlay: Overlay, pieces: PieceCache | None = None) -> None:
    """Commits an overlay into the journal alone: one transaction, one fsync."""
    with journal.transaction() as connection:
        raw = driver(connection)
        _record_operations(raw, overlay)
        raw.executemany(
            "INSERT OR REPLACE INTO staged(key, digest, timestamp_us, value) VALUES (?, ?, ?, ?)",
            (
                (key, digest_of(value), timestamp_us, value)
                for key, (value, timestamp_us) in overlay.operations.items()
                if value is not None
            ),
        )
        # What the remote has just so is no change.
        raw.execute(DROP_EMPTY)
        if pieces is not None:
            pieces.write(connection)


def append(
    file: ValueFile,
    journal: Journal,
    overlay: Overlay,
    fetched: Iterable[Fetched] = (),
    absent: FetchedColumns = NOTHING_FETCHED,
    pieces: PieceCache | None = None,
) -> bool:
    """Commits an overlay, and all that is staged, into the Booklet file and the journal.

    When it raises, the last commit is intact, the overlay is unchanged, and a guard may stand in
    the file: it has to be rebuilt before the next append.

    Args:
        file: The file.
        journal: Its journal.
        overlay: What was written.
        fetched: Values from the remote; those that are still current, and have no copy in the file, are kept.
        absent: More of them, of which the caller knows both.
        pieces: Pieces of the remote's index that wait to be kept.

    Returns:
        Whether the guard is off again. Where it is not, everything is durable all the same.
    """
    # By the column: a commit may be of a million keys, and each object more for a key costs a tenth of it.
    operations = overlay.operations
    keys = [key for key, (value, _) in operations.items() if value is not None]
    stamps = [stamp for value, stamp in operations.values() if value is not None]
    values = [value for value, _ in operations.values() if value is not None]
    gone = sorted([key for key, (value, _) in operations.items() if value is None])
    deleted = [(key, operations[key][1]) for key in gone]
    stale = set(stale_keys(journal)).difference(gone)
    kept = [_storable(item) for item in _values_to_keep(journal, overlay, fetched)]
    number = new_append_number()
    removed = stale.union(gone, (item.key for item in kept if item.replaces))
    if absent.replacing:
        removed.update(key for key in absent.sides[0] if key in absent.replacing)
    if file.header.n_keys or METADATA_KEY in operations:
        # Whichever of them have a block: that takes less than to ask the journal for each.
        removed.update(keys)
    offsets = file.append(
        number,
        removed,
        chain(
            zip(keys, stamps, values, strict=True),
            ((item.key, item.timestamp_us, item.value) for item in kept),
            zip(absent.sides[0], absent.sides[2], absent.values, strict=True),
        ),
        expected_keys=len(keys) + len(kept) + len(absent.values),
    )
    state = file.state_to_record()
    digests, lengths = digests_of_values(values), list(map(len, values))
    behind_own = offsets[len(keys) :]
    with journal.transaction() as connection:
        raw = driver(connection)
        record_deletes(raw, deleted, gone=True)
        record_gone(raw, stale)
        record_placed_sets(raw, keys, digests, stamps, lengths, offsets)
        _record_kept(raw, kept, behind_own[: len(kept)])
        insert_known(raw, absent.sides, behind_own[len(kept) :])
        raw.execute(DROP_EMPTY)
        if pieces is not None:
            pieces.write(connection)
        raw.execute("DELETE FROM staged")
        put_meta(connection, file_facts(file, state, number))
    try:
        file.release(state)
    except LocalStorageError as error:
        _log.warning("%s keeps its guard until it is opened again: %s", file.path, error)
        return False
    return True


def file_facts(file: ValueFile, state: FileState, number: bytes) -> dict[str, object]:
    """Returns what the journal records about the file beside the places of its values."""
    return {
        "applied_append": number,
        "file_generation": file.generation,
        "file_header": file.header.raw,
        "file_length_bytes": state.length_bytes,
        "file_mtime_ns": state.mtime_ns,
        "file_inode": state.inode,
    }


def record_places(raw: sqlite3.Connection, copies: Iterable[tuple[Copy, int]]) -> None:
    """Records at which offsets copies of values lie in the file."""
    raw.executemany(
        _LOCAL_PLACE,
        (
            (timestamp_us, digest, offset_bytes, length_bytes, key)
            for (key, timestamp_us, digest, length_bytes), offset_bytes in copies
        ),
    )


def _record_kept(raw: sqlite3.Connection, kept: Sequence[Fetched], offsets: Sequence[int]) -> None:
    """Records where an append put fetched values; some had no entry yet."""
    sides: list[RemoteSide] = []
    places: list[int] = []
    others: list[tuple[Copy, int]] = []
    for item, offset in zip(kept, offsets, strict=True):
        if item.side is None:
            others.append(((item.key, item.timestamp_us, item.digest, len(item.value)), offset))
        else:
            sides.append(item.side)
            places.append(offset)
    if sides:
        insert_known(raw, list(zip(*sides, strict=True)), places)
    record_places(raw, others)


def record_gone(raw: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Notes that the Booklet file no longer holds these keys; entries that are empty now may get a place yet."""
    raw.executemany(_NO_LOCAL_PLACE, ((key,) for key in sorted(keys)))


def _record_operations(raw: sqlite3.Connection, overlay: Overlay) -> None:
    record_sets(
        raw,
        (
            (key, digest_of(value), timestamp_us, len(value))
            for key, (value, timestamp_us) in overlay.operations.items()
            if value is not None
        ),
    )
    _record_overlay_deletes(raw, overlay)


def _record_overlay_deletes(raw: sqlite3.Connection, overlay: Overlay) -> None:
    record_deletes(raw, ((key, stamp) for key, (value, stamp) in overlay.operations.items() if value is None))


def _storable(item: Fetched) -> Fetched:
    """Limits a timestamp to what a Booklet can hold; journals of earlier versions may have later ones."""
    if item.timestamp_us <= MAX_TIMESTAMP_US:
        return item
    return item._replace(timestamp_us=MAX_TIMESTAMP_US)


def _values_to_keep(journal: Journal, overlay: Overlay, fetched: Iterable[Fetched]) -> Iterator[Fetched]:
    """Yields what goes into the file beside the overlay's own values, each saying whether it replaces a block."""
    folded = set()
    with journal.reading() as raw:
        for key, timestamp_us, digest, value, replaces in raw.execute(_STAGED_TO_FOLD):
            if key not in overlay.operations:
                folded.add(key)
                yield Fetched(key, timestamp_us, digest, bytes(value), bool(replaces))
    waiting = [item for item in fetched if item.key not in folded and item.key not in overlay.operations]
    digests = digests_of(journal, [item.key for item in waiting])
    base = journal.get_meta("base_commit_id")
    for item in waiting:
        if item.key not in digests:
            # Of a key without an entry, what the index said is right for the commit at which it was asked.
            if item.side is not None and item.commit_id == base:
                yield item._replace(replaces=False)
            continue
        visible, local = digests[item.key]
        if visible == item.digest and (local != item.digest or item.replaces):
            yield item._replace(replaces=local is not None, side=None)
