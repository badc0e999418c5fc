"""Moving a database from one way of committing to another, and the locks that this takes.

Owns nothing on disk. The invariants, on which the argument in `commit_way` stands: a mover holds ticket and lease
when it reads the root again and when it puts its own; the root itself shows what conditions do to it, by a
condition that can't hold and one that must; a session's own lock is of the kind that its root wants.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    LockTimeoutError,
    OfflineError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
    WeakStoreWarning,
)
from ebooklet_tx.locks.tickets import TicketLock
from ebooklet_tx.records import CommitWay
from ebooklet_tx.stores.capabilities import WRONG_ETAG
from ebooklet_tx.sync.commit.builder import Commit
from ebooklet_tx.sync.commit.commit_way import KEPT_APART_BY_TICKETS, TICKETS, found, remember, said_here, way_of
from ebooklet_tx.sync.commit.read_back import Outcome, Sent, read_back
from ebooklet_tx.sync.commit.turns import release_turn
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.root_object import FetchedRoot, inspect_root
from ebooklet_tx.sync.session import Remote, Session, WriterLock

TRIES = 3
"""How often the condition that must hold is sent before the root counts as one that can't be swapped."""

_log = logging.getLogger("ebooklet_tx")


def ticket_of(session: Session) -> WriterLock | None:
    """Returns the ticket that a session holds."""
    return session.lock if isinstance(session.lock, TicketLock) else session.turn


def fit_lock(session: Session, timeout_seconds: float | None = None) -> bool:
    """Gives a session that holds a lock one of the kind that commits want; true when it had another.

    A ticket is taken while the lease is still held. A lease is not waited for with a ticket in hand: everybody
    takes the lease first, so that no two wait for each other.

    Raises:
        LockTimeoutError: Another writer holds it.
    """
    held, remote = session.lock, session.remote
    if held is None or session.commit_lock is None or session.moving_lock is None:
        return False
    if isinstance(held, TicketLock) is not remote.conditional:
        return False
    seconds = session.commit_timeout_seconds if timeout_seconds is None else timeout_seconds
    if remote.conditional:
        held.release()
    lock = session.moving_lock() if remote.conditional else session.commit_lock()
    session.spare.append(lock)
    try:
        lock.acquire(seconds)
    except ConditionUnsupportedError:
        # No lease can be taken here: then neither can a root be swapped, which the next commit shows.
        remote.in_doubt, remote.conditional = True, False
        session.spare.remove(lock)
        lock = session.commit_lock()
        session.spare.append(lock)
        lock.acquire(seconds)
    lock.taken_over = lock.taken_over or held.taken_over
    held.release()
    session.lock = lock
    session.spare.remove(lock)
    return True


def check_lock(session: Session) -> None:
    """Makes sure that a session's lock is held, and of the right kind; none is no error.

    Raises:
        LockLostError: Another writer has it; every change is still pending.
    """
    fit_lock(session)
    _sound_lock(session, lambda lock: lock.check())


def renew_lock(session: Session) -> None:
    """Renews a session's lock, so that it is known to be held now; none is no error.

    Raises:
        LockLostError: Another writer has it; every change is still pending.
    """
    _sound_lock(session, lambda lock: lock.renew())


def _sound_lock(session: Session, use: Callable[[WriterLock], None]) -> None:
    if session.lock is None:
        return
    try:
        use(session.lock)
    except ConditionUnsupportedError as error:
        if session.commit_lock is None:
            raise
        # The lease can't be renewed any more, by anybody: from here on a ticket keeps others out.
        _log.warning("%s", error)
        session.remote.in_doubt, session.remote.conditional = True, False
        fit_lock(session)
        use(session.lock)


