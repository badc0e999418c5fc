"""For users' own tests: remotes in memory, stores that fail, count or wait on command, and retries without waits.

The invariants: what is counted, failed or stopped is each attempt of a request, below the retries; and outside of
the blocks of these context managers everything is as in production.

`memory://name` is accepted wherever a URL of a remote is.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from ebooklet_tx.connection.memory import MemoryConnection
from ebooklet_tx.errors import TransientStoreError
from ebooklet_tx.stores.factory import policy_everywhere
from ebooklet_tx.stores.memory import clear_stores
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.wrapper import PassingStore
from ebooklet_tx.sync import connecting

T = TypeVar("T")
S = TypeVar("S", bound=ObjectStore)

KINDS = ("get", "get_range", "head", "put", "put_parts", "part", "list", "delete", "copy")
"""The kinds of requests. An upload in parts is one `put_parts` and a `part` for each part that arrived."""


def clear(name: str | None = None) -> None:
    """Empties the remote in memory of a name, or all of them; a session that is open on one finds it gone.

    Args:
        name: The name, as in `memory://name`; None for all.

    Examples:
        >>> with ebooklet_tx.open("memory://stations", "stations.blt", "c", "str") as stations:
        ...     stations["a"] = "1"
        ...     bool(stations.changes().push())
        True
        >>> testing.clear("stations")
        >>> bool(ebooklet_tx.connect("memory://stations").open())
        False
    """
    clear_stores(name)


@contextlib.contextmanager
def wrapped_stores(wrap: Callable[[ObjectStore], S]) -> Iterator[list[S]]:
    """Puts a store of yours around the store of each remote that this thread opens in the block.

    It stays around it as long as the session lives, below the retries.

    Args:
        wrap: Called with the store that a connection names; returns one that passes requests on to it, such as
            `CountingStore`.

    Yields:
        The stores that `wrap` returned, in order; it grows with each remote that is opened.

    Examples:
        >>> with testing.wrapped_stores(testing.CountingStore) as stores:
        ...     other = ebooklet_tx.open(remote, "other.blt", "r")
        >>> stores[0].reset()
        >>> other["a"], stores[0].total  # So small a value came with the index.
        (1, 0)
        >>> other.close()
    """
    made: list[S] = []

    def wrap_and_note(inner: ObjectStore) -> ObjectStore:
        made.append(wrap(inner))
        return made[-1]

    with connecting.wrapped_stores(wrap_and_note):
        yield made


@contextlib.contextmanager
def without_backoff(attempts: int = 6) -> Iterator[None]:
    """Takes away the waits between the attempts of a request, for each remote that is opened in the block.

    It holds in all threads of the process. A `retry=` that is given counts before it; waits for locks stay, as
    `lock_timeout` says, and so does what a store asks for by Retry-After.

    Args:
        attempts: How often a request is sent before `OfflineError` is raised.

    Examples:
        >>> def always_failing(inner):
        ...     return testing.FaultyStore(inner, error=ebooklet_tx.errors.TransientStoreError("503"))
        >>> with testing.without_backoff(3), testing.wrapped_stores(always_failing):
        ...     ebooklet_tx.open("memory://stations", "new.blt", "r")  # doctest: +IGNORE_EXCEPTION_DETAIL
        Traceback (most recent call last):
        OfflineError: get of 'stations' at memory://stations was given up after 3 attempts in 0.0 s; ...
    """
    with policy_everywhere(RetryPolicy(attempts=attempts, base_seconds=0.0, cap_seconds=0.0)):
        yield


class CountingStore(PassingStore):
    """Counts requests by kind, and the bytes of bodies up and down.

    Attributes:
        requests: How many requests of each kind of `KINDS` were made.
        bytes_up: The bytes of all writes, those of failed ones included.
        bytes_down: The bytes of all reads.
        log: Kind and key of each request, in order.

    Examples:
        >>> with testing.wrapped_stores(testing.CountingStore) as stores:
        ...     with ebooklet_tx.open(remote, "other.blt", "w", lock=None) as other:
        ...         stores[0].reset()
        ...         other["c"] = 3
        ...         bool(other.changes().push())
        True
        >>> stores[0].requests["put"], stores[0].bytes_up > 0
        (1, True)
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


def _on_purpose() -> BaseException:
    return TransientStoreError("failed on purpose")


@dataclass(frozen=True)
class Fault:
    """One failure on purpose.

    Attributes:
        at: The number, from 1, of the request to fail, counted among those that `kind` names.
        error: What is raised; a `TransientStoreError`, after which the request is sent again, when none is given.
        after: Whether the request takes effect first, as when its answer is lost.
        kind: The kind of request that is counted; None for any.
    """

    at: int
    error: BaseException = field(default_factory=_on_purpose)
    after: bool = False
    kind: str | None = None


class FaultyStore(PassingStore):
    """Fails the requests that a plan names, before or after they take effect, or all of them on command.

    Attributes:
        plan: The failures.
        raised: Those of them that have taken place.
        error: While it is set, every request raises it, and none takes effect.

    Examples:
        >>> faults = [testing.Fault(at=1, kind="put", after=True)]
        >>> with testing.wrapped_stores(lambda inner: testing.FaultyStore(inner, faults)) as stores:
        ...     with ebooklet_tx.open("memory://stations", "stations.blt", "c", "str", lock=None) as stations:
        ...         stations["a"] = "1"
        ...         bool(stations.changes().push())  # The lost answer is found out.
        True
        >>> [fault.at for fault in stores[0].raised]
        [1]
    """

    def __init__(
        self, inner: ObjectStore, plan: Sequence[Fault] = (), *, error: BaseException | None = None
    ) -> None:
        super().__init__(inner)
        self.plan = list(plan)
        self.raised: list[Fault] = []
        self.error = error
        self._counts: Counter[str | None] = Counter()

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        fault = self._next_fault(kind)
        if self.error is not None:
            raise self.error
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

    Examples:
        >>> import threading
        >>> with testing.wrapped_stores(lambda inner: testing.GatedStore(inner, 1, kind="put")) as stores:
        ...     other = ebooklet_tx.open(remote, "other.blt", "w", lock=None)
        >>> other["c"] = 3
        >>> pushing = threading.Thread(target=other.changes().push)
        >>> pushing.start()
        >>> stores[0].wait_until_stopped()
        >>> db.changes().pull().changed  # Nothing is published yet.
        False
        >>> stores[0].opened.set()
        >>> pushing.join()
        >>> db.changes().pull().changed
        True
        >>> other.close()
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
        """Returns once the request has come to the gate.

        Raises:
            TimeoutError: None came in the time allowed.
        """
        if not self.arrived.wait(self._timeout_seconds):
            raise TimeoutError("no request came to the gate")


__all__ = [
    "clear",
    "wrapped_stores",
    "without_backoff",
    "CountingStore",
    "Fault",
    "FaultyStore",
    "GatedStore",
    "MemoryConnection",
    "ObjectStore",
    "KINDS",
]
