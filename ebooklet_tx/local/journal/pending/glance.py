"""A glance at a journal: what is at hand about its keys and pending changes, at a bounded cost.

The invariant: nothing is asked of the remote, nothing is changed, and no more than `LIMIT` pending rows are read.
What is not known at that cost is None.
"""

from __future__ import annotations

from typing import NamedTuple

from ebooklet_tx.errors import Error
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.journal.entries import PENDING_DELETE, PENDING_SET, pending_page, visible_count
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.known import knows_pending
from ebooklet_tx.local.journal.pending.conflicts import CONFLICTING

LIMIT = 1000
WAIT_SECONDS = 0.2
"""How long a glance waits for a thread that uses the journal."""

_PENDING = "SELECT pending, key = '' FROM entry WHERE pending != 0 LIMIT ?"
_CONFLICTS = f"SELECT count(*) FROM entry INDEXED BY entry_moved WHERE {CONFLICTING}"
_HELD = """
SELECT key, pending = 1 OR (pending = 0 AND known != 0 AND remote_digest IS NOT NULL)
FROM entry WHERE key > '' ORDER BY key LIMIT ?
"""


class Glance(NamedTuple):
    """What a glance shows.

    Attributes:
        keys: How many keys a reader sees, as of the last commit here; None where that is not known.
        sets: How many keys are to be set by the next push; `deletes` to be deleted.
        metadata: Whether the metadata is to be pushed.
        conflicts: How many keys are in conflict, as far as was pulled; None where there may be more changes.
        has_more: Whether more is pending than was counted.
        seq: The commit on which the journal stands; 0 for none.
    """

    keys: int | None
    sets: int
    deletes: int
    metadata: bool
    conflicts: int | None
    has_more: bool
    seq: int

    @property
    def pending_words(self) -> str:
        """How many keys the next push changes, in words."""
        changes = self.sets + self.deletes
        more = "more than " if self.has_more else ""
        said = [f"{more}{counted(changes, 'change')}"] if changes or self.has_more else []
        said += ["the metadata"] if self.metadata else []
        return f"{' and '.join(said)} to push" if said else "nothing to push"


def glance(journal: Journal) -> Glance | None:
    """Looks at a journal; None where it is in use, closed or damaged."""
    if not journal.mutex.acquire(timeout=WAIT_SECONDS):
        return None
    try:
        return _glance(journal)
    except Error:
        return None
    finally:
        journal.mutex.release()


def _glance(journal: Journal) -> Glance:
    found = journal.rows(_PENDING, (LIMIT + 1,))
    kinds = [kind for kind, is_metadata in found[:LIMIT] if not is_metadata]
    has_more = len(found) > LIMIT
    keys = None
    if not found:
        keys = int(journal.get_meta("base_key_count") or 0)
    elif not has_more and knows_pending(journal):
        keys = visible_count(journal)
    return Glance(
        keys=keys,
        sets=kinds.count(PENDING_SET),
        deletes=kinds.count(PENDING_DELETE),
        metadata=any(is_metadata for _, is_metadata in found[:LIMIT]),
        conflicts=None if has_more else journal.rows(_CONFLICTS)[0][0],
        has_more=has_more,
        seq=int(journal.get_meta("base_seq") or 0),
    )


def first_changes(journal: Journal, limit: int) -> list[tuple[str, int]]:
    """Returns the first keys with a pending operation, and whether it is a set or a delete; none on damage."""
    if not journal.mutex.acquire(timeout=WAIT_SECONDS):
        return []
    try:
        return pending_page(journal, "", None, limit)
    except Error:
        return []
    finally:
        journal.mutex.release()


def first_held_keys(journal: Journal, limit: int) -> list[str]:
    """Returns those of the first entries whose keys a reader surely sees."""
    return [key for key, is_seen in journal.rows(_HELD, (limit,)) if is_seen]


__all__ = ["Glance", "first_changes", "first_held_keys", "glance"]
