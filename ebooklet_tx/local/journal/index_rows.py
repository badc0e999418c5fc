"""The base commit's index as the journal has it: what the remote says of each key, and the objects it names.

Owns the reading of the remote columns of `entry` and of `remote_object`; a pull writes them. The invariant: a row
that is not as it was written is never handed out.
"""

from __future__ import annotations

from collections.abc import Iterator

from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.local.journal.integrity.row_checks import misplaced
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.schema import SOUND_ROW
from ebooklet_tx.records import IndexRow, ObjectRef


def object_ref(journal: Journal, object_id: int) -> ObjectRef:
    """Returns the remote object that an entry's place names.

    Raises:
        RemoteMissingError: The journal does not know it.
    """
    rows = journal.rows("SELECT name, etag, size_bytes FROM remote_object WHERE id = ?", (object_id,))
    if not rows:
        raise RemoteMissingError(f"{journal.path} names no object {object_id}; run recover on the file")
    return ObjectRef(*rows[0])


def remote_objects(journal: Journal) -> dict[int, ObjectRef]:
    """Returns every object that the journal knows, by its number in the journal."""
    rows = journal.rows("SELECT id, name, etag, size_bytes FROM remote_object")
    return {number: ObjectRef(name, etag, size) for number, name, etag, size in rows}


def count_tombstones(journal: Journal, first_seq: int) -> tuple[int, int]:
    """Returns how many keys the commits from a number on have deleted, and how many they have set."""
    rows = journal.rows(
        "SELECT coalesce(sum(remote_digest IS NULL), 0), coalesce(sum(remote_digest IS NOT NULL), 0) "
        "FROM entry WHERE remote_seq >= ?",
        (first_seq,),
    )
    deleted, present = rows[0]
    return int(deleted), int(present)


def remote_rows(journal: Journal, first_seq: int) -> Iterator[IndexRow]:
    """Yields what the commits from a number on say of each key, in order of the keys, from one snapshot.

    The caller holds the journal's mutex until it has taken the last row.

    Raises:
        JournalDamagedError: A row is not as it was written.
    """
    names = {number: ref.name for number, ref in remote_objects(journal).items()}
    with journal.reading() as raw:
        cursor = raw.execute(
            "SELECT e.key, e.remote_seq, e.remote_timestamp_us, e.remote_digest, e.remote_object, "
            "e.remote_offset_bytes, e.remote_length_bytes, "
            f"CASE WHEN e.remote_object IS NULL THEN i.value END, {SOUND_ROW} "
            "FROM entry AS e LEFT JOIN inline_value AS i ON i.digest = e.remote_digest "
            "WHERE e.remote_seq >= ? ORDER BY e.key",
            (first_seq,),
        )
        for key, seq, stamp, digest, number, offset, length, value, sound in cursor:
            if not sound:
                raise misplaced(journal.path, f"the row of {key!r} is not as it was written")
            if digest is None:
                yield IndexRow(key, seq, stamp, None)
            elif number is None:
                yield IndexRow(key, seq, stamp, digest, None, None, len(value), value)
            else:
                yield IndexRow(key, seq, stamp, digest, names[number], offset, length)