def move(session: Session, commit: Commit, base_etag: str | None, sent: Sent) -> Outcome:
    """Puts a commit that changes how commits are made, or has to find out how they can be.

    Raises:
        LockTimeoutError: Another writer kept one of the locks; every operation is pending.
        RemoteAccessError: Conditions don't work, and a right is missing that tickets need.
        OfflineError: The store keeps failing; every operation is pending.
    """
    remote = session.remote
    try:
        with _both_locks(session) as alone:
            there = inspect_root(remote)
            if (there.etag if there is not None else None) != base_etag:
                return read_back(session, commit, base_etag, PreconditionFailedError("the root has changed"))
            said = said_here(remote, there.manifest.commits) if isinstance(there, FetchedRoot) else None
            if not alone and said is not None and not said.swaps:
                # Who works with the lease is to have his end first; until then the root's word is good enough.
                remote.in_doubt, remote.conditional, remote.opinion = False, False, None
                return Outcome(applied=False)
            swapped_before = said is not None and said.swaps
            sent.perhaps = True
            outcome = _put(session, commit, base_etag)
            if outcome.applied and remote.conditional is not swapped_before:
                _tell(remote, moved=said is not None)
            return outcome
    except TransientStoreError as error:
        raise OfflineError(
            f"the commit did not arrive at {remote.root_place}, or does not show yet; every operation is "
            f"pending, push again. Last failure: {error}"
        ) from error


def _tell(remote: Remote, *, moved: bool) -> None:
    if remote.conditional:
        _log.info("commits of %s are made by compare-and-swap from here on", remote.root_place)
    elif moved:
        warnings.warn(
            f"conditional writes don't work any more on {remote.root_place}: from here on all writers are "
            f"{KEPT_APART_BY_TICKETS}",
            WeakStoreWarning,
            stacklevel=2,
        )


@contextmanager
def _both_locks(session: Session) -> Iterator[bool]:
    """Holds lease and ticket; what the session does not want to keep afterwards is let go.

    The lease comes first, for everybody, so that no two wait for each other. Who holds a ticket already, as its
    lock, does not wait for the lease. A lease that can't be taken, because conditions don't work, can't be held
    by anybody else either.

    Yields:
        Whether no other writer has the lease.
    """
    release_turn(session)
    with ExitStack() as stack:
        ticket: WriterLock | None = session.lock if isinstance(session.lock, TicketLock) else None
        lease = session.lock if ticket is None else None
        alone = True
        if lease is None and session.moving_lock is not None:
            try:
                lease = _taken(session, stack, session.moving_lock(), waits=ticket is None)
            except ConditionUnsupportedError as error:
                _log.info("%s", error)
            except LockTimeoutError:
                if ticket is None:
                    raise
                alone = False
        if ticket is None and session.commit_lock is not None and session.remote.may_list:
            ticket = _taken(session, stack, session.commit_lock(), waits=True)
        elif ticket is not None:
            ticket.check()
        yield alone
        wanted = lease if session.remote.conditional else ticket
        if session.lock is not None and wanted is not None and wanted is not session.lock:
            # Its release is left to the session; the stack lets go of the other.
            stack.callback(session.lock.release)
            session.lock = wanted


def _taken(session: Session, stack: ExitStack, lock: WriterLock, *, waits: bool) -> WriterLock:
    session.spare.append(lock)

    def let_go() -> None:
        if session.lock is not lock:
            lock.release()
        session.spare.remove(lock)

    stack.callback(let_go)
    lock.acquire(session.commit_timeout_seconds if waits else 0.0)
    return lock


# -- what the root itself shows ----------------------------------------------------------------


