"""Changing the mode in which a database's commits are made.

The invariants, on which the argument in `commit_mode` rests: a commit that changes the mode, or has to find it
out, is made while ticket and lease are held, from the second reading of the root to the write of its own; the
root itself shows what conditions do to it, by one that can't hold and one that must; and what the store has
refused under a condition is written without it only where reads were shown to be no older than the store.
"""

from __future__ import annotations

import logging
import secrets
import warnings
from typing import TYPE_CHECKING

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    ObjectMissingError,
    OfflineError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
    WeakStoreWarning,
)
from ebooklet_tx.limits import MAX_ROOT_BYTES
from ebooklet_tx.stores.capabilities import WRONG_ETAG
from ebooklet_tx.sync.commit.commit_mode import KEPT_APART_BY_TICKETS
from ebooklet_tx.sync.commit.read_back import Outcome, Swap, is_base_there, read_back
from ebooklet_tx.sync.commit.writer_locks import WriterLocks
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, inspect_root

if TYPE_CHECKING:
    from ebooklet_tx.sync.commit.builder import Commit

TRIES = 3
"""How often the condition that must hold is sent before the root counts as one that can't be swapped."""

_log = logging.getLogger("ebooklet_tx")


def change_mode(remote: Remote, locks: WriterLocks, swap: Swap) -> Outcome:
    """Writes a commit that changes how commits are made, or has to find out how they can be.

    Raises:
        LockTimeoutError: Another writer kept one of the locks; every operation is pending.
        RemoteAccessError: Conditions don't work, and a right is missing that tickets need.
        TransientStoreError: The store keeps failing, or the commit does not show yet.
        OfflineError: Reads show a root that the store does not have any more.
    """
    mode = remote.mode
    with locks.both() as alone:
        there = inspect_root(remote)
        if (there.etag if there is not None else None) != swap.base_etag:
            return read_back(remote, swap, PreconditionFailedError("the root has changed"))
        advertised = mode.advertised(there.manifest.commits) if isinstance(there, FetchedRoot) else None
        if not alone and advertised is not None and not advertised.swaps:
            # A writer that works with the lease ends first; until then the mode that the root names will do.
            mode.settle_for_tickets()
            return Outcome(applied=False)
        swapped_before = advertised is not None and advertised.swaps
        swap.may_have_arrived = True
        outcome = _write(remote, swap)
        if outcome.applied and mode.swaps is not swapped_before:
            _announce(remote, changed=advertised is not None)
        return outcome


def _announce(remote: Remote, *, changed: bool) -> None:
    if remote.mode.swaps:
        _log.info("commits of %s are made by compare-and-swap from here on", remote.root_place)
    elif changed:
        warnings.warn(
            f"conditional writes don't work any more on {remote.root_place}: from here on all writers are "
            f"{KEPT_APART_BY_TICKETS}",
            WeakStoreWarning,
            stacklevel=2,
        )


def _write(remote: Remote, swap: Swap) -> Outcome:
    """Writes the commit in the mode that the root itself shows to work, and names that mode in it."""
    mode = remote.mode
    under_ticket = swap.commit.with_mode(mode.tickets())
    if mode.refuted:
        # Nothing says that conditions work here, and a probe, or the user, that they don't.
        try:
            write_under_ticket(remote, under_ticket, swap.base_etag)
        except (PreconditionFailedError, OfflineError) as error:
            return _confirmed(remote, read_back(remote, swap, error), swaps=False)
        return _read_back_own(remote, swap)
    if _conditions_hold(remote, swap, under_ticket):
        outcome = _swap(remote, swap)
        if outcome is not None:
            return outcome
        _raise_without_rights(remote)
        _write_after_refusal(remote, under_ticket, swap.base_etag)
    return _read_back_own(remote, swap)


def _read_back_own(remote: Remote, swap: Swap) -> Outcome:
    outcome = read_back(remote, swap, PreconditionFailedError("the root was overwritten"))
    return _confirmed(remote, outcome, swaps=False)


def _confirmed(remote: Remote, outcome: Outcome, *, swaps: bool) -> Outcome:
    """Notes what the root has shown; what was only read back is to be pulled as it lies there.

    A write whose answer was lost may be any of those that were sent, and they differ in the mode they name.
    """
    if not outcome.applied:
        return outcome
    remote.mode.confirm(swaps=swaps)
    return outcome if outcome.commit is not None else Outcome(applied=True, pull_root=True)


