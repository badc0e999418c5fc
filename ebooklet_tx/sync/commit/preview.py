"""What a push would do, told without doing it.

The invariant: nothing is changed, here or at the remote, and no value is read.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from ebooklet_tx.errors import UUIDMismatchError
from ebooklet_tx.index.commit_index import RemoteIndex
from ebooklet_tx.index.pieces import NoCache
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import PENDING_SET, pending_entries
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.sync.pull.conflicts import conflicts_in
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import read_root_or_none


@dataclass(frozen=True, slots=True)
class PushPreview:
    """What a push would do.

    Attributes:
        set_count: How many keys it would set.
        deleted_count: How many it would delete.
        value_bytes: Encoded bytes of the values that it would set.
        base_seq: The commit on which this machine stands; 0 for none.
        remote_seq: The remote's newest commit; None where there is no database.
        replaces_remote: Whether the push would replace whatever database is there.
        conflicts: The keys that another writer has changed, too.
    """

    set_count: int
    deleted_count: int
    value_bytes: int
    base_seq: int
    remote_seq: int | None
    replaces_remote: bool
    conflicts: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Returns the same as JSON types."""
        return asdict(self)


def preview(journal: Journal, remote: Remote, *, uuid: str) -> PushPreview:
    """Tells what a push of what is pending in a journal would do.

    Args:
        journal: The journal.
        remote: Where it would be pushed to.
        uuid: The local database's identity.

    Raises:
        UUIDMismatchError: Another database lies there.
        OfflineError: The remote can't be reached.
        RemoteIntegrityError: A part of its index is damaged.
    """
    pending = {entry.key: entry for entry in pending_entries(journal)}
    base, replacing = read_base(journal), is_replacing(journal)
    with journal.reading() as raw:
        conflicts = {conflict.key for conflict in conflicts_in(raw)}
    fetched = read_root_or_none(remote)
    if fetched is not None and not replacing:
        if fetched.manifest.uuid != uuid:
            raise UUIDMismatchError(
                f"{remote.root_place} is the database {fetched.manifest.uuid}, and the local file is of {uuid}"
            )
        if fetched.manifest.commit_id != base.commit_id:
            index = RemoteIndex(remote.store, remote.names, NoCache(), threads=remote.threads)
            view = index.of(fetched.root, etag=fetched.etag, size_bytes=len(fetched.data))
            for key, item in view.lookup(pending).items():
                if item.row.seq > base.seq:
                    conflicts.discard(key)
                    if item.row.digest != pending[key].digest:
                        conflicts.add(key)
    sets = [entry for entry in pending.values() if entry.pending == PENDING_SET]
    return PushPreview(
        set_count=len(sets),
        deleted_count=len(pending) - len(sets),
        value_bytes=sum(entry.length_bytes for entry in sets),
        base_seq=base.seq,
        remote_seq=None if fetched is None else fetched.manifest.seq,
        replaces_remote=replacing,
        conflicts=() if replacing else tuple(sorted(conflicts)),
    )


__all__ = ["PushPreview", "preview"]
