"""Forgetting the remote: every value on this machine becomes a pending operation.

Owns two facts of the meta table: that a deletion of the remote is under way, and that there once was a remote.
The invariant: the first is written before the root is deleted and goes in the transaction that forgets the
remote, so that a session which finds no root knows whether its own user deleted it. It counts for the base
commit that it names and for no later one.
"""

from __future__ import annotations

from typing import NamedTuple

from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.operations import BASE_ADOPTED, NO_BASE, NOT_KNOWN, Numbering

_DELETION = "remote_deletion"
_PUSHED = "was_pushed"

_KEYS_TO_KEEP = "SELECT key FROM entry WHERE pending = 0 AND local_digest IS NOT NULL ORDER BY key"
_KEEP = """
UPDATE entry SET pending = 1, pending_number = ?, pending_digest = local_digest,
  pending_timestamp_us = coalesce(CASE WHEN known THEN remote_timestamp_us END, local_timestamp_us, 0),
  pending_length_bytes = local_length_bytes
WHERE key = ? AND (known = 0 OR remote_digest IS local_digest)
"""


class Forgotten(NamedTuple):
    """What forgetting a remote left: keys that are pending now, and keys whose values were nowhere else."""

    pending_keys: int
    lost_keys: int


def was_pushed(journal: Journal) -> bool:
    """True of a database that once had a remote which was forgotten: others may have copies of it."""
    return bool(journal.get_meta(_PUSHED))


def note_deletion(journal: Journal) -> None:
    """Notes, durably, that the remote of the base commit is about to be deleted."""
    with journal.mutex:
        commit_id = read_base(journal).commit_id
        with journal.transaction() as transaction:
            put_meta(transaction, {_DELETION: commit_id})


def is_deletion_begun(journal: Journal) -> bool:
    """True when a deletion of the remote with the base commit was begun here, and not finished."""
    with journal.mutex:
        noted = journal.get_meta(_DELETION)
        return noted is not None and bool(noted == read_base(journal).commit_id)


def keys_only_in_remote(journal: Journal) -> int:
    """Returns how many keys have values that are in the remote alone."""
    with journal.reading() as raw:
        (here,) = raw.execute(
            "SELECT count(*) FROM entry WHERE key != '' AND known != 0 AND remote_digest IS NOT NULL "
            "AND (pending != 0 OR local_digest IS remote_digest)"
        ).fetchone()
        (unknown,) = raw.execute(
            "SELECT count(*) FROM entry WHERE key != '' AND known = 0 "
            f"AND (pending = 0 OR base_kind != {BASE_ADOPTED} AND base_digest IS NOT NULL)"
        ).fetchone()
        return max(0, read_base(journal).key_count - int(here) - int(unknown))


def detach(journal: Journal, *, base_format: int | None = None) -> Forgotten:
    """Makes every key whose value is on this machine pending and forgets the others, in one transaction.

    Args:
        journal: The journal.
        base_format: 1 where a root of format 1 lies there, for the next push to replace.
    """
    with journal.transaction() as transaction:
        raw = driver(transaction)
        lost = keys_only_in_remote(journal)
        numbering = Numbering(raw)
        keys = [key for (key,) in raw.execute(_KEYS_TO_KEEP)]
        raw.executemany(_KEEP, [(numbering.next(), key) for key in keys])
        numbering.note()
        raw.execute("UPDATE entry SET pending = 0 WHERE pending != 0 AND pending = 2")
        # Of a remote that is to be made anew everything is known: it has nothing.
        raw.execute(f"UPDATE entry SET {NOT_KNOWN}, {NO_BASE}")
        raw.execute("UPDATE entry SET known = 1")
        raw.execute("DELETE FROM entry WHERE pending = 0")
        (pending,) = raw.execute(
            "SELECT count(*) FROM entry WHERE pending != 0 AND pending = 1 AND key != ''"
        ).fetchone()
        raw.execute("DELETE FROM meta WHERE name GLOB 'base_*'")
        # Its pushes can't take effect any more, and the numbers of commits begin anew.
        for table in ("intent", "pushed_version", "piece"):
            raw.execute(f"DELETE FROM {table}")
        # Those that were sent and belong to no commit are used again, where they are still there.
        raw.execute("DELETE FROM remote_object WHERE id NOT IN (SELECT object FROM upload)")
        put_meta(transaction, {_DELETION: None, _PUSHED: 1, "base_format": base_format})
    return Forgotten(pending, lost)
