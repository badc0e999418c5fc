"""Pieces of the index: byte ranges of immutable objects, each known by the digest that its parent carries.

The invariant: a piece is returned only if its bytes have that digest, wherever they come from. So what a
cache holds can't be stale, and the ETag under which a store keeps an object says nothing that matters.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import closing
from itertools import pairwise
from typing import NamedTuple, Protocol

from ebooklet_tx.errors import NotFoundInRangeError, RemoteIntegrityError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.records import digest_of
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.workers import Workers

JOIN_GAP_BYTES = 24 * 2**10
"""Pieces of one object that lie closer than this are fetched by one request."""

MAX_RANGE_BYTES = 4 * 2**20
"""Joined ranges are no longer than this."""


class Piece(NamedTuple):
    """A range of an index object, and the digest of its bytes."""

    object_name: str
    offset_bytes: int
    length_bytes: int
    digest: bytes


class PieceCache(Protocol):
    """Keeps pieces by digest; it may forget any of them at any time."""

    def get(self, digests: Collection[bytes]) -> Mapping[bytes, bytes]:
        """Returns those of some pieces that it has."""
        ...

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        """Takes pieces that were found sound."""
        ...


class NoCache:
    """Keeps nothing."""

    def get(self, digests: Collection[bytes]) -> Mapping[bytes, bytes]:
        return {}

    def put(self, pieces: Mapping[bytes, bytes]) -> None:
        pass


class PieceReader:
    """Reads pieces from a cache, or else from the store, some requests at once.

    Attributes:
        store: Where the objects lie.
        names: The database's object names.
        cache: Asked first, and given what was fetched.
        threads: How many requests run at once.
    """

    def __init__(self, store: ObjectStore, names: ObjectNames, cache: PieceCache, *, threads: int = 8) -> None:
        self.store = store
        self.names = names
        self.cache = cache
        self.threads = threads

    def read(self, pieces: Iterable[Piece]) -> dict[bytes, bytes]:
        """Returns the bytes of pieces by digest.

        Raises:
            ObjectMissingError: An object is gone.
            RemoteIntegrityError: A piece does not have its digest.
            OfflineError: The store can't be reached.
        """
        wanted = {piece.digest: piece for piece in pieces}
        found = dict(self.cache.get(wanted.keys()))
        missing = [piece for digest, piece in wanted.items() if digest not in found]
        if missing:
            fetched: dict[bytes, bytes] = {}
            with closing(self._fetch(_joined(missing))) as groups:
                for group, data in groups:
                    fetched.update(self.cut(group, data, start=group[0].offset_bytes))
            self.cache.put(fetched)
            found.update(fetched)
        return found

    def read_object(self, name: str, size_bytes: int) -> bytes:
        """Returns the first bytes of an object by one request, not held to anything yet; `cut` does that."""
        return self._get(name, 0, size_bytes)

    def cut(self, group: Sequence[Piece], data: bytes, *, start: int = 0) -> dict[bytes, bytes]:
        """Cuts pieces out of the bytes of an object that begin at `start`, and holds each to its digest."""
        parts = {}
        for piece in group:
            at = piece.offset_bytes - start
            part = data[at : at + piece.length_bytes]
            if digest_of(part) != piece.digest:
                raise self._damaged(
                    self.names.object(piece.object_name),
                    f"{piece.length_bytes} bytes at {piece.offset_bytes} do not have the digest that its parent "
                    "names",
                )
            parts[piece.digest] = part
        return parts

    def _fetch(self, groups: list[list[Piece]]) -> Generator[tuple[list[Piece], bytes], None, None]:
        if len(groups) == 1:
            yield groups[0], self._range(groups[0])
            return
        threads = min(self.threads, len(groups))
        waiting = deque(groups)
        running: deque[tuple[list[Piece], Future[bytes]]] = deque()
        with Workers(threads) as workers:
            while waiting or running:
                while waiting and len(running) < threads:
                    running.append((waiting[0], workers.submit(self._range, waiting.popleft())))
                group, future = running.popleft()
                yield group, future.result()

    def _range(self, group: Sequence[Piece]) -> bytes:
        first, last = group[0], group[-1]
        length_bytes = last.offset_bytes + last.length_bytes - first.offset_bytes
        return self._get(first.object_name, first.offset_bytes, length_bytes)

    def _get(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        key = self.names.object(name)
        try:
            return self.store.get_range(key, offset_bytes, length_bytes)
        except NotFoundInRangeError as error:
            raise self._damaged(key, f"it is shorter than its parent says ({error})") from error

    def _damaged(self, key: str, problem: str) -> RemoteIntegrityError:
        return RemoteIntegrityError(
            f"the index object {key!r} at {self.store.location} is damaged: {problem}. Try again; if it "
            "stays, restore the object from the bucket's versions or a copy; verify tells more",
            object_name=key,
        )


def _joined(pieces: Iterable[Piece]) -> list[list[Piece]]:
    """Groups pieces that are near each other in the same object."""
    ordered = sorted(pieces)
    groups = [[ordered[0]]]
    for last, piece in pairwise(ordered):
        end = last.offset_bytes + last.length_bytes
        span = piece.offset_bytes + piece.length_bytes - groups[-1][0].offset_bytes
        near = piece.object_name == last.object_name and piece.offset_bytes - end <= JOIN_GAP_BYTES
        if near and span <= MAX_RANGE_BYTES:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return groups


__all__ = ["NoCache", "Piece", "PieceCache", "PieceReader"]
