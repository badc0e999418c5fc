"""An object store that counts the requests to another.

Every request is counted once, when it is sent, whether or not it succeeds, and passed on unchanged. Below the
retries it counts each attempt.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from ebooklet_tx.stores.object_store import ByteSource, ObjectStore, StoredObject, UploadState
from ebooklet_tx.stores.wrapper import PassingStore

_LIST_PAGE_OBJECTS = 1000

T = TypeVar("T")


class CountingStore(PassingStore):
    """Counts the requests to another store, and the bytes of their bodies.

    Attributes:
        requests: How many requests were sent; a listing counts one for each 1,000 objects, an upload
            in parts one for its begin, each part, and its end.
        bytes_up: The bytes of all writes, those of failed ones included.
        bytes_down: The bytes of all reads.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.requests = 0
        self.bytes_up = 0
        self.bytes_down = 0

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object in parts; its begin, each part and its end are a request each."""
        etag = super().put_parts(key, source, part_bytes=part_bytes, resume=resume, on_part=on_part)
        self._count()
        return etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`."""
        for number, found in enumerate(super().list(prefix)):
            if number and number % _LIST_PAGE_OBJECTS == 0:
                self._count()
            yield found

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        self._count()
        return send()

    def _count(self) -> None:
        with self._mutex:
            self.requests += 1

    def _sent(self, byte_count: int) -> None:
        with self._mutex:
            self.bytes_up += byte_count

    def _received(self, byte_count: int) -> None:
        with self._mutex:
            self.bytes_down += byte_count


__all__ = ["CountingStore"]