def _put(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    """Puts the commit in the way that the root itself shows to work, and says so in it."""
    remote = session.remote
    in_turn = commit.saying(_tickets(remote))
    if remote.racy or (remote.opinion is False and not remote.in_doubt):
        # Nothing says that conditions work here, and a probe, or the user, that they don't.
        try:
            put_conditionally(remote, in_turn, base_etag)
        except (PreconditionFailedError, OfflineError) as error:
            return _noted(session, read_back(session, in_turn, base_etag, error), swaps=False)
        return _read_back_own(session, in_turn, base_etag)
    if _conditions_hold(session, in_turn, base_etag):
        outcome = _swap(session, commit, base_etag)
        if outcome is not None:
            return outcome
        _raise_without_rights(remote)
        remote.store.put(remote.names.root, in_turn.root, metadata=in_turn.object_metadata)
    return _read_back_own(session, in_turn, base_etag)


def _tickets(remote: Remote) -> CommitWay | None:
    return None if remote.place is None else CommitWay(TICKETS, *remote.place)


def _read_back_own(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    outcome = read_back(session, commit, base_etag, PreconditionFailedError("the root was overwritten"))
    return _noted(session, outcome, swaps=False)


def _noted(session: Session, outcome: Outcome, *, swaps: bool) -> Outcome:
    """Notes what the root has shown; what was only read back is taken in as it lies there.

    A put whose answer was lost may be any of those that were sent, and they differ in what they say of commits.
    """
    if not outcome.applied:
        return outcome
    found(session.remote, swaps=swaps)
    remember(session)
    if outcome.commit is not None:
        return outcome
    pull(session)
    return Outcome(applied=True)


def _conditions_hold(session: Session, commit: Commit, base_etag: str | None) -> bool:
    """Puts a commit under a condition that can't hold; False when it took place all the same.

    Where conditions are refused altogether it is put without one, and that is no hearing either.
    """
    remote = session.remote
    try:
        remote.store.put(remote.names.root, commit.root, if_match=WRONG_ETAG, metadata=commit.object_metadata)
    except PreconditionFailedError:
        return True
    except TransientStoreError as error:
        try:
            return not read_back(session, commit, base_etag, error).applied
        except TransientStoreError:
            # Losers may be told anything.
            return True
    except ConditionUnsupportedError:
        _raise_without_rights(remote)
        remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)
    return False


def _swap(session: Session, commit: Commit, base_etag: str | None) -> Outcome | None:
    """Puts the commit under the condition that must hold; None when the root can't be swapped at all."""
    remote = session.remote
    refusals = 0
    for _ in range(TRIES):
        remote.conditional = True
        commit = commit.saying(way_of(remote))
        failure: Error
        try:
            etag = _put_if_same(remote, commit, base_etag)
        except ConditionUnsupportedError:
            return None
        except (PreconditionFailedError, TransientStoreError) as error:
            failure = error
            refusals += isinstance(error, PreconditionFailedError)
        else:
            return _noted(session, Outcome(applied=True, etag=etag, commit=commit), swaps=True)
        try:
            return _noted(session, read_back(session, commit, base_etag, failure), swaps=True)
        except TransientStoreError as error:
            failure = error
        remote.policy.sleep(remote.policy.random() * remote.policy.base_seconds)
    if refusals < TRIES:
        raise failure
    return None


def _put_if_same(remote: Remote, commit: Commit, base_etag: str | None) -> str:
    return remote.store.put(
        remote.names.root,
        commit.root,
        if_match=base_etag,
        if_absent=base_etag is None,
        metadata=commit.object_metadata,
    )


def put_conditionally(remote: Remote, commit: Commit, base_etag: str | None) -> None:
    """Puts a root whose turn it is under its condition, and without where that is refused though it holds.

    Those who don't wait for their turn, because they hold that conditions work, are kept off so.

    Raises:
        PreconditionFailedError: There is another root.
    """
    try:
        _put_if_same(remote, commit, base_etag)
    except ConditionUnsupportedError:
        pass
    except PreconditionFailedError:
        there = inspect_root(remote)
        if (there.etag if there is not None else None) != base_etag:
            raise
    else:
        return
    remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)


def _raise_without_rights(remote: Remote) -> None:
    if not remote.may_list:
        raise RemoteAccessError(
            f"conditional writes don't work on {remote.root_place}, and writers can't be kept apart otherwise "
            "without the rights to list and to delete (s3:ListBucket, s3:DeleteObject): grant them. Nothing was "
            "pushed, every change is still pending"
        )


__all__ = ["check_lock", "fit_lock", "move", "put_conditionally", "renew_lock", "ticket_of"]
