"""The live rows of the remote, by the pack that their values lie in.

The invariant: keys of equal values share a record, and a record counts once, under the shortest of its keys.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from ebooklet_tx.local.journal.entries import Entry, entries_where
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import ObjectRef

_PACKS = """
SELECT o.id, o.name, o.etag, o.size_bytes, count(*), sum(p.record_bytes), sum(p.keys), max(p.pending)
  FROM (SELECT remote_object AS object, count(*) AS keys, max(pending) AS pending,
               min(length(CAST(key AS BLOB))) + max(remote_length_bytes) AS record_bytes
          FROM entry WHERE remote_object IS NOT NULL AND remote_digest IS NOT NULL
         GROUP BY remote_object, remote_offset_bytes) AS p
  JOIN remote_object AS o ON o.id = p.object
 GROUP BY p.object ORDER BY o.name
"""


class PackRows(NamedTuple):
    """What the live rows of a pack come to.

    Attributes:
        number: The pack's number in the journal.
        ref: The pack, as the index has it.
        record_count: How many records are live.
        record_bytes: Their keys and values, without the heads.
        key_count: How many keys share them.
        pending: Not 0 if one of these keys has an operation to be pushed.
    """

    number: int
    ref: ObjectRef
    record_count: int
    record_bytes: int
    key_count: int
    pending: int


def live_packs(journal: Journal) -> list[PackRows]:
    """Returns the packs that live rows lie in, in order of name; costs one pass over all entries."""
    return [
        PackRows(number, ObjectRef(name, etag, size_bytes), *counts)
        for number, name, etag, size_bytes, *counts in journal.rows(_PACKS)
    ]


def live_rows_in(journal: Journal, numbers: Iterable[int], *, only_clean: bool) -> list[Entry]:
    """Returns the live rows in the packs of some numbers, from front to back of each.

    Args:
        journal: The journal.
        numbers: The packs' numbers.
        only_clean: Whether keys with an operation to be pushed are left out.
    """
    listed = ", ".join(str(int(number)) for number in numbers)
    where = f"remote_object IN ({listed}) AND remote_digest IS NOT NULL"
    with journal.reading():
        entries = list(entries_where(journal, f"{where} AND pending = 0" if only_clean else where))
    return sorted(entries, key=lambda entry: (entry.remote_object or 0, entry.remote_offset_bytes or 0))
