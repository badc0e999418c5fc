"""Which keys have values that only a remote had which is gone: told by the index of the base commit.

The invariant: an answer is whole. Where a part of that index is neither here nor in the store, there is none.
"""

from __future__ import annotations

from itertools import islice

from ebooklet_tx.errors import Error
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import find_entries
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import BaseIndex

_ROWS_AT_ONCE = 1000


def keys_only_there(local: LocalStore, index: BaseIndex) -> list[str] | None:
    """Returns the user keys whose values are nowhere on this machine; None where that can't be told any more."""
    found: list[str] = []
    try:
        view = index.of_base(read_base(local.journal))
        rows = iter(()) if view is None else view.scan("\0")
        while page := {item.row.key: item.row for item in islice(rows, _ROWS_AT_ONCE)}:
            entries = find_entries(local.journal, list(page))
            for key, row in page.items():
                entry = entries.get(key)
                here = entry is not None and (entry.pending or entry.local_digest == row.digest)
                if row.digest is not None and not here:
                    found.append(key)
    except Error:
        return None
    return found


__all__ = ["keys_only_there"]
