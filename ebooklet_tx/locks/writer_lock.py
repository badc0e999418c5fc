"""What any lock on a remote does while it is held: renew itself, know that it is lost, let go.

Owns the thread that renews, and the word that the lock is lost. The invariant: once the lock is known
to be lost, everything that needs it raises, for good; in a forked child nothing is held, and nothing
of the parent's is touched. What may lie in the store is known from before it is sent, so that `release` gives it
up wherever `acquire` was cut short; a lock that nobody refers to any more is not renewed.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Self

from ebooklet_tx.errors import Error, LockLostError
from ebooklet_tx.locks.lease_rules import Holder
from ebooklet_tx.locks.process_identity import new_holder
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy, patience

RENEWAL_SECONDS = 10.0
RELEASE_SECONDS = 15.0
_log = logging.getLogger("ebooklet_tx")


class HeldLock(ABC):
    """A lock on one database, for one session; how it is taken is a subclass's.

    Attributes:
        taken_over: Whether an earlier holder had not let go: then a root with a raised fence has to be
            committed before anything else.
        holder: Who we are to other writers.
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
        # Reentrant, so that whoever was interrupted while holding it can still release the lock.
        self._mutex = threading.RLock()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @abstractmethod
    def acquire(self, timeout_seconds: float, *, force: bool = False) -> None:
        """Takes the lock, waiting while somebody else holds it; then renews it in a thread."""

    @abstractmethod
    def check(self) -> None:
        """Makes sure that the lock is held.

        Raises:
            LockLostError: It is not; every change is still pending.
        """

    @abstractmethod
    def renew(self) -> None:
        """Says to other writers that the holder lives.

        Raises:
            LockLostError: Somebody else has the lock.
        """

    @abstractmethod
    def _let_go(self) -> None:
        """Gives up what is held in the store, if anything is; the mutex is held and the thread has ended."""

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
        """Notes that no earlier holder can commit any more."""
        self.taken_over = False

    # -- losing and letting go -------------------------------------------------------------

    def mark_lost(self, why: str) -> None:
        """Notes that the lock is gone, as a push found out by the root's fence."""
        self._lost = why
        self._stop.set()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise LockLostError(
                f"the lock {self._name} is lost: {self._lost}; every change is still pending: close, open "
                "again, and push"
            )

    def release(self) -> None:
        """Ends the thread, and gives up in the store what is held there, or may be.

        Twice is no error, and finishes what was cut short.
        """
        self._stop.set()
        # One that was interrupted before it ran ends by itself.
        if self._thread is not None and self._thread.ident is not None:
            self._thread.join()
        self._thread = None
        # A lock that can't be given back runs out by itself: nobody's close waits long for that.
        with self._mutex, patience(deadline_seconds=RELEASE_SECONDS):
            self._let_go()

    @contextlib.contextmanager
    def holding(self, timeout_seconds: float) -> Iterator[Self]:
        """Holds the lock for a block, however that ends.

        Raises:
            LockTimeoutError: Another writer kept it.
        """
        try:
            try:
                self.acquire(timeout_seconds)
                yield self
            finally:
                self.release()
        finally:
            # For the case that the first one was interrupted.
            self.release()

    def forget_in_child(self) -> None:
        """In a forked child: the lock is the parent's; there is no thread here to stop."""
        self._thread = None
        # The parent's thread may have held it at the fork.
        self._mutex = threading.RLock()
        self._forget()


def _renew_while_owned(owned: weakref.ref[HeldLock], stop: threading.Event, seconds: float) -> None:
    """Renews a lock every so many seconds, until it is stopped or lost, or nobody refers to it any more."""
    while not stop.wait(seconds):
        lock = owned()
        if lock is None:
            return
        try:
            # The next one comes soon, and a close waits for this one to end.
            with patience(deadline_seconds=RENEWAL_SECONDS):
                lock.renew()
        except LockLostError:
            return
        except Error as error:
            # It may still be held: the next renewal or push finds out.
            _log.warning("%s could not be renewed: %s", lock._title, error)
        del lock


__all__ = ["HeldLock"]
