"""Taking locks away from other writers: those that are gone, and, when told to, those that live.

The invariant: a lock is taken away only as it was seen, so that a holder that renews it at the same moment keeps
it; and a writer that loses one can't commit any more without finding out.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from ebooklet_tx.errors import LockHeldError, LockTimeoutError, ObjectMissingError
from ebooklet_tx.locks.lease import UNKNOWN_HOLDER, Lease, describe, force_release
from ebooklet_tx.locks.lease_rules import LeaseRecord, Seen, Watch, poll_seconds
from ebooklet_tx.locks.process_identity import is_dead
from ebooklet_tx.locks.tickets import read_tickets
from ebooklet_tx.sync.commit.fencing import fence_off
from ebooklet_tx.sync.locking import new_lock
from ebooklet_tx.sync.remote import Remote

UNKNOWN_TTL_SECONDS = 60.0
BREAKING_TIMEOUT_SECONDS = 30.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LockThere:
    """A lock as it lies in the store.

    Attributes:
        key: Its object's key.
        etag: Its object's ETag.
        record: What it says; None when that can't be understood.
        is_lease: Whether it is the lease, and not a ticket.
    """

    key: str
    etag: str
    record: LeaseRecord | None
    is_lease: bool

    def describe(self) -> str:
        """Names its holder for people."""
        return describe(self.record) if self.record is not None else UNKNOWN_HOLDER

    @property
    def may_live(self) -> bool:
        """False when no writer of ours holds it, or one that is dead for certain."""
        return self.record is not None and not is_dead(self.record.holder)


@dataclass(frozen=True, slots=True)
class BrokenLock:
    """A lock that was broken: whose it was, and when it was taken, by the store's clock where that is known."""

    owner: str
    host: str
    pid: int
    taken_at_us: int


def held_locks(remote: Remote) -> list[LockThere]:
    """Returns the lease, if it is held, and all tickets."""
    held = []
    if remote.mode.swaps:
        seen = Lease(remote.store, remote.names.lock, policy=remote.policy).lookup()
        if seen is not None and (seen.record is None or seen.record.held):
            held.append(LockThere(remote.names.lock, seen.etag, seen.record, is_lease=True))
    for found, record in read_tickets(remote.store, remote.names.lock):
        held.append(LockThere(found.key, found.etag, record, is_lease=False))
    return held


def unlock(remote: Remote, *, force: bool = False, watch_seconds: float = 0.0) -> str | None:
    """Removes whatever lock there is; tells who held it, None when nobody did, or gave it back by itself.

    Args:
        remote: The remote.
        force: Whether it is removed although its holder may live.
        watch_seconds: How long to watch a lock whose holder may live: one that is not renewed for its whole
            TTL meanwhile counts as a dead one's.

    Raises:
        LockHeldError: Its holder may live, or renewed it at this very moment.
    """
    taken = []
    for lock in held_locks(remote) if force else _silent_locks(remote, watch_seconds):
        if not lock.is_lease:
            remote.store.delete(lock.key)
        elif not force_release(remote.store, lock.key, Seen(lock.etag, lock.record)):
            holders = [again.describe() for again in held_locks(remote) if again.is_lease]
            if holders:
                raise LockHeldError(
                    f"the lock {lock.key!r} at {remote.store.location} changed while it was taken away: its "
                    f"holder, {holders[0]}, is alive"
                )
            # Given back, or taken away by another, at the same moment.
            continue
        taken.append(lock)
    leases = [lock.describe() for lock in taken if lock.is_lease]
    if leases:
        return leases[0]
    return f"{len(taken)} tickets" if taken else None


def _silent_locks(remote: Remote, watch_seconds: float) -> list[LockThere]:
    """Returns the locks that are held, once no holder of any of them can be alive."""
    policy = remote.policy
    began = policy.clock()
    watches: dict[str, Watch] = {}
    while True:
        held = held_locks(remote)
        now = policy.clock()
        living = [lock for lock in held if lock.may_live and not _stood_still(lock, watches, now)]
        if not living:
            return held
        waited = now - began
        if waited >= watch_seconds:
            raise _refusal(remote, living[0], waited)
        poll = poll_seconds(waited, _ttl_seconds(living[0]))
        policy.await_lock(min(poll, watch_seconds - waited))


