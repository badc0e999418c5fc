"""Reading the newest commit of a remote without a local file.

The invariant: what is read is one commit until `pull` goes on to another, or an object of it is gone, as happens
to an old commit: then the newest one is read from there on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ebooklet_tx.errors import Error, ObjectMissingError, RemoteIntegrityError, RemoteMissingError
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.sync.read.commit_reader import CommitReader
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_later_root, read_root


class NewestReader(CommitReader):
    """Reads the commit that was the newest one when it was made, or at its last `pull`."""

    def __init__(self, remote: Remote) -> None:
        self._etag = ""
        super().__init__(remote, self._open_newest, self._renewed)

    def pull(self) -> bool:
        """Goes on to the newest commit; False, after one request, where there is none.

        Raises:
            RemoteMissingError: There is no database any more.
            OfflineError: The store can't be reached.
        """
        return self._advance(self.remote_index)

    def stamps(self) -> Iterator[tuple[str, int]]:
        """Yields the user's keys in order, each with its timestamp."""
        # The metadata's key is the empty one.
        for row in self.live_rows("\0", None):
            yield row.key, row.timestamp_us

    def _open_newest(self, index: RemoteIndex) -> CommitIndex:
        return self._view_of(index, _fetched(self.remote))

    def _advance(self, index: RemoteIndex) -> bool:
        known = self.view.manifest
        fetched = _read(self.remote, lambda: read_later_root(self.remote, self._etag, known.uuid, known.seq))
        if fetched is None:
            return False
        before, self.view = self.view, self._view_of(index, fetched)
        return self.view.manifest.commit_id != before.manifest.commit_id

    def _view_of(self, index: RemoteIndex, fetched: FetchedRoot) -> CommitIndex:
        self._etag = fetched.etag
        return index.of(fetched.root, etag=fetched.etag, size_bytes=len(fetched.data))

    def _renewed(self, view: CommitIndex, error: Error) -> CommitIndex:
        """Returns the newest commit's index where an object of an older one is gone.

        Raises:
            RemoteIntegrityError: It is the newest one.
        """
        if self.view is view and not self._advance(self.remote_index):
            raise RemoteIntegrityError(
                f"an object is missing although the root of {self.remote.root_place} names it: {error}; run "
                "`python -m ebooklet_tx verify` for what is affected"
            ) from error
        return self.view


def _fetched(remote: Remote) -> FetchedRoot:
    fetched = _read(remote, lambda: read_root(remote))
    if fetched is None:
        raise RemoteIntegrityError(f"{remote.root_place} answered that a root has not changed that was not known")
    return fetched


def _read(remote: Remote, read: Callable[[], FetchedRoot | None]) -> FetchedRoot | None:
    try:
        return read()
    except ObjectMissingError as error:
        public = "" if remote.store.writable else ", or it is not public"
        raise RemoteMissingError(
            f"there is no database {remote.root_place}{public}; check the address", operation="open"
        ) from error


__all__ = ["NewestReader"]
