"""The objects of the remote that the journal knows, and the keys of which it has an operation.

Owns the reading of `remote_object`, and what is dropped of it. The invariant: an object is known as long as a row
of the journal names it.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.records import ObjectRef

_AT_ONCE = 500

NEW_OBJECTS = 1000
"""So many have to come, and an eighth of the keys, until it pays to look through all keys for those in use."""

OBJECTS_KEPT = 200
"""So many of the newest stay in any case: a session beside may just have read of one."""

_LOOKED_THROUGH = "objects_looked_through"
"""The fact that holds the number of the newest object at the last look."""

_DROP_UNUSED = """
DELETE FROM remote_object WHERE id <= ? AND id NOT IN (
  SELECT remote_object FROM entry WHERE remote_object IS NOT NULL
  UNION ALL SELECT base_object FROM entry WHERE base_object IS NOT NULL
  UNION ALL SELECT object FROM upload UNION ALL SELECT object FROM place UNION ALL SELECT object FROM packed
  UNION ALL SELECT remote_object FROM pushed_version WHERE remote_object IS NOT NULL)
"""


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


def drop_unused_objects(journal: Journal, key_count: int) -> int:
    """Drops the objects that nothing here lies in any more, once many have come; returns how many.

    Each commit that is pushed or pulled brings one, its root. No other thread uses the journal meanwhile.
    """
    ((newest,),) = journal.rows("SELECT coalesce(max(id), 0) FROM remote_object")
    seen = int(journal.get_meta(_LOOKED_THROUGH) or 0)
    # Where a remote was let go of, the numbers have begun anew.
    if newest - (seen if seen <= newest else 0) < max(NEW_OBJECTS, key_count // 8):
        return 0
    with journal.transaction() as transaction:
        dropped = driver(transaction).execute(_DROP_UNUSED, (newest - OBJECTS_KEPT,)).rowcount
        put_meta(transaction, {_LOOKED_THROUGH: newest})
    return dropped
