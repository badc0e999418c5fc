"""The lease: one writer at a time, on stores with conditional writes.

Owns the object `D.lock` while it holds it. The invariant: the lease is changed only by If-Match or
If-None-Match, so that whoever lost it finds out at the next renewal; the correctness of commits never
rests on it, only on the compare-and-swap of the root.
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
"""How often a write is refused, with the very ETag there before and after, until conditions count as broken."""

_log = logging.getLogger("ebooklet_tx")


class Lease(HeldLock):
    """A lease on one database, for one session.

    Attributes:
        taken_over: Whether an earlier holder had not let go: then a root with a raised fence has to be
            committed before anything else. Until that is done, freeing it passes the debt on.
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
        """Takes the lease, waiting while somebody else holds it; then renews it in a thread.

        Args:
            timeout_seconds: How long to wait.
            force: Take it over at once, whoever holds it.

        Raises:
            LockTimeoutError: Its holder kept it; the message names holder, host, pid and age.
            ConditionUnsupportedError: The store's conditional writes don't work on it.
        """
        began = self._clock()
        watch: Watch | None = None
        failures = 0
        while True:
            denied: RemoteAccessError | None = None
            try:
                seen = self._lookup()
            except RemoteAccessError as error:
                # Without the right to list, S3 says so of an object that is missing: then it can be created.
                seen, denied = None, error
            now = self._clock()
            dead = force or (seen is not None and seen.record is not None and is_dead(seen.record.holder))
            step = next_step(seen, watch, now, self.holder, dead=dead)
            if step is Step.WAIT and seen is not None:
                watch = watch_on(seen, watch, now)
                waited = now - began
                if waited >= timeout_seconds:
                    raise LockTimeoutError(self._who_holds(seen, waited))
                self._policy.sleep(min(poll_seconds(waited, self._ttl_seconds), timeout_seconds - waited))
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
                    f"the lock {self._name} changed whenever it was to be taken, {failures} times in "
                    f"{waited:.0f} seconds; wait longer with lock_timeout, or see whether the store's "
                    "conditional writes work (conditional_writes='auto' tries them)"
                )
            # Those who came too late at the same moment go apart.
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
        """Takes the lease from a holder as it was seen, at once; False when it has changed since."""
        if not self._try_to_take(Step.TAKE_OVER, seen):
            return False
        self._start_renewing()
        return True

    def lookup(self) -> Seen | None:
        """Reads the lease as it is; None when there is none."""
        return self._lookup()

    def _lookup(self) -> Seen | None:
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
            # Garbage in the lock's place is treated as a holder who never renews.
            _log.warning("%s", error)
            return Seen(blob.etag, None)

    def _write(self, record: LeaseRecord, if_match: str | None) -> str | None:
        """Writes the lease if it is as it was seen; None when somebody came first.

        A write whose answer was lost is read back: the token tells whose it is.

        Raises:
            ConditionUnsupportedError: It is refused again and again although it is as it was seen.
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
        seen = self._lookup()
        written = judge_write(seen, token=record.token, if_match=if_match)
        if written is Written.OURS and seen is not None:
            return seen.etag
        if written is not Written.UNTOUCHED:
            return None
        if refusals >= STALE_REFUSALS:
            raise ConditionUnsupportedError(
                f"the lock {self._name} can't be written although it has the very ETag that was asked for: the "
                "store's conditional writes don't work on it any more (was versioning switched on?)"
            ) from failure
        raise failure if isinstance(failure, TransientStoreError) else TransientStoreError(str(failure))

    # -- keeping ---------------------------------------------------------------------------

    def renew(self) -> None:
        """Writes the lease anew.

        Raises:
            LockLostError: Somebody else has it.
        """
        with self._mutex:
            self._raise_if_lost()
            if self._stop.is_set() or self._etag is None:
                return
            if not self._write_again(held=True):
                self._lost = "it was taken over by another writer"
                self._raise_if_lost()

    def _write_again(self, *, held: bool) -> bool:
        """Writes the lease that was ours; False when it is somebody else's."""
        if self._etag is not None and self._write(self._record(held=held), self._etag) is not None:
            return True
        for _ in range(TAKING_TRIES):
            seen = self._lookup()
            if seen is None or not still_holds(seen, self.holder):
                return False
            if self._write(self._record(held=held), seen.etag) is not None:
                return True
        return False

    def check(self) -> None:
        """Makes sure that the lease is held; no request while it is known to be fresh.

        Raises:
            LockLostError: Somebody else has it; every change is still pending.
        """
        self._raise_if_lost()
        if self._clock() >= self._fresh_until:
            self.renew()
        self._raise_if_lost()

    def _let_go(self) -> None:
        """Marks the lease free; one that is lost is left alone.

        Where taking it was cut short, its owner's name in it tells whether it was taken.
        """
        if not self._claimed or self._lost is not None:
            return
        try:
            try:
                self._write_again(held=False)
            except ConditionUnsupportedError:
                # The very ETag that is ours is there, and nobody can take the lease on a condition.
                self._store.put(self._key, encode_lease(self._record(held=False)))
        except Error as error:
            _log.warning("the lock %s could not be released and will run out: %s", self._key, error)
        self._forget()

    def _forget(self) -> None:
        self._etag = None
        self._claimed = False

    # -- words -----------------------------------------------------------------------------

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

    def _who_holds(self, seen: Seen, waited_seconds: float) -> str:
        who = describe(seen.record) if seen.record is not None else "somebody unknown"
        return (
            f"the database is locked by {who} (lock {self._name}); it did not let go within "
            f"{waited_seconds:.0f} seconds; wait longer with lock_timeout, or, when that writer is surely gone, "
            "use force_lock=True or 'python -m ebooklet_tx unlock'"
        )


def describe(record: LeaseRecord) -> str:
    """Names a holder for people: its host, process and age."""
    age = max(0.0, time.time() - record.acquired_at_us / 1e6)
    return f"{record.holder.host}, process {record.holder.pid}, for {age:.0f} seconds"


def force_release(store: ObjectStore, key: str, seen: Seen) -> bool:
    """Marks a lease free that is held by somebody, as it was seen; False when it has changed since.

    Whoever takes it next has to raise the root's fence first.
    """
    lease = Lease(store, key)
    return (
        lease._write(replace(lease._record(held=False), acquired_at_us=now_us(), fence_owed=True), seen.etag)
        is not None
    )
