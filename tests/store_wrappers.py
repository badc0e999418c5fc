"""Object stores around object stores: one counts, one fails on purpose, one waits to be let on.

All of them speak the whole protocol, as `PassingStore` does, and number their requests from 1.
"""

from __future__ import annotations

import fnmatch
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.wrapper import PassingStore

T = TypeVar("T")

KINDS = ("get", "get_range", "head", "put", "put_parts", "part", "list", "delete", "copy")


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


def faulty(*faults: Fault) -> Callable[[ObjectStore], FaultyStore]:
    """Makes a store fail as planned, to be given where a store may be wrapped."""
    return lambda inner: FaultyStore(inner, faults)


class HookedStore(PassingStore):
    """Calls something once, before or after the first request of one kind for an object.

    Attributes:
        key: The object's key, or a pattern as of a shell.
        kind: The kind of request, of `KINDS`.
        before: What is called before the request is sent; None once it has been.
        after: What is called when the request has taken effect; None once it has been.
    """

    def __init__(
        self, inner: ObjectStore, key: str, *, kind: str = "put", before: Any = None, after: Any = None
    ) -> None:
        super().__init__(inner)
        self.key = key
        self.kind = kind
        self.before = before
        self.after = after

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        meant = kind == self.kind and fnmatch.fnmatchcase(key, self.key)
        before = self.before if meant else None
        if before is not None:
            self.before = None
            before()
        answer = send()
        after = self.after if meant else None
        if after is not None:
            self.after = None
            after()
        return answer


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


__all__ = [
    "KINDS",
    "CountingStore",
    "Fault",
    "FaultyStore",
    "GatedStore",
    "HookedStore",
    "PassingStore",
    "faulty",
]
