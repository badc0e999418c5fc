"""What only a remote has that is gone, or is to go, and what this machine has of it: told by the base's index.

The invariant: an answer is whole. Where a part of that index is neither here nor in the store, there is none.
"""

from __future__ import annotations

import logging
from itertools import islice

from ebooklet_tx.errors import Error
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import find_entries
from ebooklet_tx.local.journal.known import copies_to_look_up
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import Answer, BaseIndex
from ebooklet_tx.sync.look_up import learn_keys

_log = logging.getLogger("ebooklet_tx")

_ROWS_AT_ONCE = 1000


def know_copies(local: LocalStore, index: BaseIndex) -> None:
    """Finds out which local copies the base commit has, before the remote is forgotten, as far as it can be told.

    A copy of which that is not known may be an old one, or of a value that was discarded here and never pushed.
    """
    base = read_base(local.journal)
    after: str | None = None
    try:
        view = index.of_base(base)
        while view is not None and (keys := copies_to_look_up(local.journal, after)):
            if not learn_keys(local, Answer(base.commit_id, view.lookup(keys)), keys):
                return
            after = keys[-1]
    except Error as error:
        _log.warning("it can't be told any more which local copies were pushed: %s", error)


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


__all__ = ["keys_only_there", "know_copies"]
