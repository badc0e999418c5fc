"""Sends failed requests again, until a policy's attempts or its time run out.

The only module that knows tenacity. The invariants: only `TransientStoreError` is retried; a conditional put is
sent once; a request that is given up raises one `OfflineError`, which names what was tried and has the last
failure as its only cause; every wait uses the policy's own clock; an attempt that is under way at the deadline is
ended; and once a request is to be stopped, no attempt and no wait begins.
"""

from __future__ import annotations

import itertools
import logging
import random as random_module
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TypeVar

from ebooklet_tx.errors import OfflineError, TransientStoreError, UnreachableStoreError
from ebooklet_tx.stores.deadline import current_patience, deadline_at
from ebooklet_tx.stores.object_store import ByteSource, ObjectStore, StoredObject, UploadState
from ebooklet_tx.stores.request_log import attempt_number, logged
from ebooklet_tx.stores.stopping import check_stopped, current_stop
from ebooklet_tx.stores.wrapper import PassingStore

if TYPE_CHECKING:
    import tenacity

T = TypeVar("T")
_log = logging.getLogger("ebooklet_tx")
_LIST_BATCH = 1000


class _FirstAttempt:
    """An attempt that nearly always is the only one, so that tenacity is not even imported.

    Attributes:
        failure: The transient failure that it ended with.
    """

    def __init__(self, deadline: AbstractContextManager[None, bool | None]) -> None:
        self.failure: TransientStoreError | None = None
        self._deadline = deadline

    def __enter__(self) -> None:
        self._deadline.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        self._deadline.__exit__(kind, error, trace)
        self.failure = error if isinstance(error, TransientStoreError) else None
        return self.failure is not None


