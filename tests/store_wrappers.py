"""Object stores around object stores: one counts, one fails on purpose, one waits to be let on.

All of them speak the whole protocol and number their requests from 1. An upload in parts passes the
kinds `put_parts` (its begin) and `part` (each part's arrival); its end is not seen.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from ebooklet_tx.remote.store import Blob, ByteSource, ObjectStore, StoredObject, UploadState

T = TypeVar("T")

KINDS = ("get", "get_range", "head", "put", "put_parts", "part", "list", "delete", "copy")


class PassingStore:
    """Passes every request on, through `_pass`, which a wrapper overrides."""

    def __init__(self, inner: ObjectStore) -> None:
        self.inner = inner
        self._mutex = threading.Lock()

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        raise NotImplementedError

    def _sent(self, byte_count: int) -> None:
        """Told of the bytes of each write before it is sent."""

    def _received(self, byte_count: int) -> None:
        """Told of the bytes of each read after it is answered."""

    @property
    def location(self) -> str:
        return self.inner.location

    @property
    def writable(self) -> bool:
        return self.inner.writable

    def get(self, key: str, *, if_none_match: str | None = None) -> Blob | None:
        blob = self._pass("get", key, lambda: self.inner.get(key, if_none_match=if_none_match))
        if blob is not None:
            self._received(len(blob.data))
        return blob

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        data = self._pass(
            "get_range",
            key,
            lambda: self.inner.get_range(key, offset_bytes, length_bytes, if_match=if_match),
        )
        self._received(len(data))
        return data

    def head(self, key: str) -> StoredObject:
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
        def tell(state: UploadState, known: list[int]) -> None:
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
                on_part=lambda state: tell(state, known_parts),
            ),
        )

    def list(self, prefix: str) -> Iterator[StoredObject]:
        # Read to its end at once, so that the request has taken place when `_pass` is done with it.
        yield from self._pass("list", prefix, lambda: tuple(self.inner.list(prefix)))

    def delete(self, key: str) -> None:
        self._pass("delete", key, lambda: self.inner.delete(key))

    def copy(self, source_key: str, target_key: str) -> str:
        return self._pass("copy", source_key, lambda: self.inner.copy(source_key, target_key))

    def close(self) -> None:
        self.inner.close()


class _WatchedSource:
    def __init__(self, source: ByteSource, sent: Callable[[int], None]) -> None:
        self._source = source
        self._sent = sent

    @property
    def size_bytes(self) -> int:
        return self._source.size_bytes

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        self._sent(length_bytes)
        return self._source.read_at(offset_bytes, length_bytes)


class CountingStore(PassingStore):
    """Counts requests by kind, and the bytes of bodies up and down.

    Attributes:
        requests: How many requests of each kind of `KINDS` were made.
        bytes_up: The bytes of all writes, those of failed ones included.
        bytes_down: The bytes of all reads.
        log: Kind and key of each request, in order.
    """

    def __init__(self, inner: ObjectStore) -> None:
        super().__init__(inner)
        self.reset()

    def reset(self) -> None:
        """Begins counting anew."""
        self.requests: Counter[str] = Counter()
        self.bytes_up = 0
        self.bytes_down = 0
        self.log: list[tuple[str, str]] = []

    @property
    def total(self) -> int:
        """How many requests were made in all."""
        return sum(self.requests.values())

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        with self._mutex:
            self.requests[kind] += 1
            self.log.append((kind, key))
        return send()

    def _sent(self, byte_count: int) -> None:
        with self._mutex:
            self.bytes_up += byte_count

    def _received(self, byte_count: int) -> None:
        with self._mutex:
            self.bytes_down += byte_count


@dataclass(frozen=True)
class Fault:
    """One failure on purpose.

    Attributes:
        at: The number, from 1, of the request to fail, counted among those that `kind` names.
        error: What is raised.
        after: Whether the request takes effect first, as when its answer is lost.
        kind: The kind of request that is counted; None for any.
    """

    at: int
    error: BaseException
    after: bool = False
    kind: str | None = None


class FaultyStore(PassingStore):
    """Fails the requests that a plan names, before or after they take effect."""

    def __init__(self, inner: ObjectStore, plan: Sequence[Fault]) -> None:
        super().__init__(inner)
        self.plan = list(plan)
        self.raised: list[Fault] = []
        self._counts: Counter[str | None] = Counter()

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        fault = self._next_fault(kind)
        if fault is not None and not fault.after:
            raise fault.error
        answer = send()
        if fault is not None:
            raise fault.error
        return answer

    def _next_fault(self, kind: str) -> Fault | None:
        with self._mutex:
            self._counts[kind] += 1
            self._counts[None] += 1
            for fault in self.plan:
                if fault.kind in (None, kind) and self._counts[fault.kind] == fault.at:
                    self.raised.append(fault)
                    return fault
        return None


class GatedStore(PassingStore):
    """Stops at one request until it is let on.

    Attributes:
        arrived: Set when the request has come to the gate.
        opened: To be set by the test, to let the request on.
    """

    def __init__(
        self,
        inner: ObjectStore,
        at: int,
        *,
        kind: str | None = None,
        after: bool = False,
        timeout_seconds: float = 60.0,
    ) -> None:
        """Sets the gate.

        Args:
            inner: The store behind the gate.
            at: The number, from 1, of the request to stop, counted among those that `kind` names.
            kind: The kind of request that is counted; None for any.
            after: Whether the request takes effect before it is stopped.
            timeout_seconds: How long a stopped request waits before it fails the test.
        """
        super().__init__(inner)
        self.arrived = threading.Event()
        self.opened = threading.Event()
        self._at = at
        self._kind = kind
        self._after = after
        self._timeout_seconds = timeout_seconds
        self._count = 0

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        with self._mutex:
            counted = self._kind in (None, kind)
            self._count += counted
            stops = counted and self._count == self._at
        if stops and not self._after:
            self._wait(kind, key)
        answer = send()
        if stops and self._after:
            self._wait(kind, key)
        return answer

    def _wait(self, kind: str, key: str) -> None:
        self.arrived.set()
        if not self.opened.wait(self._timeout_seconds):
            raise TimeoutError(f"{kind} of {key!r} was never let through the gate")

    def wait_until_stopped(self) -> None:
        """Returns once the request has come to the gate."""
        if not self.arrived.wait(self._timeout_seconds):
            raise TimeoutError("no request came to the gate")
