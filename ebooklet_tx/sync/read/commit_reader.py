"""Reading one commit of a remote without a local file: the index by the block, values by ranges of packs.

The invariants: what is handed out was held to the digest that the index has for it; memory goes by two bounds,
one for pieces of the index and one for values, however many keys are read. Nothing is written anywhere.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from itertools import islice

from ebooklet_tx.errors import Error, ObjectMissingError, OfflineError, RemoteIntegrityError
from ebooklet_tx.index.commit_index import CommitIndex, RemoteIndex
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.entries import prefix_end
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.records import IndexRow, digest_of
from ebooklet_tx.sync.read.fetch import PART_BYTES, Found
from ebooklet_tx.sync.read.ranges import fetch_ranges, read_range, sound_values
from ebooklet_tx.sync.read.value_errors import damaged_there, out_of_reach, vanished_there
from ebooklet_tx.sync.remote import Remote

PIECES_BYTES = 16 * 2**20
"""Pieces of the index that are held, as they lie in the remote."""

VALUES_BYTES = 4 * 2**20
"""Values that are held, so that one which is read again costs no request."""

PAGE_KEYS = 1000
MAX_MOVES = 20

Renew = Callable[[CommitIndex, Error], CommitIndex]
"""Returns the index to go on with where an object of one is gone; raises where there is none."""


class BytesByDigest:
    """Keeps bytes in memory by their digests, those used last, up to a bound; threads may share it."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()
        self._size_bytes = 0
        self._mutex = threading.Lock()

    @property
    def size_bytes(self) -> int:
        """How much it holds."""
        return self._size_bytes

    def get(self, digests: Collection[bytes]) -> Mapping[bytes, bytes]:
        """Returns those of some bytes that it has."""
        with self._mutex:
            found = {digest: self._kept[digest] for digest in digests if digest in self._kept}
            for digest in found:
                self._kept.move_to_end(digest)
        return found

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Takes bytes that were found sound; one piece that is larger than a quarter of all is not kept."""
        with self._mutex:
            for digest, data in pieces.items():
                if digest in self._kept or len(data) * 4 > self._most_bytes:
                    continue
                self._kept[digest] = data
                self._size_bytes += len(data)
            while self._size_bytes > self._most_bytes:
                _, dropped = self._kept.popitem(last=False)
                self._size_bytes -= len(dropped)


class CommitReader:
    """Reads the keys and values of one commit.

    Attributes:
        remote: Where it lies.
        view: The commit's index; another one's once an object of it was gone and there is a newer one.
    """

    def __init__(
        self,
        remote: Remote,
        open_view: Callable[[RemoteIndex], CommitIndex],
        renew: Renew,
        *,
        values_bytes: int = VALUES_BYTES,
    ) -> None:
        self.remote = remote
        self.remote_index = RemoteIndex(
            remote.store, remote.names, BytesByDigest(PIECES_BYTES), threads=remote.threads
        )
        self.view = open_view(self.remote_index)
        self._renew = renew
        self._values = BytesByDigest(values_bytes)

    def rows(self, keys: Collection[str]) -> dict[str, LocatedRow]:
        """Returns what the commit says of some keys; those that it has never heard of are left out."""
        for _ in range(MAX_MOVES):
            view = self.view
            try:
                return view.lookup(keys)
            except ObjectMissingError as error:
                self._move_on(view, error)
        raise self._moves()

    def timestamp_of(self, key: str) -> int | None:
        """Returns when a key was set; None where it is not there."""
        item = self.rows([key]).get(key)
        return None if item is None or item.row.digest is None else item.row.timestamp_us

    def read(self, key: str) -> tuple[int, bytes] | None:
        """Returns a key's timestamp and encoded value; None where it is not there.

        Raises:
            RemoteIntegrityError: A part of the index, or the value, is damaged or missing.
            OfflineError: The store can't be reached.
        """
        missing: Error | None = None
        for _ in range(MAX_MOVES):
            view = self.view
            item = self.rows([key]).get(key)
            if item is None or item.row.digest is None:
                return None
            try:
                return item.row.timestamp_us, self._value_of(item)
            except ObjectMissingError as error:
                missing = error
                self._move_on_for(key, view, error)
            except OfflineError as error:
                raise out_of_reach(key, error) from error.__cause__
        raise self._moves() from missing

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[int, bytes] | Error | None]]:
        """Yields for each key timestamp and encoded value, the reason why it can't be had, or None."""
        remaining = iter(keys)
        while page := list(islice(remaining, PAGE_KEYS)):
            rows = self.rows(page)
            for part in _parts(page, rows):
                yield from self._read_part(part, rows)

    def _read_part(
        self, keys: Sequence[str], rows: Mapping[str, LocatedRow]
    ) -> Iterator[tuple[str, tuple[int, bytes] | Error | None]]:
        # A function of its own, so that its values are let go before those of the next part come.
        found: dict[str, Found] = {}
        wanted: list[RemoteValue] = []
        digests = {rows[key].row.digest for key in keys if key in rows} - {None}
        held = self._values.get([digest for digest in digests if digest is not None])
        for key in keys:
            row = rows[key].row if key in rows else None
            if row is None or row.digest is None:
                found[key] = None
            elif row.value is not None or row.digest in held:
                found[key] = held[row.digest] if row.value is None else row.value
            else:
                wanted.append(remote_value(rows[key]))
        with closing(fetch_ranges(self.remote, wanted)) as groups:
            for group, data in groups:
                for item, value in sound_values(group, data):
                    found[item.key] = value if value is not None else self._read_alone(item.key, data)
        for key in keys:
            outcome = found[key]
            stamp = rows[key].row.timestamp_us if key in rows else 0
            yield key, (stamp, outcome) if isinstance(outcome, bytes) else outcome

    def _read_alone(self, key: str, data: bytes | Error) -> Found:
        if isinstance(data, OfflineError):
            return out_of_reach(key, data)
        try:
            found = self.read(key)
        except Error as error:
            return error
        return None if found is None else found[1]

    def iter_keys(self, prefix: str = "") -> Iterator[str]:
        """Yields the user's keys with a prefix, in order; goes on behind the last one on a newer commit."""
        # The metadata's key is the empty one.
        for row in self.live_rows(prefix or "\0", prefix_end(prefix)):
            yield row.key

    def live_rows(self, least: str, end: str | None) -> Iterator[IndexRow]:
        """Yields the rows of values whose keys lie in `[least, end)`, in order; likewise."""
        for _ in range(MAX_MOVES):
            view = self.view
            try:
                for item in view.scan(least, end):
                    if item.row.digest is not None:
                        least = item.row.key + "\0"
                        yield item.row
                return
            except ObjectMissingError as error:
                self._move_on(view, error)
        raise self._moves()

    def count(self) -> int:
        """Returns how many keys the commit has."""
        return self.view.manifest.key_count

    def _value_of(self, item: LocatedRow) -> bytes:
        digest = item.row.digest or b""
        if item.row.value is not None:
            return item.row.value
        held = self._values.get([digest])
        if digest in held:
            return held[digest]
        row = item.row
        value = read_range(self.remote, item.ref, row.offset_bytes or 0, row.length_bytes or 0)
        if digest_of(value) != digest:
            raise damaged_there(self.remote, row.key, item.ref)
        self._values.put({digest: value})
        return value

    def _move_on(self, view: CommitIndex, error: Error) -> None:
        self.view = self._renew(view, error)

    def _move_on_for(self, key: str, view: CommitIndex, error: Error) -> None:
        """Like `_move_on`; where there is nothing to move on to, the error is about the key."""
        try:
            self._move_on(view, error)
        except RemoteIntegrityError as final:
            if final.__cause__ is not error:
                raise
            raise vanished_there(key, error) from error

    def _moves(self) -> RemoteIntegrityError:
        return RemoteIntegrityError(
            f"objects of {MAX_MOVES} commits in a row were gone at {self.remote.root_place}; try again, and run "
            "`python -m ebooklet_tx verify` if it stays"
        )


def remote_value(item: LocatedRow) -> RemoteValue:
    """Returns where the value of a row lies."""
    row = item.row
    place = item.ref, row.offset_bytes or 0, row.length_bytes or 0
    return RemoteValue(row.key, row.digest or b"", row.timestamp_us, *place)


def _parts(keys: Sequence[str], rows: Mapping[str, LocatedRow]) -> Iterator[list[str]]:
    """Divides keys so that the values of each part go into memory together."""
    part: list[str] = []
    size_bytes = 0
    for key in keys:
        length_bytes = (rows[key].row.length_bytes or 0) if key in rows else 0
        if part and size_bytes + length_bytes > PART_BYTES:
            yield part
            part, size_bytes = [], 0
        part.append(key)
        size_bytes += length_bytes
    if part:
        yield part


__all__ = ["BytesByDigest", "CommitReader", "Renew", "remote_value"]
