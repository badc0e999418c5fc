"""An object store that passes every request on to another: the base of those that count or retry.

Every request reaches the inner store unchanged, once, through `_pass`; a subclass adds its work around that one
call.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import TypeVar

from ebooklet_tx.stores.object_store import Blob, ByteSource, ObjectStore, StoredObject, UploadState

T = TypeVar("T")


class PassingStore:
    """Passes every request on, through `_pass`, which a subclass overrides.

    An upload in parts passes the kinds `put_parts` (its begin) and `part` (the arrival of each part); its end
    is the return of `put_parts`. A subclass protects its counts with `_mutex`, as requests come from many
    threads.
    """

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self._mutex = threading.Lock()

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        """Sends one request and returns its answer."""
        return send()

    def _sent(self, byte_count: int) -> None:
        """Called with the bytes of each write before it is sent."""

    def _received(self, byte_count: int) -> None:
        """Called with the bytes of each read after its answer."""

    @property
    def location(self) -> str:
        """Names the store for messages; never holds a credential."""
        return self.inner.location

    @property
    def writable(self) -> bool:
        """Whether the store takes writes."""
        return self.inner.writable

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Returns the object, or None when its ETag still is `if_none_match`."""
        blob = self._pass(
            "get", key, lambda: self.inner.get(key, if_none_match=if_none_match, max_bytes=max_bytes)
        )
        if blob is not None:
            self._received(len(blob.data))
        return blob

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Returns exactly `length_bytes` bytes from `offset_bytes` on."""
        data = self._pass(
            "get_range",
            key,
            lambda: self.inner.get_range(key, offset_bytes, length_bytes, if_match=if_match),
        )
        self._received(len(data))
        return data

    def head(self, key: str) -> StoredObject:
        """Returns what the store knows about an object, without its bytes."""
        return self._pass("head", key, lambda: self.inner.head(key))

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
        self._sent(len(data))
        return self._pass(
            "put",
            key,
            lambda: self.inner.put(key, data, if_match=if_match, if_absent=if_absent, metadata=metadata),
        )

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object in parts and returns its ETag."""

        def report(state: UploadState, known: list[int]) -> None:
            if len(state.parts) > known[0]:
                known[0] = len(state.parts)
                self._pass("part", key, lambda: None)
            if on_part is not None:
                on_part(state)

        watched = _WatchedSource(source, self._sent)
        known_parts = [len(resume.parts) if resume is not None else 0]
        return self._pass(
            "put_parts",
            key,
            lambda: self.inner.put_parts(
                key,
                watched,
                part_bytes=part_bytes,
                resume=resume,
                on_part=lambda state: report(state, known_parts),
            ),
        )

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`."""
        # Read to its end at once, so that all requests have been sent when `_pass` returns.
        yield from self._pass("list", prefix, lambda: tuple(self.inner.list(prefix)))

    def delete(self, key: str) -> None:
        """Removes the object; it is no error if there is none."""
        self._pass("delete", key, lambda: self.inner.delete(key))

    def copy(self, source_key: str, target_key: str) -> str:
        """Copies an object inside the store and returns the copy's ETag."""
        return self._pass("copy", source_key, lambda: self.inner.copy(source_key, target_key))

    def close(self) -> None:
        """Closes the inner store's connections."""
        self.inner.close()


class _WatchedSource:
    """Reports the bytes that an upload in parts reads in order to send them."""

    def __init__(self, source: ByteSource, sent: Callable[[int], None]) -> None:
        self._source = source
        self._sent = sent

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        self._sent(length_bytes)
        return self._source.read_at(offset_bytes, length_bytes)


__all__ = ["PassingStore"]
