"""Values that lie in packs of the remote and nowhere on this machine.

The invariant: a place is returned only from a row that is as it was written, with the object that the same
snapshot of the journal has for it.
"""

from __future__ import annotations

from typing import NamedTuple

from ebooklet_tx.local.journal.integrity.row_checks import check_order, is_sound_place, misplaced
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.schema import SOUND_ROW
from ebooklet_tx.records import ObjectRef

_NOT_HERE = (
    "pending = 0 AND remote_object IS NOT NULL AND local_digest IS NOT remote_digest "
    "AND key NOT IN (SELECT key FROM staged)"
)
"""SQL that is true of an entry whose value lies in a pack and nowhere on this machine."""

_COUNTS = f"SELECT remote_object, count(*) FROM entry WHERE {_NOT_HERE} GROUP BY 1 ORDER BY 1"
_BETWEEN = f"""
SELECT key, CASE WHEN {SOUND_ROW} THEN remote_digest END, remote_timestamp_us,
  remote_object, remote_offset_bytes, remote_length_bytes
FROM entry WHERE remote_object BETWEEN ? AND ? AND {_NOT_HERE}
ORDER BY remote_object, remote_offset_bytes
"""
_OBJECTS = "SELECT id, name, etag, size_bytes FROM remote_object WHERE id BETWEEN ? AND ?"
_OTHERS = f"SELECT key FROM entry WHERE key > ? AND NOT coalesce({_NOT_HERE}, 0) ORDER BY key LIMIT ?"


class RemoteValue(NamedTuple):
    """A value in the remote: whose it is, its digest and time, and where it lies."""

    key: str
    digest: bytes
    timestamp_us: int
    ref: ObjectRef
    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where it ends in its object."""
        return self.offset_bytes + self.length_bytes


def values_to_fetch(journal: Journal) -> list[tuple[int, int]]:
    """Returns the numbers of the objects that hold values which are not here, and how many each holds."""
    return [(number, count) for number, count in journal.rows(_COUNTS)]


def values_in_objects(journal: Journal, first: int, last: int) -> list[RemoteValue]:
    """Returns the values that are not here and lie in the objects of some numbers, in order of their places.

    Raises:
        JournalDamagedError: A row says of no place where it is.
    """
    with journal.reading():
        refs = {number: ObjectRef(*rest) for number, *rest in journal.rows(_OBJECTS, (first, last))}
        rows = journal.rows(_BETWEEN, (first, last))
    for key, digest, stamp, number, offset, length in rows:
        if number not in refs or not is_sound_place(stamp, digest, offset, length):
            raise misplaced(journal.path, f"the place of {key!r} is none")
    return [
        RemoteValue(key, digest, stamp, refs[number], offset, length)
        for key, digest, stamp, number, offset, length in rows
    ]


def other_keys_page(journal: Journal, after: str, limit: int) -> list[str]:
    """Returns up to `limit` keys behind one of which `values_in_objects` does not tell, in order."""
    page = [key for (key,) in journal.rows(_OTHERS, (after, limit))]
    check_order(journal.path, page, after)
    return page