class _LimitedAttempt:
    """A further attempt, with the deadline of all of them.

    A class, not a generator with `contextmanager`: tenacity's attempt swallows every exception, so an interrupt
    before the `yield` would end the generator without one.
    """

    def __init__(
        self, attempt: tenacity.AttemptManager, deadline: AbstractContextManager[None, bool | None]
    ) -> None:
        self._attempt = attempt
        self._deadline = deadline

    def __enter__(self) -> None:
        self._deadline.__enter__()
        attempt_number.set(self._attempt.retry_state.attempt_number)
        self._attempt.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        self._deadline.__exit__(kind, error, trace)
        attempt_number.set(1)
        return self._attempt.__exit__(kind, error, trace)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and for how long a failed request is sent again.

    The bound of the waits grows exponentially, and each wait is drawn evenly between zero and its bound (full
    jitter). A store's Retry-After is the shortest wait. No wait begins that would end past the deadline.

    By default only the deadline ends the attempts, so that a store that restarts is waited for.

    Attributes:
        attempts: How often a request is sent at most; the default is never reached before the deadline.
        deadline_seconds: How long all attempts and waits may take together.
        base_seconds: The bound of the first wait.
        cap_seconds: The bound of any wait.
        clock: Returns seconds that never go back.
        sleep: Waits for seconds.
        lock_sleep: Waits before another look at a lock that another writer holds; None for `sleep`.
        random: Draws from 0 (included) to 1.

    Examples:
        >>> patient = ebooklet_tx.RetryPolicy(deadline_seconds=600)
        >>> with ebooklet_tx.open(remote, "other.blt", retry=patient) as other:
        ...     other["a"]
        1
    """

    attempts: int = 100
    deadline_seconds: float = 120.0
    base_seconds: float = 0.1
    cap_seconds: float = 10.0
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep
    random: Callable[[], float] = random_module.random
    lock_sleep: Callable[[float], None] | None = None

    @classmethod
    def without_backoff(cls, attempts: int = 6) -> RetryPolicy:
        """Returns a policy that never waits between attempts, whatever the store asks for; for tests.

        A lock that another writer holds is waited for all the same.
        """
        return cls(attempts=attempts, base_seconds=0.0, cap_seconds=0.0, sleep=_no_sleep, lock_sleep=time.sleep)

    def await_lock(self, seconds: float) -> None:
        """Waits before another look at a lock that another writer holds.

        Examples:
            >>> ebooklet_tx.RetryPolicy().await_lock(0.01)
        """
        (self.lock_sleep or self.sleep)(seconds)

    def call(
        self,
        operation: str,
        func: Callable[[], T],
        *,
        location: str = "",
        key: str = "",
        sent_bytes: int | None = None,
    ) -> T:
        """Returns what `func` returns, calling it again while it raises `TransientStoreError`.

        Args:
            operation: What is done, for messages and the log.
            func: Sends the request.
            location: Where, for messages.
            key: The object's name.
            sent_bytes: How many bytes the request's body has, for the log.

        Raises:
            OfflineError: The attempts or the time ran out; the last failure is its cause.
        """
        started = self.clock()
        at = started + self._deadline_seconds()
        numbers = itertools.count(1)
        failures: list[TransientStoreError] = []

        def attempt() -> T:
            if failures:  # The attempt that was made counts as the first.
                raise failures.pop()
            check_stopped()
            number = next(numbers)
            with deadline_at(self.clock, at):
                return logged(operation, key, func, attempt=number, clock=self.clock, sent_bytes=sent_bytes)

        try:
            # Nearly always the only one, so tenacity is not even imported.
            return attempt()
        except TransientStoreError as error:
            failures.append(error)
        import tenacity

        try:
            return self._retrying(started)(attempt)
        except tenacity.RetryError as error:
            last = error.last_attempt
        # Not in the handler: a traceback would show tenacity's own error beside ours.
        raise self._given_up(operation, location, key, started, last) from _without_frames(last)

    def attempts_for(
        self, operation: str, *, location: str = "", key: str = ""
    ) -> Iterator[AbstractContextManager[None, bool | None]]:
        """Yields context managers, one per attempt, until one ends without `TransientStoreError`.

        Examples:
            for attempt in policy.attempts_for("commit"):
                with attempt:
                    answer = store.head(root)

        Raises:
            OfflineError: The attempts or the time ran out; the last failure is its cause.
        """
        started = self.clock()
        at = started + self._deadline_seconds()
        first = _FirstAttempt(deadline_at(self.clock, at))
        yield first
        failure = first.failure
        if failure is None:
            return
        import tenacity

        try:
            for attempt in self._retrying(started):
                if failure is not None:  # The attempt that was made counts as the first.
                    with attempt:
                        again, failure = failure, None
                        raise again
                    continue
                yield _LimitedAttempt(attempt, deadline_at(self.clock, at))
        except tenacity.RetryError as error:
            last = error.last_attempt
        else:
            return
        raise self._given_up(operation, location, key, started, last) from _without_frames(last)

    def _deadline_seconds(self) -> float:
        patience = current_patience()
        left_seconds = patience.ends_at - time.monotonic()
        return min(self.deadline_seconds, patience.deadline_seconds, left_seconds)

    def _retrying(self, started: float) -> tenacity.Retrying:
        import tenacity

        deadline_seconds = self._deadline_seconds()
        unreachable_seconds = current_patience().unreachable_seconds
        stopping = current_stop()

        def stop(state: tenacity.RetryCallState) -> bool:
            if stopping is not None and stopping.is_set:
                return True
            until = self.clock() - started + state.upcoming_sleep
            late = until > deadline_seconds
            if isinstance(_failure(state), UnreachableStoreError):
                late = late or until > unreachable_seconds
            return late or state.attempt_number >= self.attempts

        return tenacity.Retrying(
            # A wait in a thread that may be stopped ends then.
            sleep=stopping.pause if stopping is not None and self.sleep is time.sleep else self.sleep,
            stop=stop,
            wait=self._wait_seconds,
            retry=tenacity.retry_if_exception_type(TransientStoreError),
        )

    def _given_up(
        self, operation: str, location: str, key: str, started: float, last: tenacity.Future
    ) -> OfflineError:
        words = (operation, f"of {key!r}" if key else "", f"at {location}" if location else "")
        return OfflineError(
            f"{' '.join(filter(None, words))} was given up after {last.attempt_number} attempts in "
            f"{self.clock() - started:.1f} s; local work is kept, try again later. "
            f"Last failure: {last.exception()}",
            object_name=key or None,
            operation=operation,
        )

    def _wait_seconds(self, state: tenacity.RetryCallState) -> float:
        # The exponent is bounded: past it every cap is reached, and a float would overflow.
        bound_seconds = min(self.cap_seconds, self.base_seconds * 2.0 ** min(state.attempt_number - 1, 60))
        failure = _failure(state)
        asked_seconds = failure.retry_after_seconds if isinstance(failure, TransientStoreError) else None
        return max(self.random() * bound_seconds, asked_seconds or 0.0)


def _no_sleep(_seconds: float) -> None: ...


def _failure(state: tenacity.RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None


def _without_frames(last: tenacity.Future) -> BaseException | None:
    """Returns the last failure without its traceback, which lies within the retries; its message says all."""
    failure = last.exception()
    return failure.with_traceback(None) if failure is not None else None


class RetryingStore(PassingStore):
    """An object store that sends failed requests of another one again.

    A conditional put is sent once. After a failure only the caller can tell, by reading back, whether it took
    effect; a second one would report the success of the first as a conflict.
    """

    def __init__(self, inner: ObjectStore, policy: RetryPolicy | None = None) -> None:
        super().__init__(inner)
        self.policy = policy if policy is not None else RetryPolicy()

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Writes the whole object; with a condition it is sent once and a failure is the caller's."""

        def send() -> str:
            return self.inner.put(key, data, if_match=if_match, if_absent=if_absent, metadata=metadata)

        if if_match is not None or if_absent:
            size, number = len(data), attempt_number.get()
            return logged("put", key, send, attempt=number, clock=self.policy.clock, sent_bytes=size)
        return self.policy.call("put", send, location=self.location, key=key, sent_bytes=len(data))

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Writes an object in parts, resuming after the last part that arrived.

        The policy limits the time without progress, not the time of the whole upload: whenever a new part
        arrived before a failure, attempts and time are counted from zero again.
        """
        upload = _Upload(key, resume, on_part)

        def attempt() -> str:
            return self.inner.put_parts(
                key, source, part_bytes=part_bytes, resume=upload.state, on_part=upload.advance
            )

        while True:
            arrived_before = upload.most_parts
            try:
                size = source.size_bytes
                return self.policy.call("put_parts", attempt, location=self.location, key=key, sent_bytes=size)
            except OfflineError:
                if upload.most_parts <= arrived_before:
                    raise

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Yields the objects whose names begin with `prefix`, each once."""
        yielded: set[str] = set()
        listing: Iterator[StoredObject] | None = None

        def next_batch() -> tuple[StoredObject, ...]:
            nonlocal listing
            # A failed listing can't be resumed: it is begun again, without what was yielded already.
            current, listing = listing, None
            if current is None:
                current = (found for found in self.inner.list(prefix) if found.key not in yielded)
            batch = tuple(itertools.islice(current, _LIST_BATCH))
            listing = current
            return batch

        while batch := self._pass("list", prefix, next_batch):
            yielded.update(found.key for found in batch)
            yield from batch

    def _pass(self, kind: str, key: str, send: Callable[[], T]) -> T:
        return self.policy.call(kind, send, location=self.location, key=key)


class _Upload:
    """The progress of an upload over all its attempts."""

    def __init__(
        self, key: str, state: UploadState | None, on_part: Callable[[UploadState], None] | None
    ) -> None:
        self._key = key
        self.state = state
        self.most_parts = len(state.parts) if state is not None else 0
        self._on_part = on_part

    def advance(self, state: UploadState) -> None:
        self.state = state
        _log.debug("part %d of %r arrived", len(state.parts), self._key)
        # Never lowered, so that an upload that the store drops again and again makes no progress.
        self.most_parts = max(self.most_parts, len(state.parts))
        if self._on_part is not None:
            self._on_part(state)
