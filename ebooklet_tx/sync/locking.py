"""The writer's lock on a remote: which kind it is, when it is taken, and when it is given back.

Owns the journal's word on how the store treats conditional writes. The invariant: a session that took
the lock from a holder that had not let go raises the root's fence before it does anything else.
"""

from __future__ import annotations

import functools
import json
import warnings
from collections.abc import Callable

from ebooklet_tx.errors import WeakStoreWarning
from ebooklet_tx.local.journal import put_meta
from ebooklet_tx.remote.lease import LEASE_TTL_SECONDS, Lease
from ebooklet_tx.remote.probe import Conditional, probe
from ebooklet_tx.remote.tickets import TicketLock
from ebooklet_tx.sync.push import note_fence, raise_fence
from ebooklet_tx.sync.session import Remote, Session, WriterLock, read_base

LOCK_TTL_SECONDS = LEASE_TTL_SECONDS
"""How long a holder that stands still keeps others waiting."""

_NAMES = frozenset(answer.value for answer in Conditional)
_answers: dict[str, Conditional] = {}
"""What was found out in this process, by endpoint and bucket."""


def new_lock(remote: Remote) -> WriterLock:
    """Returns the kind of lock that a store can bear: a lease, or a ticket."""
    kind: Callable[..., WriterLock] = Lease if remote.conditional else TicketLock
    return kind(remote.store, remote.names.lock, policy=remote.policy, ttl_seconds=LOCK_TTL_SECONDS)


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


def find_out(remote: Remote, known: str | None) -> str | None:
    """Settles whether a store's conditional writes can be relied on, trying them if nobody knows.

    Args:
        remote: The remote; its `conditional`, and its store's quoting of ETags, are set.
        known: What an earlier probe of this endpoint and bucket said, or None.

    Returns:
        What the probe said, to be remembered; None when there was no need for one.
    """
    if remote.probing is None:
        return None
    place = remote.store.location
    answer = _answers.get(place) or (Conditional(known) if known in _NAMES else None)
    if answer is None:
        answer = probe(remote.store, remote.names.lock, remote.probing)
        if not answer.works:
            warnings.warn(
                f"conditional writes are {answer.value} by {place}: writers are kept apart by tickets, which is "
                "weaker (a writer that stands still for a minute in the middle of its commit can overwrite "
                "another's); see docs/reference/stores.md",
                WeakStoreWarning,
                stacklevel=2,
            )
    _answers[place] = answer
    remote.conditional = answer.works
    if answer is Conditional.UNQUOTED:
        remote.probing.quote_etags = False
    return answer.value


def settle_conditions(session: Session) -> None:
    """Makes sure, before anything is written, how the store treats conditional writes.

    Where they don't work and the session holds no lock, every commit takes a ticket of its own.
    """
    remote = session.remote
    with session.mutex:
        kept = json.loads(session.journal.get_meta("conditional_writes") or "{}")
    answer = find_out(remote, kept.get(remote.store.location))
    if answer is not None and kept.get(remote.store.location) != answer:
        kept[remote.store.location] = answer
        with session.mutex, session.journal.transaction() as connection:
            put_meta(connection, {"conditional_writes": json.dumps(kept, sort_keys=True)})
    if not remote.conditional:
        session.commit_lock = functools.partial(new_lock, remote)


def lock_session(session: Session, timeout_seconds: float, *, force: bool) -> None:
    """Takes the lock for a session and keeps it until the session ends.

    Raises:
        LockTimeoutError: Another writer kept it; the message names it.
    """
    # The session's before it is taken, so that whatever interrupts that, the session's end gives it back.
    session.lock = new_lock(session.remote)
    session.lock.acquire(timeout_seconds, force=force)
