"""An object store that counts what goes through it.

Owns the counts. The invariant: every request is counted once, when it is sent, whether or not it
succeeds, and passed on unchanged. Put below the retries it counts each attempt.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping

from ebooklet_tx.remote.store import Blob, ByteSource, ObjectStore, StoredObject, UploadState

_LIST_PAGE_OBJECTS = 1000


class CountingStore:
    """Counts the requests to another store, and the bytes of their bodies.

    Attributes:
        requests: How many requests were sent; a listing counts one for each 1,000 objects.
        bytes_up: The bytes of all writes, those of failed ones included.
        bytes_down: The bytes of all reads.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self.requests = 0
        self.bytes_up = 0
        self.bytes_down = 0
        self._mutex = threading.Lock()

    @property
    def location(self) -> str:
        """Names the store for messages; never holds a credential."""
        return self.inner.location

    @property
    def writable(self) -> bool:
        """Whether the store takes writes."""
        return self.inner.writable

    def get(self, key: str, *, if_none_match: str | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        self._count()
        blob = self.inner.get(key, if_none_match=if_none_match)
        self._received(0 if blob is None else len(blob.data))
        return blob

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on."""
        self._count()
        data = self.inner.get_range(key, offset_bytes, length_bytes, if_match=if_match)
        self._received(len(data))
        return data

    def head(self, key: str) -> StoredObject:
        """Returns what the store tells about an object without its bytes."""
        self._count()
        return self.inner.head(key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object and returns its ETag."""
        self._count(len(data))
        return self.inner.put(key, data, if_match=if_match, if_absent=if_absent, metadata=metadata)

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

        def counted(state: UploadState) -> None:
            self._count()
            if on_part is not None:
                on_part(state)

        etag = self.inner.put_parts(
            key, _CountedSource(source, self), part_bytes=part_bytes, resume=resume, on_part=counted
        )
        self._count()
        return etag

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`."""
        self._count()
        for number, found in enumerate(self.inner.list(prefix)):
            if number and number % _LIST_PAGE_OBJECTS == 0:
                self._count()
            yield found

    def delete(self, key: str) -> None:
        """Removes the object; one that is not there is no error."""
        self._count()
        self.inner.delete(key)

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object inside the store and returns the copy's ETag."""
        self._count()
        return self.inner.copy(source_key, target_key)

    def close(self) -> None:
        """Lets go of the inner store's connections."""
        self.inner.close()

    def _count(self, bytes_up: int = 0, *, requests: int = 1) -> None:
        with self._mutex:
            self.requests += requests
            self.bytes_up += bytes_up

    def _received(self, byte_count: int) -> None:
        with self._mutex:
            self.bytes_down += byte_count


class _CountedSource:
    """Counts the bytes that an upload in parts reads in order to send them."""

    def __init__(self, source: ByteSource, counter: CountingStore) -> None:
        self._source = source
        self._counter = counter

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        self._counter._count(length_bytes, requests=0)
        return self._source.read_at(offset_bytes, length_bytes)
