"""The writer's lock on a remote: which kind it is, when it is taken, and when it is given back.

Owns nothing on disk. The invariants: a lock is of the kind that the root says commits want; a session that took
the lock from a holder that had not let go raises the root's fence before it does anything else.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable

from ebooklet_tx.errors import ConditionUnsupportedError, Error, WeakStoreWarning
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.locks.lease import LEASE_TTL_SECONDS, Lease
from ebooklet_tx.locks.tickets import TicketLock
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import CleaningDeniedError, Conditional, probe
from ebooklet_tx.sync.commit import commit_way
from ebooklet_tx.sync.commit.change_way import fit_lock
from ebooklet_tx.sync.commit.commit_way import KEPT_APART_BY_TICKETS, adopt, recall, remember, said_here
from ebooklet_tx.sync.commit.push import note_fence, raise_fence
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.root_object import read_root_or_none
from ebooklet_tx.sync.session import Remote, Session, WriterLock

LOCK_TTL_SECONDS = LEASE_TTL_SECONDS
"""How long a holder that stands still keeps others waiting."""

MAX_EXCHANGES = 5
_log = logging.getLogger("ebooklet_tx")
_NAMES = frozenset(answer.value for answer in Conditional)
_warned: set[str] = set()
"""Stores of which this process has warned, by endpoint and bucket."""


def new_lock(remote: Remote) -> WriterLock:
    """Returns the kind of lock that commits want: a lease, or a ticket."""
    return new_lease(remote) if remote.conditional else new_ticket(remote)


def new_lease(remote: Remote) -> WriterLock:
    """Returns a lease that is not taken yet."""
    return Lease(remote.store, remote.names.lock, policy=remote.policy, ttl_seconds=LOCK_TTL_SECONDS)


def new_ticket(remote: Remote) -> WriterLock:
    """Returns a ticket that is not taken yet."""
    return TicketLock(remote.store, remote.names.lock, policy=remote.policy, ttl_seconds=LOCK_TTL_SECONDS)


def begin_locked(session: Session) -> None:
    """Begins a session under its lock: fences a holder that had not let go, notes the fence."""
    if session.lock is None:
        return
    if session.lock.taken_over:
        raise_fence(session)
    else:
        with session.mutex:
            fence = read_base(session.journal).fence
        note_fence(session, fence)


def agree(remote: Remote, known: str | None = None) -> None:
    """Goes by what the root says of commits; by what is known of the store, or shows, where it says nothing.

    Args:
        remote: The remote; its `conditional`, and its store's quoting of ETags, are set.
        known: What an earlier probe of this endpoint and bucket said, or None.
    """
    try:
        there = read_root_or_none(remote)
    except Error:
        # What lies there is told by who works with it.
        there = None
    commits = there.manifest.commits if there is not None else None
    if said_here(remote, commits) is None:
        probe_conditions(remote, known)
    else:
        adopt(remote, commits)
        # Nothing is committed by who asks so: there is no doubt to settle.
        remote.in_doubt = False


def probe_conditions(remote: Remote, known: str | None) -> None:
    """Settles whether a store's conditional writes can be relied on, trying them if nobody knows.

    Args:
        remote: The remote; its `conditional`, and its store's quoting of ETags, are set.
        known: What an earlier probe of this endpoint and bucket said, or None.
    """
    if remote.probing is None:
        return
    answer = _known_answer(remote, known)
    if answer is None:
        try:
            answer = probe(remote.store, remote.names.lock, remote.probing)
        except CleaningDeniedError as error:
            # Then the root itself shows it, at the next commit. Tickets can't be used with these rights.
            _log.info("conditional writes of %s are tried on the root: %s", remote.store.location, error)
            remote.conditional, remote.in_doubt, remote.may_list = True, remote.place is not None, False
            return
        if not answer.works:
            _warn_of_tickets(remote, f"are {answer.value} by {remote.store.location}")
    commit_way.answers[remote.store.location] = answer
    _hold(remote, answer)
    remote.conditional = answer.works


def _warn_of_tickets(remote: Remote, found: str) -> None:
    """Warns once in a process of a store on which writers are kept apart by weaker means."""
    if remote.store.location in _warned:
        return
    _warned.add(remote.store.location)
    warnings.warn(
        f"conditional writes {found}: writers are {KEPT_APART_BY_TICKETS}",
        WeakStoreWarning,
        stacklevel=3,
    )


def _known_answer(remote: Remote, known: str | None) -> Conditional | None:
    return commit_way.answers.get(remote.store.location) or (Conditional(known) if known in _NAMES else None)


def _hold(remote: Remote, answer: Conditional) -> None:
    remote.opinion = answer.works
    remote.racy = answer is Conditional.RACY
    if answer is Conditional.UNQUOTED and remote.probing is not None:
        remote.probing.quote_etags = False


def reconcile_conditions(session: Session, commits: CommitWay | None = None) -> None:
    """Makes sure, before anything is written, how commits are made; each commit takes the locks that it needs.

    Args:
        session: The session.
        commits: What the root says, if it was just read; otherwise the journal tells what it said last.
    """
    remote = session.remote
    session.commit_lock = functools.partial(new_ticket, remote)
    session.moving_lock = functools.partial(new_lease, remote)
    with session.mutex:
        base = read_base(session.journal)
    known = recall(session)
    news = remote.probing is not None and _known_answer(remote, known) is None
    if said_here(remote, commits or base.commits) is None:
        if _known_answer(remote, known) is None and remote.probing is not None and commits is None:
            # Asking the root is cheaper than a probe, and its word counts more.
            agree(remote)
        else:
            probe_conditions(remote, known)
    else:
        answer = _known_answer(remote, known) if remote.probing is not None else None
        if answer is not None:
            _hold(remote, answer)
        adopt(remote, commits or base.commits)
    told_before = said_here(remote, base.commits)
    if news and not remote.conditional and (told_before is None or told_before.swaps):
        _warn_of_tickets(remote, f"can't be relied on, as {remote.root_place} says")
    remember(session)


def take_lock(
    remote: Remote, timeout_seconds: float, own: Callable[[WriterLock], None], *, force: bool = False
) -> WriterLock:
    """Returns a lock of the kind that commits want, held.

    Args:
        remote: The remote.
        timeout_seconds: How long to wait for another writer.
        own: Given each lock before it is taken, to let go of it whatever becomes of that.
        force: Whether it is taken whoever holds it.

    Raises:
        LockTimeoutError: Another writer kept it; the message names it.
    """
    lock = new_lock(remote)
    own(lock)
    try:
        lock.acquire(timeout_seconds, force=force)
    except ConditionUnsupportedError:
        # The root says compare-and-swap, and a lease can't be: the next commit finds out, with a ticket held.
        remote.in_doubt, remote.conditional = True, False
        lock = new_ticket(remote)
        own(lock)
        lock.acquire(timeout_seconds, force=force)
        lock.taken_over = True
    return lock


def lock_session(session: Session, timeout_seconds: float, *, force: bool) -> None:
    """Takes the lock for a session and keeps it until the session ends.

    Raises:
        LockTimeoutError: Another writer kept it; the message names it.
    """
    # The session's before it is taken, so that whatever interrupts that, the session's end gives it back.
    take_lock(session.remote, timeout_seconds, lambda lock: setattr(session, "lock", lock), force=force)


def fit_lock_to_root(session: Session, timeout_seconds: float) -> None:
    """After the pull of a session that is locked: gives it the kind of lock that the root's word wants.

    What was committed before the other lock was held is pulled again.
    """
    for _ in range(MAX_EXCHANGES):
        if not fit_lock(session, timeout_seconds):
            return
        pull(session)
