"""The log of commits that the journal has applied.

Owns the reading of the table `commit_log`; it is written with the rows of the commits that it names.
"""

from __future__ import annotations

from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import CommitRecord


def is_logged(journal: Journal, commit_id: str) -> bool:
    """True when a commit is one of those that the journal has applied."""
    return bool(journal.rows("SELECT 1 FROM commit_log WHERE commit_id = ?", (commit_id,)))


def newest_commits(journal: Journal, first_seq: int, limit: int) -> list[CommitRecord]:
    """Returns the newest commits from a number on, oldest first."""
    rows = journal.rows(
        "SELECT seq, commit_id, committed_at_us, writer, set_count, deleted_count, value_bytes "
        "FROM commit_log WHERE seq >= ? ORDER BY seq DESC LIMIT ?",
        (first_seq, limit),
    )
    return [CommitRecord(*row) for row in reversed(rows)]
