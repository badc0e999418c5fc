"""Values from the remote that wait to be kept in the Booklet file.

Owns the waiting values and the keys whose copy was found damaged. The invariant: a fetched value is a copy, so
nothing is lost when it is not kept, and a read never fails because its copy can't be kept.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable

from ebooklet_tx.errors import LocalStorageError
from ebooklet_tx.local.bounded_copies import BoundedCopies, size_of_blocks
from ebooklet_tx.local.commit import NOTHING_FETCHED, Fetched, FetchedColumns
from ebooklet_tx.local.open_pair import OpenPair
from ebooklet_tx.local.overlay import Overlay

_log = logging.getLogger("ebooklet_tx")


class FetchedValues:
    """The fetched values of one session; they are appended many at a time."""

    def __init__(self, pair: OpenPair, buffer_bytes: int) -> None:
        self._pair = pair
        self._buffer_bytes = buffer_bytes
        self._waiting: dict[str, Fetched] = {}
        self._waiting_bytes = 0
        self._damaged: set[str] = set()
        self._epoch = 0
        self._epoch_version = (0, 0)
        self.bound: BoundedCopies | None = None

    def use_bound(self, bound: BoundedCopies) -> None:
        """Keeps the file within a bound from now on: what does not fit is not kept."""
        self.bound = bound
        self._buffer_bytes = max(1, min(self._buffer_bytes, bound.max_bytes // 8))

    def __bool__(self) -> bool:
        return bool(self._waiting)

    def note_damaged(self, key: str) -> None:
        """Notes that the file's copy of a key is damaged: the next value of it takes its place."""
        self._damaged.add(key)

    def find(self, key: str, digest: bytes) -> bytes | None:
        """Returns a waiting value of that digest."""
        waiting = self._waiting.get(key)
        if waiting is None or waiting.digest != digest or not isinstance(waiting.value, bytes):
            return None
        return waiting.value

    def append_with(self, overlay: Overlay, absent: FetchedColumns = NOTHING_FETCHED) -> None:
        """Commits an overlay into the Booklet file, with all that waits here and all that is staged.

        Args:
            overlay: What was written; it is empty afterwards.
            absent: More fetched values, of which the caller knows that they are current and not in the file.
        """
        waiting: Iterable[Fetched] = self._waiting.values()
        if self.bound is not None:
            waiting, absent = self._that_fit(self.bound, overlay, absent)
        self._pair.append(overlay, waiting, absent)
        overlay.forget()
        self._forget()
        if self.bound is not None:
            self.bound.keep_within()

    def _that_fit(
        self, bound: BoundedCopies, overlay: Overlay, absent: FetchedColumns
    ) -> tuple[list[Fetched], FetchedColumns]:
        """Makes room within the bound; returns what of the fetched values fits, those that came last first."""
        own = {key: value for key, (value, _) in overlay.operations.items() if value is not None}
        fetched = [*self._waiting.values(), *absent.items()]
        keys = [*own, *(item.key for item in fetched)]
        sizes = [len(item.key.encode()) + len(item.value) for item in fetched]
        own_bytes = sum(len(key.encode()) + len(value) for key, value in own.items())
        generation = self._pair.file.generation
        room = bound.make_room(len(keys), own_bytes + sum(sizes)) - size_of_blocks(len(own), own_bytes)
        if self._pair.file.generation != generation:
            # Copies are gone that a caller may count on.
            self._epoch += 1
        first = len(fetched)
        while first and (room := room - size_of_blocks(1, sizes[first - 1])) >= 0:
            first -= 1
        waiting = len(self._waiting)
        return fetched[first:waiting], absent.last(len(fetched) - max(first, waiting))

    def keep(self, fetched: Iterable[Fetched]) -> None:
        """Notes values; once they fill the buffer they are written, or forgotten where nothing can be."""
        for item in fetched:
            if item.key in self._damaged:
                self._damaged.discard(item.key)
                item = item._replace(replaces=True)
            self._waiting[item.key] = item
            self._waiting_bytes += len(item.value) or len(item.key.encode())
        if self._waiting_bytes > self._buffer_bytes:
            self.write()

    def keep_once(self, fetched: Fetched) -> None:
        """Like `keep`, unless that value is noted already, as of the same commit."""
        waiting = self._waiting.get(fetched.key)
        if waiting is None or (waiting.digest, waiting.commit_id) != (fetched.digest, fetched.commit_id):
            self.keep([fetched])

    def keep_now(self, fetched: FetchedColumns, epoch: int) -> None:
        """Writes values at once, if lock and disk allow.

        Args:
            fetched: Values that were not in the file when `index_epoch` was what is given.
            epoch: That number. Where it is another one now, or they are not of the base, each is checked again.
        """

        if self._pair.is_private:
            return

        def work() -> None:
            is_base = self._pair.journal.get_meta("base_commit_id") == fetched.commit_id
            if self.index_epoch() != epoch or self._waiting or not is_base:
                self._waiting.update((item.key, item) for item in fetched.items())
                self.append_with(Overlay())
                return
            self.append_with(Overlay(), fetched)
            # Only the places of these values have changed by that.
            self._epoch_version = self._pair.journal.version()

        try:
            self._pair.try_maintain(work)
        except LocalStorageError as error:
            _log.warning("%d fetched values were not kept: %s", len(fetched.values), error)

    def keep_large(self, fetched: Fetched) -> bool:
        """Writes a value that lies in another file now; False when another session has the lock.

        Raises:
            LocalStorageError: The disk is full or failing; the last commit is intact.
        """

        def work() -> None:
            replaces = fetched.key in self._damaged
            self._waiting[fetched.key] = fetched._replace(replaces=replaces)
            try:
                self.append_with(Overlay())
            finally:
                # The caller closes the file that it lies in.
                self._waiting.pop(fetched.key, None)
            self._damaged.discard(fetched.key)

        return self._pair.try_maintain(work)

    def write(self) -> None:
        """Writes what waits if lock and disk allow; otherwise it is fetched again when it is next read."""
        if self._pair.is_private:
            self._forget()
            return
        try:
            # What the session wrote stays uncommitted: a read may take place inside a transaction.
            self._pair.try_maintain(lambda: self.append_with(Overlay()))
        except LocalStorageError as error:
            _log.warning("%d fetched values were not kept: %s", len(self._waiting), error)
        self._forget()

    def index_epoch(self) -> int:
        """Returns a number that changes when anything but the place of a value may have changed."""
        version = self._pair.journal.version()
        if version != self._epoch_version:
            self._epoch += 1
            self._epoch_version = version
        return self._epoch

    def _forget(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0
