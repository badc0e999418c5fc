"""Before a session commits: how commits are made at its place, and the lock that it takes and adapts.

The invariants: a lock is of the kind that the root says commits want; a session that took the lock over from a
holder that had not released it raises the root's fence before it does anything else.
"""

from __future__ import annotations

import logging
import warnings

from ebooklet_tx.errors import Error, WeakStoreWarning
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import CleaningDeniedError, probe
from ebooklet_tx.sync.commit import commit_mode
from ebooklet_tx.sync.commit.commit_mode import KEPT_APART_BY_TICKETS, record_result, recorded_result
from ebooklet_tx.sync.commit.writer_locks import new_lock
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import read_root_or_none
from ebooklet_tx.sync.session import Session

MAX_EXCHANGES = 5
_log = logging.getLogger("ebooklet_tx")
_warned: set[str] = set()
"""Stores of which this process has warned, by endpoint and bucket."""


# -- how commits are made ----------------------------------------------------------------------


def learn_mode(remote: Remote, recorded: str | None = None) -> None:
    """Takes over the commit mode that the root names; where it is silent, what is known of the store or a probe.

    For a client that makes no ordinary commit: a doubt is left to those that do.

    Args:
        remote: The remote; its mode, and its store's quoting of ETags, are set.
        recorded: What an earlier probe of this endpoint and bucket found, or None.
    """
    try:
        there = read_root_or_none(remote)
    except Error:
        # A root that can't be read is reported by what works with it.
        there = None
    commits = there.manifest.commits if there is not None else None
    if remote.mode.advertised(commits) is None:
        probe_mode(remote, recorded)
    else:
        remote.mode.follow_unasked(commits)


def probe_mode(remote: Remote, recorded: str | None) -> None:
    """Finds out whether a store's conditional writes can be relied on, probing where that is not known.

    Args:
        remote: The remote; its mode, and its store's quoting of ETags, are set.
        recorded: What an earlier probe of this endpoint and bucket found, or None.
    """
    mode = remote.mode
    if mode.probed_store is None:
        return
    result = mode.known_result(recorded)
    if result is None:
        try:
            result = probe(remote.store, remote.names.lock, mode.probed_store)
        except CleaningDeniedError as error:
            # Then the root itself shows it, at the next commit. Tickets can't be used with these rights.
            _log.info("conditional writes of %s are tried on the root: %s", remote.store.location, error)
            mode.leave_to_the_root()
            return
        if not result.works:
            _warn_of_tickets(remote, f"are {result.value} by {remote.store.location}")
    commit_mode.probe_results[mode.location] = result
    mode.expect(result)
    mode.swaps = result.works


def _warn_of_tickets(remote: Remote, finding: str) -> None:
    """Warns once in a process of a store on which writers are kept apart by weaker means."""
    if remote.store.location in _warned:
        return
    _warned.add(remote.store.location)
    warnings.warn(
        f"conditional writes {finding}: writers are {KEPT_APART_BY_TICKETS}",
        WeakStoreWarning,
        stacklevel=3,
    )


def reconcile_mode(journal: Journal, remote: Remote, commits: CommitWay | None = None) -> None:
    """Makes sure, before anything is written, how commits are made.

    Args:
        journal: The journal, which keeps what was found out earlier.
        remote: The remote, whose mode is set.
        commits: The mode that the root names, if it was just read; otherwise the journal tells what it was last.
    """
    mode = remote.mode
    base = read_base(journal)
    recorded = recorded_result(journal, mode)
    is_new = mode.probed_store is not None and mode.known_result(recorded) is None
    if mode.advertised(commits or base.commits) is None:
        if is_new and commits is None:
            # Asking the root is cheaper than a probe, and what it says counts more.
            learn_mode(remote)
        else:
            probe_mode(remote, recorded)
    else:
        result = mode.known_result(recorded) if mode.probed_store is not None else None
        if result is not None:
            mode.expect(result)
        mode.follow(commits or base.commits)
    advertised_before = mode.advertised(base.commits)
    if is_new and not mode.swaps and (advertised_before is None or advertised_before.swaps):
        _warn_of_tickets(remote, f"can't be relied on, as {remote.root_place} says")
    record_result(journal, mode)


# -- the lock of a session ---------------------------------------------------------------------


def begin_locked(session: Session) -> None:
    """Begins a session under its lock: fences off a holder that had not released it, and notes the fence."""
    if session.locks.owes_fence:
        # Most sessions that begin owe none, and many never push.
        from ebooklet_tx.sync.commit.push import raise_fence

        raise_fence(session)
    else:
        session.locks.note_fence(read_base(session.journal).fence)


def adapt_lock(session: Session, timeout_seconds: float) -> None:
    """After the pull of a session that is locked: gives it the kind of lock that the root's mode wants.

    What was committed before the other lock was held is pulled again.
    """
    for _ in range(MAX_EXCHANGES):
        if not session.locks.adapt(timeout_seconds):
            return
        pull(session)


__all__ = ["adapt_lock", "begin_locked", "learn_mode", "new_lock", "probe_mode", "reconcile_mode"]
