"""Commits: how what a session wrote becomes durable, entirely or not at all.

It moves operations from a session's overlay into the journal (staging)
or into the Booklet file and the journal (append). The invariant: one journal transaction decides.
Before it nothing of the commit is there; after it all of it is, whatever becomes of the process.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.limits import MAX_TIMESTAMP_US
from ebooklet_tx.local.booklet.block_writer import Placed, Value
from ebooklet_tx.local.booklet.value_file import FileState, ValueFile, new_append_number
from ebooklet_tx.local.journal.entries import VISIBLE, digests_of, keys_with_local_copy, stale_keys
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.records import digest_of

_log = logging.getLogger("ebooklet_tx")

_KEEP_BASE = ", ".join(
    f"base_{name} = CASE pending WHEN 0 THEN remote_{name} ELSE base_{name} END"
    for name in ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")
)

# While the outcome of a push is open, what the remote is known to hold may be superseded by that push.
_NO_PUSH_OPEN = "NOT EXISTS (SELECT 1 FROM intent)"

_UPDATE = f"""
ON CONFLICT(key) DO UPDATE SET {_KEEP_BASE},
  pending = CASE WHEN excluded.pending_digest IS remote_digest
                  AND excluded.pending_timestamp_us IS remote_timestamp_us
                  AND {_NO_PUSH_OPEN} THEN 0 ELSE 1 END,
  pending_digest = excluded.pending_digest,
  pending_timestamp_us = excluded.pending_timestamp_us,
  pending_length_bytes = excluded.pending_length_bytes
"""

_SET = f"""
INSERT INTO entry(key, pending, pending_digest, pending_timestamp_us, pending_length_bytes)
VALUES (?, 1, ?, ?, ?) {_UPDATE}
"""

_TO_DELETED = f"""
UPDATE entry SET {_KEEP_BASE},
  pending = CASE WHEN remote_digest IS NULL AND (pending = 0 OR {_NO_PUSH_OPEN}) THEN 0 ELSE 2 END,
  pending_digest = NULL, pending_timestamp_us = ?, pending_length_bytes = NULL
"""

_DROP_DELETED = f"""
DELETE FROM entry WHERE key = ? AND remote_seq IS NULL AND (pending = 0 OR {_NO_PUSH_OPEN})
"""
"""Takes away the row of a deleted key that was never pushed, with its local copy."""

_TO_DELETED_AND_GONE = f"""{_TO_DELETED},
  local_timestamp_us = NULL, local_digest = NULL, local_offset_bytes = NULL, local_length_bytes = NULL
WHERE key = ?
"""

_DROP_EMPTY = """
DELETE FROM entry WHERE remote_seq IS NULL AND local_digest IS NULL AND pending = 0
"""

_SET_AND_PLACE = f"""
INSERT INTO entry(key, pending, pending_digest, pending_timestamp_us, pending_length_bytes,
  local_digest, local_timestamp_us, local_length_bytes, local_offset_bytes)
VALUES (?, 1, ?, ?, ?, ?, ?, ?, ?)
{_UPDATE},
  local_digest = excluded.local_digest,
  local_timestamp_us = excluded.local_timestamp_us,
  local_length_bytes = excluded.local_length_bytes,
  local_offset_bytes = excluded.local_offset_bytes
