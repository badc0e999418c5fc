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
from ebooklet_tx.local.journal.pending.columns import NO_BASE, NO_REMOTE
from ebooklet_tx.records import digest_of

_DELETION = "remote_deletion"
_PUSHED = "was_pushed"

_HERE = """
(remote_digest = :empty OR local_digest IS remote_digest
 OR EXISTS (SELECT 1 FROM inline_value AS i WHERE i.digest = remote_digest)
 OR EXISTS (SELECT 1 FROM staged AS s WHERE s.key = entry.key AND s.digest = remote_digest))
"""
"""SQL that is true of an entry whose remote value is also on this machine."""

_KEEP = f"""
UPDATE entry SET pending = 1, pending_digest = remote_digest, pending_timestamp_us = remote_timestamp_us,
  pending_length_bytes = remote_length_bytes
WHERE pending = 0 AND remote_digest IS NOT NULL AND {_HERE}
"""
_NOWHERE_ELSE = f"pending = 0 AND remote_digest IS NOT NULL AND NOT {_HERE}"
_EMPTY = {"empty": digest_of(b"")}


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


def keys_only_in_remote(journal: Journal, limit: int) -> tuple[int, list[str]]:
    """Returns how many keys have values that are in the remote alone, and the first few of them."""
    with journal.reading() as raw:
        (count,) = raw.execute(f"SELECT count(*) FROM entry WHERE {_NOWHERE_ELSE}", _EMPTY).fetchone()
        if not count:
            return 0, []
        rows = raw.execute(
            f"SELECT key FROM entry WHERE {_NOWHERE_ELSE} ORDER BY key LIMIT :limit", {**_EMPTY, "limit": limit}
        ).fetchall()
    return count, [key for (key,) in rows]


def detach(journal: Journal) -> Forgotten:
    """Makes every key whose value is on this machine pending and drops the others, in one transaction."""
    with journal.transaction() as transaction:
        raw = driver(transaction)
        raw.execute(_KEEP, _EMPTY)
        (lost,) = raw.execute(
            "SELECT count(*) FROM entry WHERE pending = 0 AND remote_digest IS NOT NULL AND key != ''"
        ).fetchone()
        raw.execute("UPDATE entry SET pending = 0 WHERE pending != 0 AND pending = 2")
        raw.execute(f"UPDATE entry SET {NO_REMOTE}, {NO_BASE}")
        raw.execute("DELETE FROM entry WHERE local_digest IS NULL AND pending = 0")
        (pending,) = raw.execute(
            "SELECT count(*) FROM entry WHERE pending != 0 AND pending = 1 AND key != ''"
        ).fetchone()
        raw.execute("DELETE FROM meta WHERE name GLOB 'base_*'")
        # Its pushes can't take effect any more, and the numbers of commits begin anew.
        for table in ("intent", "commit_log", "remote_object"):
            raw.execute(f"DELETE FROM {table}")
        put_meta(transaction, {_DELETION: None, _PUSHED: 1})
    return Forgotten(pending, lost)
