"""The lease: one writer at a time, on stores with conditional writes.

Owns the object `D.lock` while it holds it. The invariant: the lease is changed only by If-Match or
If-None-Match, so that a holder that lost it learns so at its next renewal. The correctness of commits never
rests on the lease, only on the compare-and-swap of the root.
"""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import replace

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    LockTimeoutError,
    ObjectMissingError,
    ObjectTooLargeError,
    PreconditionFailedError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)
from ebooklet_tx.limits import MAX_LOCK_BYTES
from ebooklet_tx.locks.lease_rules import (
    Holder,
    LeaseRecord,
    Seen,
    Step,
    Watch,
    Written,
    decode_lease,
    encode_lease,
    judge_write,
    next_step,
    owes_fence,
    poll_seconds,
    still_holds,
    taking_pause_seconds,
    watch_on,
)
from ebooklet_tx.locks.process_identity import boot_clock, is_dead
from ebooklet_tx.locks.writer_lock import HeldLock
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.timestamps import now_us

LEASE_TTL_SECONDS = 60.0
TAKING_TRIES = 3
STALE_REFUSALS = 2
"""How often a write is refused although its ETag is right, until the store's conditions count as broken."""

_log = logging.getLogger("ebooklet_tx")


class Lease(HeldLock):
    """A lease on one database, for one session.

    Attributes:
        taken_over: Whether it was taken from a holder that had not released it. Then a root with a raised fence
            has to be committed before anything else; a release before that leaves this to the next holder.
    """

    _thread_name = "ebooklet_tx lease"

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        ttl_seconds: float = LEASE_TTL_SECONDS,
        policy: RetryPolicy | None = None,
        clock: Callable[[], float] = boot_clock,
        holder: Holder | None = None,
    ) -> None:
        super().__init__(store, key, ttl_seconds=ttl_seconds, policy=policy, clock=clock, holder=holder)
        self._etag: str | None = None
        self._claimed = False
        self._fresh_until = float("-inf")

    # -- taking ----------------------------------------------------------------------------

    def acquire(self, timeout_seconds: float, *, force: bool = False) -> None:
        """Takes the lease, waiting while another writer holds it; then renews it in a thread.

        Args:
            timeout_seconds: How long to wait.
            force: Take it over at once, even from a live holder.

        Raises:
            LockTimeoutError: The holder did not release it; the message names host, process and age.
            ConditionUnsupportedError: The store's conditional writes don't work on it.
        """
        began = self._clock()
        watch: Watch | None = None
        failures = 0
        while True:
            denied: RemoteAccessError | None = None
            try:
                seen = self.lookup()
            except RemoteAccessError as error:
                # Without the right to list, S3 answers so for a missing object, which can be created.
                seen, denied = None, error
            now = self._clock()
            dead = force or (seen is not None and seen.record is not None and is_dead(seen.record.holder))
            step = next_step(seen, watch, now, self.holder, dead=dead)
            if step is Step.WAIT and seen is not None:
                watch = watch_on(seen, watch, now)
                waited = now - began
                if waited >= timeout_seconds:
                    raise self._timeout_error(seen, waited)
                self._policy.await_lock(min(poll_seconds(waited, self._ttl_seconds), timeout_seconds - waited))
                continue
            if self._try_to_take(step, seen):
                self._start_renewing()
                return
            if denied is not None:
                raise denied
            failures += 1
            waited = self._clock() - began
            if failures >= TAKING_TRIES and waited >= timeout_seconds:
                raise LockTimeoutError(
                    f"another writer changed the lock {self._name} at each of {failures} attempts to take it, in "
                    f"{waited:.0f} seconds; wait longer with lock_timeout, or check whether the store's "
                    "conditional writes work (conditional_writes='auto' tries them)",
                    object_name=self._key,
                    operation="lock",
                )
            # A random pause, so that waiters that came too late together don't try again together.
            pause = self._policy.random() * taking_pause_seconds(failures)
            self._policy.sleep(min(pause, max(timeout_seconds - waited, 0.0)))

    def _try_to_take(self, step: Step, seen: Seen | None) -> bool:
        self._acquired_at_us = now_us()
        self.taken_over = owes_fence(step, seen)
        self._claimed = True
        if self._write(self._record(held=True), seen.etag if seen is not None else None) is None:
            self._claimed = False
            return False
        if step is Step.TAKE_OVER and seen is not None and seen.record is not None:
            _log.warning("the lock %s was taken over from %s", self._key, describe(seen.record))
        return True

    def take_over(self, seen: Seen) -> bool:
        """Takes the lease at once from the holder that was seen; False when the lease has changed since."""
        if not self._try_to_take(Step.TAKE_OVER, seen):
            return False
        self._start_renewing()
        return True

    def lookup(self) -> Seen | None:
        """Reads the lease as it is; None when there is none."""
        try:
            blob = self._store.get(self._key, max_bytes=MAX_LOCK_BYTES)
        except ObjectMissingError:
            return None
        except ObjectTooLargeError as error:
            _log.warning("%s", error)
            return Seen(error.etag, None)
        if blob is None:
            return None
        try:
            return Seen(blob.etag, decode_lease(blob.data, name=self._name))
        except RemoteIntegrityError as error:
            # An unreadable lock is treated as that of a holder that never renews.
            _log.warning("%s", error)
            return Seen(blob.etag, None)

    def _write(self, record: LeaseRecord, if_match: str | None) -> str | None:
        """Writes the lease if its ETag is still `if_match`; None when another writer was first.

        A write whose answer was lost is read back: the token tells whether the lease is ours.

        Raises:
            ConditionUnsupportedError: The write is refused although the lease has that ETag.
        """
        data = encode_lease(record)
        outcome: str | None = None
        sent_at = self._clock()
        refusals = 0
        for attempt in self._policy.attempts_for("lock", location=self._store.location, key=self._key):
            with attempt:
                try:
                    sent_at = self._clock()
                    outcome = self._store.put(self._key, data, if_match=if_match, if_absent=if_match is None)
                except PreconditionFailedError as error:
                    refusals += 1
                    outcome = self._read_back(record, if_match, error, refusals)
                except TransientStoreError as error:
                    outcome = self._read_back(record, if_match, error, refusals)
        if outcome is not None:
            self._etag = outcome
            self._fresh_until = sent_at + self._ttl_seconds * 2 / 3
        return outcome

    def _read_back(self, record: LeaseRecord, if_match: str | None, failure: Error, refusals: int) -> str | None:
        seen = self.lookup()
        written = judge_write(seen, token=record.token, if_match=if_match)
        if written is Written.OURS and seen is not None:
            return seen.etag
        if written is not Written.UNTOUCHED:
            return None
        if refusals >= STALE_REFUSALS:
            raise ConditionUnsupportedError(
                f"the lock {self._name} can't be written although it has the ETag that the condition names: the "
                "store's conditional writes don't work on it any more (was versioning switched on?)",
                object_name=self._key,
                operation="lock",
            ) from failure
        if isinstance(failure, TransientStoreError):
            raise failure
        raise TransientStoreError(str(failure), object_name=self._key, operation="lock") from None

    # -- keeping ---------------------------------------------------------------------------

    def renew(self) -> None:
        """Writes the lease again with a new token, so that its ETag changes.

        Raises:
            LockLostError: Another writer has it.
        """
        with self._mutex:
            self._raise_if_lost()
            if self._stop.is_set() or self._etag is None:
                return
            if not self._write_again(held=True):
                self._lost = "it was taken over by another writer"
                self._raise_if_lost()

    def _write_again(self, *, held: bool) -> bool:
        """Writes the lease that was ours; False when another writer has it."""
        if self._etag is not None and self._write(self._record(held=held), self._etag) is not None:
            return True
        for _ in range(TAKING_TRIES):
            seen = self.lookup()
            if seen is None or not still_holds(seen, self.holder):
                return False
            if self._write(self._record(held=held), seen.etag) is not None:
                return True
        return False

    def check(self) -> None:
        """Makes sure that the lease is held; sends no request while it is known to be fresh.

        Raises:
            LockLostError: Another writer has it; every change is still pending.
        """
        self._raise_if_lost()
        if self._clock() >= self._fresh_until:
            self.renew()
        self._raise_if_lost()

    def _release_held(self) -> None:
        """Marks the lease free; leaves a lost one alone.

        If taking it was interrupted, the owner in the lease tells whether it was taken.
        """
        if not self._claimed or self._lost is not None:
            return
        try:
            try:
                self._write_again(held=False)
            except ConditionUnsupportedError:
                # The lease still has our ETag, and no other writer can take it on a condition.
                self._store.put(self._key, encode_lease(self._record(held=False)))
        except Error as error:
            _log.warning("the lock %s could not be released; it expires by itself: %s", self._key, error)
        self._forget()

    def _forget(self) -> None:
        self._etag = None
        self._claimed = False

    # -- messages ---------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        return f"the lock {self._key}"

    def _record(self, *, held: bool) -> LeaseRecord:
        return LeaseRecord(
            held=held,
            holder=self.holder,
            token=secrets.token_hex(16),
            ttl_seconds=self._ttl_seconds,
            acquired_at_us=self._acquired_at_us,
            fence_owed=self.taken_over,
            written_at_us=now_us(),
        )

    def _timeout_error(self, seen: Seen, waited_seconds: float) -> LockTimeoutError:
        holder = describe(seen.record) if seen.record is not None else UNKNOWN_HOLDER
        return LockTimeoutError(
            f"the database is locked by {holder} (lock {self._name}), which did not release it within "
            f"{waited_seconds:.0f} seconds; wait longer with lock_timeout, or, if that writer has surely ended, "
            "use force_lock=True or 'ebooklet-tx unlock'",
            object_name=self._key,
            operation="lock",
        )


UNKNOWN_HOLDER = "an unknown writer"
"""What messages call a holder whose lock can't be read."""


def describe(record: LeaseRecord) -> str:
    """Names a holder in a message: its host, process and age."""
    age = max(0.0, time.time() - record.acquired_at_us / 1e6)
    return f"{record.holder.host}, process {record.holder.pid}, for {age:.0f} seconds"


def force_release(store: ObjectStore, key: str, seen: Seen) -> bool:
    """Marks a lease free that another writer holds; False when it has changed since it was seen.

    The next holder has to raise the root's fence first.
    """
    lease = Lease(store, key)
    return (
        lease._write(replace(lease._record(held=False), acquired_at_us=now_us(), fence_owed=True), seen.etag)
        is not None
    )