"""

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


class Fetched(NamedTuple):
    """A value that came from the remote and is to be kept in the Booklet file.

    `replaces` says that it takes the place of a block of its key: of one that was found damaged.
    """

    key: str
    timestamp_us: int
    digest: bytes
    value: Value
    replaces: bool = False


def stage(journal: Journal, overlay: Overlay) -> None:
    """Commits an overlay into the journal alone: one transaction, one fsync."""
    with journal.transaction() as connection:
        raw = driver(connection)
        if overlay.cleared:
            raw.execute(_TO_DELETED + f" WHERE key != '' AND {VISIBLE}", (overlay.cleared_at_us,))
            raw.execute("DELETE FROM staged WHERE key != ''")
        _record_operations(raw, overlay)
        raw.executemany(
            "INSERT OR REPLACE INTO staged(key, digest, timestamp_us, value) VALUES (?, ?, ?, ?)",
            (
                (key, digest_of(value), timestamp_us, value)
                for key, (value, timestamp_us) in overlay.operations.items()
                if value is not None
            ),
        )
        if overlay.cleared:
            raw.execute(_DROP_EMPTY)


def append(
    file: ValueFile,
    journal: Journal,
    overlay: Overlay,
    fetched: Iterable[Fetched] = (),
    absent: Sequence[Fetched] = (),
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

    Returns:
        Whether the guard is off again. Where it is not, everything is durable all the same.
    """
    written: list[tuple[str, int, bytes]] = [
        (key, timestamp_us, value)
        for key, (value, timestamp_us) in overlay.operations.items()
        if value is not None
    ]
    deleted = sorted((key, stamp) for key, (value, stamp) in overlay.operations.items() if value is None)
    stale = set(stale_keys(journal)).difference(key for key, _ in deleted)
    kept = [_storable(item) for item in (*_values_to_keep(journal, overlay, fetched), *absent)]
    replaced = keys_with_local_copy(journal, [key for key, _, _ in written])
    number = new_append_number()
    placed = file.append(
        number,
        stale.union((key for key, _ in deleted), replaced, (item.key for item in kept if item.replaces)),
        [*written, *((item.key, item.timestamp_us, item.value) for item in kept)],
        expected_keys=len(written) + len(kept),
    )
    state = file.state_to_record()
    # What is pending is what lies in the file.
    written_rows = sorted(
        (place.key, *(digest_of(value), place.timestamp_us, place.length_bytes) * 2, place.offset_bytes)
        for place, (_, _, value) in zip(placed, written, strict=False)
    )
    with journal.transaction() as connection:
        raw = driver(connection)
        raw.executemany(_DROP_DELETED, ((key,) for key, _ in deleted))
        raw.executemany(_TO_DELETED_AND_GONE, ((stamp, key) for key, stamp in deleted))
        record_gone(raw, stale)
        raw.executemany(_SET_AND_PLACE, written_rows)
        record_places(raw, placed[len(written) :], {item.key: item.digest for item in kept})
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


def record_places(raw: sqlite3.Connection, placed: Iterable[Placed], digests: dict[str, bytes]) -> None:
    """Records where an append put the values whose digests are given."""
    raw.executemany(
        _LOCAL_PLACE,
        (
            (place.timestamp_us, digests[place.key], place.offset_bytes, place.length_bytes, place.key)
            for place in placed
        ),
    )


def record_sets(raw: sqlite3.Connection, rows: Iterable[tuple[str, bytes, int, int]]) -> None:
    """Makes pending sets of (key, digest, timestamp, length); equal content and time is no change."""
    raw.executemany(_SET, rows)


def record_deletes(raw: sqlite3.Connection, rows: Iterable[tuple[str, int]]) -> None:
    """Makes pending deletes of (key, timestamp); a key that was never pushed just goes."""
    rows = list(rows)
    keys = [(key,) for key, _ in rows]
    raw.executemany(_TO_DELETED + " WHERE key = ?", ((stamp, key) for key, stamp in rows))
    raw.executemany("DELETE FROM staged WHERE key = ?", keys)
    raw.executemany(_DROP_EMPTY + " AND key = ?", keys)


def stage_value(raw: sqlite3.Connection, key: str, value: bytes | None, timestamp_us: int) -> None:
    """Sets or deletes (None) one key within a transaction of the caller's."""
    if value is None:
        record_deletes(raw, [(key, timestamp_us)])
        return
    digest = digest_of(value)
    record_sets(raw, [(key, digest, timestamp_us, len(value))])
    raw.execute(
        "INSERT OR REPLACE INTO staged(key, digest, timestamp_us, value) VALUES (?, ?, ?, ?)",
        (key, digest, timestamp_us, value),
    )


def record_gone(raw: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Notes that the Booklet file no longer holds these keys."""
    keys = sorted(keys)
    raw.executemany(_NO_LOCAL_PLACE, ((key,) for key in keys))
    raw.executemany(_DROP_EMPTY + " AND key = ?", ((key,) for key in keys))


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
    return item._replace(timestamp_us=min(item.timestamp_us, MAX_TIMESTAMP_US))


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
    for item in waiting:
        # A key that a pull took away meanwhile has no row left to hold the place.
        visible, local = digests.get(item.key, (None, None))
        if visible == item.digest and (local != item.digest or item.replaces):
            yield item._replace(replaces=local is not None)
