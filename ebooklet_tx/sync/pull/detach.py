"""Forgetting a remote that is gone: what is on this machine becomes what the next push sends.

Owns the journal's word that a deletion is under way. The invariant: the word is written before the root is
deleted and goes in the transaction that forgets the remote, so that a session which finds no root knows
whether its own user deleted it; it is good for the base commit that it names and for no later one.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.session import Session

_DELETION = "remote_deletion"
_PUSHED = "was_pushed"
_COLUMNS = ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")
_NO_REMOTE = ", ".join(f"remote_{name} = NULL, base_{name} = NULL" for name in _COLUMNS)

_HERE = """
(remote_digest = :empty OR local_digest IS remote_digest
 OR EXISTS (SELECT 1 FROM inline_value AS i WHERE i.digest = remote_digest)
 OR EXISTS (SELECT 1 FROM staged AS s WHERE s.key = entry.key AND s.digest = remote_digest))
"""
_KEEP = f"""
UPDATE entry SET pending = 1, pending_digest = remote_digest, pending_timestamp_us = remote_timestamp_us,
  pending_length_bytes = remote_length_bytes
WHERE pending = 0 AND remote_digest IS NOT NULL AND {_HERE}
"""


_NOWHERE_ELSE = f"pending = 0 AND remote_digest IS NOT NULL AND NOT {_HERE}"
_SHOWN_KEYS = 5


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What forgetting a remote left: keys that are pending now, and keys whose values were nowhere else."""

    pending_keys: int
    lost_keys: int


def was_pushed(journal: Journal) -> bool:
    """True of a database that once had a remote which was forgotten: others may have copies of it."""
    return bool(journal.get_meta(_PUSHED))


def note_deletion(session: Session) -> None:
    """Notes, durably, that the remote of the base commit is about to be deleted; needs the mutex."""
    commit_id = read_base(session.journal).commit_id
    with session.journal.transaction() as connection:
        put_meta(connection, {_DELETION: commit_id})


def is_deletion_begun(journal: Journal) -> bool:
    """True when the deletion of the remote on whose commit a journal stands was begun here, and not finished."""
    noted = journal.get_meta(_DELETION)
    return noted is not None and bool(noted == read_base(journal).commit_id)


def finish_detaching(session: Session) -> bool:
    """Forgets a remote whose deletion was begun here and cut short; False when there was none."""
    with session.mutex:
        if not is_deletion_begun(session.journal):
            return False
        # The journal is the lock holder's to change, and not under what a transaction has read.
        if not session.local.writable or session.in_transaction:
            return False
        forget_remote(session)
    return True


def start_over(session: Session) -> None:
    """Forgets a remote that somebody else deleted, unless values would be lost by that.

    Raises:
        RemoteMissingError: Values of some keys are not on this machine; nothing was changed.
    """
    with session.mutex:
        # Fetched values count as here once they are in the file.
        session.local.commit(fold=True)
        _check_nothing_is_lost(session)
        forget_remote(session)


def _check_nothing_is_lost(session: Session) -> None:
    with session.journal.reading() as raw:
        (count,) = raw.execute(
            f"SELECT count(*) FROM entry WHERE {_NOWHERE_ELSE}", {"empty": digest_of(b"")}
        ).fetchone()
        if not count:
            return
        rows = raw.execute(
            f"SELECT key FROM entry WHERE {_NOWHERE_ELSE} ORDER BY key LIMIT {_SHOWN_KEYS}",
            {"empty": digest_of(b"")},
        ).fetchall()
    shown = ", ".join(repr(key) if key else "the metadata" for (key,) in rows)
    more = f" and {count - len(rows)} more" if count > len(rows) else ""
    raise RemoteMissingError(
        f"the database {session.remote.root_place} is gone, and of {count} of its keys this machine has no value "
        f"to write anew: {shown}{more}; nothing was changed. Push from a machine that has them, fetch them with "
        "load_items() where the database still lies, or restore it from a backup. To go on without them call "
        "delete_remote(), which has nothing left to delete and lets go of these keys, and push() what is here"
    )


def forget_remote(session: Session) -> Forgotten:
    """Makes every key whose value is on this machine pending and drops the others, in one transaction.

    Needs the mutex. What was written and not committed is committed first, fetched values are kept.
    """
    session.local.commit(fold=True)
    with session.journal.transaction() as connection:
        raw = driver(connection)
        raw.execute(_KEEP, {"empty": digest_of(b"")})
        (lost,) = raw.execute(
            "SELECT count(*) FROM entry WHERE pending = 0 AND remote_digest IS NOT NULL AND key != ''"
        ).fetchone()
        raw.execute("UPDATE entry SET pending = 0 WHERE pending != 0 AND pending = 2")
        raw.execute(f"UPDATE entry SET {_NO_REMOTE}")
        raw.execute("DELETE FROM entry WHERE local_digest IS NULL AND pending = 0")
        (pending,) = raw.execute(
            "SELECT count(*) FROM entry WHERE pending != 0 AND pending = 1 AND key != ''"
        ).fetchone()
        raw.execute("DELETE FROM meta WHERE name GLOB 'base_*'")
        # Its pushes can't take effect any more, and the numbers of commits begin anew.
        for table in ("intent", "commit_log", "remote_object"):
            raw.execute(f"DELETE FROM {table}")
        put_meta(connection, {_DELETION: None, _PUSHED: 1})
    return Forgotten(pending, lost)
