"""The objects of the remote that the journal knows, and the keys of which it has an operation.

Owns the reading of `remote_object`.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import ObjectRef

_AT_ONCE = 500


def object_ref(journal: Journal, object_id: int) -> ObjectRef:
    """Returns the remote object that an entry's place names.

    Raises:
        RemoteMissingError: The journal does not know it.
    """
    rows = journal.rows("SELECT name, etag, size_bytes FROM remote_object WHERE id = ?", (object_id,))
    if not rows:
        raise RemoteMissingError(f"{journal.path} names no object {object_id}; run recover on the file")
    return ObjectRef(*rows[0])


def pending_keys_among(journal: Journal, keys: Sequence[str]) -> set[str]:
    """Returns those of some keys that have an operation still to be pushed."""
    found: set[str] = set()
    for start in range(0, len(keys), _AT_ONCE):
        some = keys[start : start + _AT_ONCE]
        marks = ",".join("?" * len(some))
        rows = journal.rows(f"SELECT key FROM entry WHERE pending != 0 AND key IN ({marks})", some)
        found.update(key for (key,) in rows)
    return found


def packs_with_pending_keys(journal: Journal) -> set[str]:
    """Returns the names of the packs that values lie in whose keys have an operation still to be pushed."""
    rows = journal.rows(
        "SELECT DISTINCT o.name FROM entry AS e JOIN remote_object AS o ON o.id = e.remote_object "
        "WHERE e.pending != 0 AND e.known != 0"
    )
    return {name for (name,) in rows}
