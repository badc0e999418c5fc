"""What every lock on a remote does while it is held: renew itself, notice that it is lost, release itself.

Owns the thread that renews, and the fact that the lock is lost. The invariants: once the lock is known to be
lost, everything that needs it raises, for good; a forked child holds nothing and touches nothing of its parent;
what may lie in the store is recorded before it is sent, so that `release` removes it wherever `acquire` was
interrupted; and a lock without references is not renewed.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

from ebooklet_tx.ending import interrupts
from ebooklet_tx.errors import Error, LockLostError
from ebooklet_tx.locks.lease_rules import Holder
from ebooklet_tx.locks.process_identity import new_holder
from ebooklet_tx.stores.deadline import patience
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy

RENEWAL_SECONDS = 10.0
RELEASE_SECONDS = 15.0
INTERRUPTED_SECONDS = 1.0
"""How long the release of a lock is tried after Ctrl-C; then it is left to expire."""

_log = logging.getLogger("ebooklet_tx")


class HeldLock(ABC):
    """A lock on one database, for one session; a subclass decides how it is taken.

    Attributes:
        taken_over: Whether it was taken from a holder that had not released it. Then a root with a raised fence
            has to be committed before anything else.
        holder: This session, as other writers see it.
    """

    _thread_name = "ebooklet_tx lock"

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        ttl_seconds: float,
        policy: RetryPolicy | None,
        clock: Callable[[], float],
        holder: Holder | None,
    ) -> None:
        self.taken_over = False
        self.holder = holder or new_holder()
        self._store = store
        self._key = key
        self._ttl_seconds = ttl_seconds
        self._policy = policy or RetryPolicy()
        self._clock = clock
        self._acquired_at_us = 0
        self._lost: str | None = None
        # Reentrant, so that a thread that was interrupted while it held the mutex can still release the lock.
        self._mutex = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def acquire(self, timeout_seconds: float, *, force: bool = False) -> None:
        """Takes the lock, waiting while another writer holds it; then renews it in a thread."""

    @abstractmethod
    def check(self) -> None:
        """Makes sure that the lock is held.

        Raises:
            LockLostError: It is not; every change is still pending.
        """

    @abstractmethod
    def renew(self) -> None:
        """Shows other writers that the holder still runs.

        Raises:
            LockLostError: Another writer has the lock.
        """

    @abstractmethod
    def _release_held(self) -> None:
        """Releases what is held in the store, if anything is; the mutex is held and the thread has ended."""

    @abstractmethod
    def _forget(self) -> None:
        """Forgets what is held, without a request."""

    @property
    @abstractmethod
    def _title(self) -> str:
        """What warnings call this lock."""

    @property
    def _name(self) -> str:
        return f"{self._key!r} at {self._store.location}"

    # -- keeping ---------------------------------------------------------------------------

    def _start_renewing(self) -> None:
        stop = self._stop
        arguments = (weakref.ref(self, lambda _: stop.set()), stop, self._ttl_seconds / 3)
        self._thread = threading.Thread(
            target=_renew_while_owned, args=arguments, name=self._thread_name, daemon=True
        )
        self._thread.start()

    def fence_raised(self) -> None:
        """Records that no earlier holder can commit any more."""
        self.taken_over = False

    # -- losing and releasing --------------------------------------------------------------

    def mark_lost(self, why: str) -> None:
        """Records that the lock is lost, as a push learns from the root's fence."""
        self._lost = why
        self._stop.set()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LockLostError(
                f"the lock {self._name} is lost: {self._lost}; every change is still pending: close, open "
                "again, and push",
                object_name=self._key,
            )

    def release(self) -> None:
        """Ends the thread, and removes from the store what is held there, or may be.

        Calling it again is no error, and finishes what was interrupted. While Ctrl-C is being handled, it is not
        tried for long, and after a second one not at all where the store does not answer at once.
        """
        self._stop.set()
        seconds = {0: math.inf, 1: INTERRUPTED_SECONDS}.get(interrupts(), 0.0)
        ends_at = time.monotonic() + seconds
        # A thread that was interrupted before it ran ends by itself.
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join(None if seconds == math.inf else seconds)
            if self._thread.is_alive():
                # It is renewing the lock at this moment, and ends after that.
                _log.warning("%s is not released, as it is just being renewed; it expires by itself", self._title)
                return
        self._thread = None
        # A lock that can't be released expires by itself, so closing does not wait long for it.
        left_seconds = max(ends_at - time.monotonic(), 0.0)
        with self._mutex, patience(deadline_seconds=RELEASE_SECONDS, block_seconds=left_seconds):
            self._release_held()

    @contextlib.contextmanager
    def holding(self, timeout_seconds: float) -> Iterator[Self]:
        """Holds the lock for a block, however that ends.

        Raises:
            LockTimeoutError: Another writer did not release it.
        """
        try:
            try:
                self.acquire(timeout_seconds)
                yield self
            finally:
                self.release()
        finally:
            # In case the first one was interrupted.
            self.release()

    def forget_in_child(self) -> None:
        """In a forked child: the lock is the parent's; there is no thread here to stop."""
        self._thread = None
        # A thread of the parent may have held the mutex at the fork.
        self._mutex = threading.RLock()
        self._forget()


def _renew_while_owned(owned: weakref.ref[HeldLock], stop: threading.Event, seconds: float) -> None:
    """Renews a lock every so many seconds, until it is stopped or lost, or has no references any more."""
    while not stop.wait(seconds):
        lock = owned()
        if lock is None:
            return
        try:
            # The next renewal comes soon, and a close waits for this one.
            with patience(deadline_seconds=RENEWAL_SECONDS):
                lock.renew()
        except LockLostError:
            return
        except Error as error:
            # It may still be held: the next renewal or push learns whether it is.
            _log.warning("%s could not be renewed: %s", lock._title, error)
        del lock


__all__ = ["HeldLock"]