def _conditions_hold(remote: Remote, swap: Swap, commit: Commit) -> bool:
    """Writes a commit under a condition that can't hold; False when it took place all the same.

    Where conditions are refused altogether it is written without one, as conditions do not hold there either.
    """
    try:
        remote.store.put(remote.names.root, commit.root, if_match=WRONG_ETAG, metadata=commit.object_metadata)
    except PreconditionFailedError:
        return True
    except TransientStoreError as error:
        try:
            return not read_back(remote, swap, error).applied
        except TransientStoreError:
            # A store may answer a refused write in any way.
            return True
    except ConditionUnsupportedError:
        _raise_without_rights(remote)
        remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)
    return False


def _swap(remote: Remote, swap: Swap) -> Outcome | None:
    """Writes the commit under the condition that must hold; None when the root can't be swapped at all."""
    mode = remote.mode
    refusals = 0
    for _ in range(TRIES):
        mode.swaps = True
        commit = swap.commit.with_mode(mode.to_advertise())
        failure: Error
        try:
            etag = put_if_base(remote, commit, swap.base_etag)
        except ConditionUnsupportedError:
            return None
        except (PreconditionFailedError, TransientStoreError) as error:
            failure = error
            refusals += isinstance(error, PreconditionFailedError)
        else:
            return _confirmed(remote, Outcome(applied=True, etag=etag, commit=commit), swaps=True)
        try:
            return _confirmed(remote, read_back(remote, swap, failure), swaps=True)
        except TransientStoreError as error:
            failure = error
        remote.policy.sleep(remote.policy.random() * remote.policy.base_seconds)
    if refusals < TRIES:
        raise failure
    return None


def put_if_base(remote: Remote, commit: Commit, base_etag: str | None) -> str:
    """Writes a root on the condition that the base root, or none, is there; returns the new ETag.

    Raises:
        PreconditionFailedError: Another root is there.
        ConditionUnsupportedError: The store refuses conditions.
    """
    return remote.store.put(
        remote.names.root,
        commit.root,
        if_match=base_etag,
        if_absent=base_etag is None,
        metadata=commit.object_metadata,
    )


def write_under_ticket(remote: Remote, commit: Commit, base_etag: str | None) -> None:
    """Writes a root on its condition, and without where that is refused although it holds.

    The condition keeps off clients that take no ticket, because they expect conditions to work.

    Raises:
        PreconditionFailedError: There is another root.
        OfflineError: Reads show a root that the store does not have any more.
    """
    try:
        put_if_base(remote, commit, base_etag)
    except ConditionUnsupportedError:
        pass
    except PreconditionFailedError:
        if not is_base_there(remote, base_etag):
            raise
        _write_after_refusal(remote, commit, base_etag)
        return
    else:
        return
    remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)


def _write_after_refusal(remote: Remote, commit: Commit, base_etag: str | None) -> None:
    """Writes a root without the condition that the store has refused although it seems to hold.

    Where reads come from a cache or a replica that lags behind, it does not hold, and another writer's commit
    would be overwritten. A copy is made by the store itself, of what it has, and nothing can have kept an older
    one.

    Raises:
        OfflineError: Reads show a root that the store does not have any more.
    """
    copy = f"{remote.names.lock}.probe-{secrets.token_hex(8)}"
    try:
        remote.store.copy(remote.names.root, copy)
        there = remote.store.get(copy, max_bytes=MAX_ROOT_BYTES)
        remote.store.delete(copy)
    except ObjectMissingError:
        there = None
    try:
        shown = remote.store.get(remote.names.root, max_bytes=MAX_ROOT_BYTES)
    except ObjectMissingError:
        shown = None
    is_base = (shown.etag if shown is not None else None) == base_etag
    if not is_base or (there.data if there is not None else None) != (shown.data if shown is not None else None):
        raise OfflineError(
            f"reads of {remote.root_place} show another state than the store has, so nothing was written and "
            "every operation is pending: push again later. If it stays so, go around the cache or replica that "
            "answers them",
            object_name=remote.names.root,
            operation="push",
        )
    remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)


def _raise_without_rights(remote: Remote) -> None:
    if not remote.mode.may_list:
        raise RemoteAccessError(
            f"conditional writes don't work on {remote.root_place}, and writers can't be kept apart otherwise "
            "without the rights to list and to delete (s3:ListBucket, s3:DeleteObject): grant them. Nothing was "
            "pushed, every change is still pending"
        )


__all__ = ["change_mode", "put_if_base", "write_under_ticket"]