def _stood_still(lock: LockThere, watches: dict[str, Watch], now: float) -> bool:
    """True once a lock has had one ETag for its whole TTL."""
    watch = watches.get(lock.key)
    if watch is None or watch.etag != lock.etag:
        watch = watches[lock.key] = Watch(lock.etag, now)
    return now - watch.since_seconds >= _ttl_seconds(lock)


def _ttl_seconds(lock: LockThere) -> float:
    return lock.record.ttl_seconds if lock.record is not None else UNKNOWN_TTL_SECONDS


def _refusal(remote: Remote, lock: LockThere, waited_seconds: float) -> LockHeldError:
    return LockHeldError(
        f"the lock {lock.key!r} at {remote.store.location} is held by {lock.describe()}, who may be at work; "
        f"nothing was changed (watched for {waited_seconds:.0f} seconds). Watched for its whole TTL of "
        f"{_ttl_seconds(lock):.0f} seconds (lock_timeout, --lock-timeout), a lock that is not renewed counts as "
        "a dead one's; force=True, or --force, takes it from a living holder too"
    )


def break_locks(remote: Remote, *, before: datetime | None = None) -> list[BrokenLock]:
    """Breaks other writers' locks, live ones too, and fences their holders off; returns what was broken.

    Where conditional writes work the lease is taken over, the root's fence is raised, and the lease is given
    back: a holder's next commit fails. A ticket is looked for by its holder before and after each commit.

    Args:
        remote: The remote.
        before: Only those taken before that time, by the store's clock; None for all.

    Raises:
        LockTimeoutError: The lease changed hands all the time.
        OfflineError: The store keeps failing.
    """
    chosen = [lock for lock in held_locks(remote) if before is None or _taken_at(remote, lock) < before]
    broken = [_broken(remote, lock) for lock in chosen]
    for lock in chosen:
        if lock.is_lease:
            _break_lease(remote, lock, before)
        else:
            remote.store.delete(lock.key)
    if chosen and not remote.mode.swaps and not read_tickets(remote.store, remote.names.lock):
        turn = new_lock(remote)
        turn.acquire(BREAKING_TIMEOUT_SECONDS)
        try:
            fence_off(remote)
        finally:
            turn.release()
    return broken


def _break_lease(remote: Remote, lock: LockThere, before: datetime | None) -> None:
    """Takes a lease over and gives it back; one that is renewed meanwhile is looked at again."""
    lease = Lease(remote.store, remote.names.lock, policy=remote.policy)
    began = remote.policy.clock()
    while not lease.take_over(Seen(lock.etag, lock.record)):
        again = [found for found in held_locks(remote) if found.is_lease]
        if not again or (before is not None and _taken_at(remote, again[0]) >= before):
            return
        lock = again[0]
        waited = remote.policy.clock() - began
        if waited >= BREAKING_TIMEOUT_SECONDS:
            raise LockTimeoutError(
                f"the lock {lock.key!r} at {remote.store.location} changed all the time; try again"
            )
        remote.policy.await_lock(poll_seconds(waited, _ttl_seconds(lock)))
    try:
        fence_off(remote)
        lease.fence_raised()
    finally:
        lease.release()


def _taken_at(remote: Remote, lock: LockThere) -> datetime:
    """Returns when a lock was taken, by the store's clock: its last write, less how long it was held by then."""
    record = lock.record
    held_for_us = max(0, record.written_at_us - record.acquired_at_us) if record is not None else 0
    try:
        written = remote.store.head(lock.key).last_modified
    except ObjectMissingError:
        written = None
    if written is not None:
        return written - timedelta(microseconds=held_for_us)
    return _EPOCH + timedelta(microseconds=record.acquired_at_us if record is not None else 0)


def _broken(remote: Remote, lock: LockThere) -> BrokenLock:
    taken_at_us = max(0, (_taken_at(remote, lock) - _EPOCH) // timedelta(microseconds=1))
    if lock.record is None:
        return BrokenLock("unknown", "unknown", 0, taken_at_us)
    holder = lock.record.holder
    return BrokenLock(holder.owner, holder.host, holder.pid, taken_at_us)


__all__ = ["BrokenLock", "LockThere", "break_locks", "held_locks", "unlock"]
