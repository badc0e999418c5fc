"""Restoring a snapshot: the remote's next commit has the keys and values of an earlier one.

The invariant: a restoration is one commit like any other. Before its swap nothing is changed for a reader; after
it the root names what the snapshot names, with the history of what came since. What is pending here stays so.

It writes no index and no value: the root names those of the snapshot. The rows there have their old numbers, so
the tombstone floor is raised to the commit itself, and every copy reads anew what it holds.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

from ebooklet_tx.errors import InvalidArgumentError, RemoteMissingError
from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.maintenance.snapshots import kept
from ebooklet_tx.sync.commit.builder import Below, Changes
from ebooklet_tx.sync.commit.publish import below, commit_rows
from ebooklet_tx.sync.commit.push import MAX_ROUNDS, contention
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.pull.conflicts import find_conflicts
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.session import Session


@dataclass(frozen=True, slots=True, repr=False)
class RestoreResult(ShownAsTable):
    """What a restoration did; true when the remote changed.

    Attributes:
        updated: Whether the remote changed; it does not where it has the snapshot's keys and values already.
        snapshot: The snapshot's name.
        snapshot_seq: The commit that it keeps.
        seq: The commit on which the local database stands now.
        commit_id: The new commit's id; None when there was nothing to do.
        key_count: How many keys the remote has now.
        conflicts: The keys whose pending change here meets what was restored, in order; `changes().resolve()`
            settles them.
    """

    updated: bool
    snapshot: str
    snapshot_seq: int
    seq: int
    commit_id: str | None
    key_count: int
    conflicts: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.updated

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)


def restore(session: Session, name: str, *, message: str = "") -> RestoreResult:
    """Commits what a snapshot keeps on top of the remote's newest commit.

    Args:
        session: A session that writes; what is in its overlay is committed locally first.
        name: The snapshot's name.
        message: What the history says of the commit; empty for a sentence that names the snapshot.

    Raises:
        RemoteMissingError: There is no such snapshot, or no database.
        InvalidArgumentError: The next push replaces the remote altogether (flag n).
        ContentionError: Other writers came first at every attempt.
        LockLostError: Another writer took the session's lock over; nothing was changed.
        OfflineError: The store keeps failing. Whether the commit took place is settled by the next call or pull.
    """
    remote, journal = session.remote, session.journal
    with session.push_mutex:
        session.locks.check()
        session.local.commit()
        if is_replacing(journal):
            raise InvalidArgumentError(
                f"the next push of {session.local.path} replaces the remote (flag 'n'), so nothing can be "
                "restored there; push first"
            )
        pull(session)
        uuid = session.local.file.header.uuid.hex()
        commit = None
        try:
            for number in range(MAX_ROUNDS):
                if number:
                    session.locks.recheck()
                    pull(session)
                base = read_base(journal)
                session.locks.check_fence(base.fence)
                # In each round, right before the swap: it may be deleted at any time.
                found = session.index.of_root(kept.read(remote, name, uuid=uuid))
                on = replace(below(session.index, base), restored=found)
                if _is_restored(on):
                    break
                changes = Changes(message=message or f"restored the snapshot {name}")
                commit = commit_rows(session, on, base.etag, (), changes)
                if commit is not None:
                    break
                backoff(remote.policy, number)
            else:
                raise contention(remote)
        finally:
            session.locks.release_turn()
        reader = reader_of(session)
        reader.know_pending()
        conflicts = find_conflicts(reader, session.decode)
        return RestoreResult(
            updated=commit is not None,
            snapshot=name,
            snapshot_seq=found.manifest.seq,
            seq=read_base(journal).seq,
            commit_id=None if commit is None else commit.manifest.commit_id,
            key_count=found.manifest.key_count,
            conflicts=tuple(conflict.key for conflict in conflicts),
        )


def _is_restored(on: Below) -> bool:
    """Whether the newest commit has the very index that is to be restored.

    Raises:
        RemoteMissingError: There is no commit.
    """
    if on.index is None or on.restored is None:
        raise RemoteMissingError("nothing was ever pushed, so there is no database to restore a snapshot in")
    here, there = on.index.root, on.restored.root
    return (here.manifest.runs, here.tail) == (there.manifest.runs, there.tail)


__all__ = ["RestoreResult", "restore"]
