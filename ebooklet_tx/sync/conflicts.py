"""Conflicts: keys that were changed here and by somebody else since their common base.

Owns no state. The invariant: a key is a conflict exactly while it has a pending operation and its
remote digest differs both from the base of that operation and from the operation's own outcome.
Equal content is never a conflict.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.errors import Error
from ebooklet_tx.local.journal import Journal

CONFLICTING = (
    "pending != 0 AND remote_seq IS NOT base_seq AND remote_digest IS NOT base_digest "
    "AND remote_digest IS NOT pending_digest"
)
"""SQL that is true of an entry in conflict; a delete's pending digest is NULL, as a tombstone's."""


@dataclass(frozen=True, slots=True)
class Version:
    """One side of a conflict; `digest` None means that the key is not there."""

    digest: bytes | None
    timestamp_us: int | None
    writer: str | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """A key with its three versions."""

    key: str
    base: Version
    ours: Version
    theirs: Version


class ConflictError(Error):
    """Keys were changed here and by another writer; nothing was pushed and nothing is lost.

    Attributes:
        conflicts: One for each key.
    """

    def __init__(self, conflicts: list[Conflict], place: str) -> None:
        self.conflicts = conflicts
        shown = ", ".join(repr(conflict.key) for conflict in conflicts[:5])
        more = f" and {len(conflicts) - 5} more" if len(conflicts) > 5 else ""
        super().__init__(
            f"{len(conflicts)} keys were changed here and by another writer of {place}: {shown}{more}; "
            "nothing was pushed. discard() their local changes to take the other's, or push(force_push=True) to "
            "put yours on top"
        )


def find_conflicts(journal: Journal) -> list[Conflict]:
    """Returns the conflicts in order of key."""
    with journal.reading() as raw:
        rows = raw.execute(
            "SELECT e.key, e.base_digest, e.base_timestamp_us, "
            "CASE e.pending WHEN 1 THEN e.pending_digest END, e.pending_timestamp_us, "
            "e.remote_digest, e.remote_timestamp_us, c.writer "
            "FROM entry AS e LEFT JOIN commit_log AS c ON c.seq = e.remote_seq "
            f"WHERE {CONFLICTING} ORDER BY e.key"
        ).fetchall()
    return [
        Conflict(
            key=row[0],
            base=Version(row[1], row[2]),
            ours=Version(row[3], row[4]),
            theirs=Version(row[5], row[6], row[7]),
        )
        for row in rows
    ]
