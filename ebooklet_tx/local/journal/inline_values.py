"""Values that ride in the index, as the journal keeps them in `inline_value`.

The invariant: a value stays as long as an entry names its digest, as the remote's, as that of an operation
still to be pushed, or as the base of one.
"""

from __future__ import annotations

from ebooklet_tx.local.journal.journal import Journal, driver

_PRUNE = """
DELETE FROM inline_value WHERE digest NOT IN (
  SELECT remote_digest FROM entry WHERE remote_digest IS NOT NULL
  UNION ALL SELECT base_digest FROM entry WHERE base_digest IS NOT NULL
  UNION ALL SELECT pending_digest FROM entry WHERE pending != 0 AND pending = 1 AND pending_digest IS NOT NULL)
"""


def prune_inline_values(journal: Journal) -> int:
    """Drops the values that no entry refers to; costs one pass over all entries.

    Returns:
        How many were dropped.
    """
    with journal.transaction() as connection:
        return driver(connection).execute(_PRUNE).rowcount
