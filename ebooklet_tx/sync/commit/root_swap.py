"""Swapping a commit in: one write of the root, in the mode in which the database's commits are made.

The invariant: whatever is not a plain success is read back before it means anything. An answer may be lost, and a
store may report a loser's or a winner's write in any way it likes.
"""

from __future__ import annotations

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    OfflineError,
    PreconditionFailedError,
    TransientStoreError,
)
from ebooklet_tx.sync.commit.change_mode import change_mode, put_if_base, write_under_ticket
from ebooklet_tx.sync.commit.read_back import Outcome, Swap, is_base_there, read_back
from ebooklet_tx.sync.commit.writer_locks import WriterLocks
from ebooklet_tx.sync.remote import Remote

STALE_REFUSALS = 2
"""How often a swap is refused, with the very ETag there before and after, until conditions are doubted."""


def swap_root(remote: Remote, locks: WriterLocks, swap: Swap) -> Outcome:
    """Writes a commit's root if the root that it was built on is still there.

    Raises:
        LockTimeoutError: Another writer kept a lock that this commit needs; every operation is pending.
        OfflineError: The store keeps failing; every operation is pending.
    """
    if swap.commit.swaps and not swap.commit.changes_mode:
        return _swap_if_unchanged(remote, swap)
    try:
        if swap.commit.changes_mode:
            return change_mode(remote, locks, swap)
        return _write_in_turn(remote, locks, swap)
    except TransientStoreError as error:
        raise OfflineError(
            f"the commit did not arrive at {remote.root_place}, or does not show yet; every operation is "
            f"pending, push again. Last failure: {error}"
        ) from error


def _swap_if_unchanged(remote: Remote, swap: Swap) -> Outcome:
    """Makes the commit by compare-and-swap."""
    outcome = Outcome(applied=False)
    refusals = 0
    for attempt in remote.policy.attempts_for("push", location=remote.store.location, key=remote.names.root):
        with attempt:
            arrived_before = swap.may_have_arrived
            try:
                swap.may_have_arrived = True
                outcome = Outcome(applied=True, etag=put_if_base(remote, swap.commit, swap.base_etag))
            except ConditionUnsupportedError:
                if not remote.mode.doubt():
                    raise
                return Outcome(applied=False)
            except (PreconditionFailedError, TransientStoreError) as error:
                if isinstance(error, TransientStoreError) and not error.may_have_applied:
                    swap.may_have_arrived = arrived_before
                try:
                    outcome = read_back(remote, swap, error)
                except TransientStoreError:
                    refusals += isinstance(error, PreconditionFailedError)
                    # Refused, and the very ETag is there: conditions may have stopped working here.
                    if refusals < STALE_REFUSALS or not remote.mode.doubt():
                        raise
                    return Outcome(applied=False)
    return outcome


def _write_in_turn(remote: Remote, locks: WriterLocks, swap: Swap) -> Outcome:
    """Writes the root where conditions don't work: under a ticket, reading it before and after.

    Weaker than a compare-and-swap: a holder that stands still between reading and writing for
    longer than its ticket lasts can overwrite another's commit. Reading afterwards tells it so.
    """
    locks.adapt()
    held = locks.ticket
    try:
        (held or locks.acquire_turn()).check()
        if not is_base_there(remote, swap.base_etag):
            return read_back(remote, swap, PreconditionFailedError("the root has changed"))
        swap.may_have_arrived = True
        try:
            if swap.base_etag is None:
                write_under_ticket(remote, swap.commit, None)
            else:
                remote.store.put(remote.names.root, swap.commit.root, metadata=swap.commit.object_metadata)
        except (OfflineError, PreconditionFailedError) as error:
            return read_back(remote, swap, error)
        return read_back(remote, swap, PreconditionFailedError("the root was overwritten"))
    finally:
        if held is None:
            locks.release_turn()


__all__ = ["swap_root"]
