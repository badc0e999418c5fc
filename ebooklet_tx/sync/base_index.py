"""The index of the commit that a journal stands on, asked for single keys.

The invariant: an answer is given with the commit that it is right for, and is noted in the journal only while
that is the base. Where the commit's index is gone, because it is an old one, the journal is pulled on first.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ebooklet_tx.errors import UnsupportedFormatError
from ebooklet_tx.formats.root import Root, decode_root
from ebooklet_tx.html_tables import counted
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.pending.detachment import keys_only_in_remote
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.progress import Reporter
from ebooklet_tx.records import CommitRecord, RemoteSide
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot

REMEMBERED = 2
"""So many commits' decoded roots are held, up to some 100 KB each."""


class Answer(NamedTuple):
    """What a commit says of some keys; those that it has never heard of are left out."""

    commit_id: str | None
    rows: dict[str, LocatedRow]


class BaseIndex:
    """Reads the indexes of a remote's commits through the pieces that the journal keeps."""

    def __init__(self, local: LocalStore, remote: Remote) -> None:
        self._remote = remote
        self.remote_index = RemoteIndex(remote.store, remote.names, local.pieces, threads=remote.threads)
        self._mutex = threading.Lock()
        self._last: dict[tuple[str | None, str | None], CommitIndex] = {}

    @property
    def reporter(self) -> Reporter:
        """What is told how far the operations on the remote are."""
        return self._remote.reporter

    def of_base(self, base: Base) -> CommitIndex | None:
        """Returns the index of a base; None where there is no commit yet."""
        if not base.seq or not base.root:
            return None
        with self._mutex:
            known = self._last.get((base.commit_id, base.etag))
        if known is not None:
            return known
        return self.note(decode_root(base.root, name=self._remote.root_place), base.etag, len(base.root))

    def records_of(self, base: Base) -> Sequence[CommitRecord]:
        """Returns the newest commits that a base's root itself tells of, newest first."""
        index = self.of_base(base)
        return () if index is None else index.manifest.records

    def of_root(self, fetched: FetchedRoot) -> CommitIndex:
        """Returns the index of a root that was read."""
        with self._mutex:
            known = self._last.get((fetched.manifest.commit_id, fetched.etag))
        if known is not None and known.root is fetched.root:
            return known
        if fetched.etag:
            return self.note(fetched.root, fetched.etag, len(fetched.data))
        # A snapshot's, which anybody may have written.
        return self.remote_index.of(fetched.root, etag=None, size_bytes=len(fetched.data))

    def note(self, root: Root, etag: str | None, size_bytes: int) -> CommitIndex:
        """Remembers the root of a commit, and returns its index.

        Args:
            root: The decoded root.
            etag: The ETag under which it lies in the remote.
            size_bytes: How large it is.
        """
        index = self.remote_index.of(root, etag=etag, size_bytes=size_bytes)
        with self._mutex:
            self._last.pop((root.manifest.commit_id, etag), None)
            # The base, and the one that it moves on to.
            while len(self._last) >= REMEMBERED:
                del self._last[next(iter(self._last))]
            self._last[root.manifest.commit_id, etag] = index
        return index


def check_readable(journal: Journal, base: Base) -> None:
    """Refuses to take what this machine holds for all that a remote of format 1 has.

    Raises:
        UnsupportedFormatError: Values of some keys are in that remote alone.
    """
    count = keys_only_in_remote(journal) if base.format == 1 and base.seq else 0
    if count:
        raise UnsupportedFormatError(
            f"{counted(count, 'key')} with values only in a remote of format 1, which this version of "
            "ebooklet_tx can't read; nothing was changed, and what is on this machine can be read by its key. "
            "Load the rest with the version that wrote them: the journal as it was for that one is kept beside "
            "the new one, as `.journal.before-<revision>`. Or call push(force_push=True) where all of them are"
        )


def side_of(item: LocatedRow) -> RemoteSide:
    """Returns what a row of the index says, as the journal keeps it."""
    row = item.row
    if row.digest is None:
        return RemoteSide(row.key, row.seq, row.timestamp_us, None, None, None, None)
    return RemoteSide(
        row.key, row.seq, row.timestamp_us, row.digest, item.ref, row.offset_bytes, row.length_bytes
    )


def sides_of(rows: dict[str, LocatedRow], keys: Iterable[str]) -> dict[str, RemoteSide | None]:
    """Returns what a commit says of each key, None of those that it has never heard of."""
    return {key: side_of(rows[key]) if key in rows else None for key in keys}


__all__ = ["Answer", "BaseIndex", "check_readable", "side_of", "sides_of"]
