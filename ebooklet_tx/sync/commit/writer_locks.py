"""The locks of one session on its remote: what it holds, takes for one commit, and gives back.

Owns the session's lock, its ticket for one commit, the locks that are being taken, and the root's fence under
which the session works. The invariants: a lock is recorded here from before it is taken until it was given back,
so that whatever interrupts its holder, the session's end gives it back; everyone takes the lease before the
ticket, so that no two writers wait for each other; the lock that is kept is of the kind that commits want.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Protocol, Self

from ebooklet_tx.errors import ConditionUnsupportedError, LockTimeoutError
from ebooklet_tx.locks.lease import LEASE_TTL_SECONDS, Lease
from ebooklet_tx.locks.machine_queue import MachineQueue
from ebooklet_tx.locks.tickets import TicketLock
from ebooklet_tx.sync.commit.swap_rules import fenced_off
from ebooklet_tx.sync.remote import Remote

LOCK_TTL_SECONDS = LEASE_TTL_SECONDS
"""How long a holder that stands still keeps others waiting."""

COMMIT_TIMEOUT_SECONDS = 300.0
_log = logging.getLogger("ebooklet_tx")


class WriterLock(Protocol):
    """The right to be the one writer: a lease, or a ticket where leases can't work."""

    taken_over: bool

    def acquire(self, timeout_seconds: float, *, force: bool = False) -> None: ...

    def check(self) -> None: ...

    def renew(self) -> None: ...

    def fence_raised(self) -> None: ...

    def mark_lost(self, why: str) -> None: ...

    def release(self) -> None: ...

    def holding(self, timeout_seconds: float) -> AbstractContextManager[Self]: ...

    def forget_in_child(self) -> None: ...


def new_lock(remote: Remote) -> WriterLock:
    """Returns the kind of lock that commits want: a lease, or a ticket."""
    return new_lease(remote) if remote.mode.swaps else new_ticket(remote)


def new_lease(remote: Remote) -> WriterLock:
    """Returns a lease that is not taken yet."""
    return Lease(remote.store, remote.names.lock, policy=remote.policy, ttl_seconds=LOCK_TTL_SECONDS)


def new_ticket(remote: Remote) -> WriterLock:
    """Returns a ticket that is not taken yet."""
    return TicketLock(remote.store, remote.names.lock, policy=remote.policy, ttl_seconds=LOCK_TTL_SECONDS)


def _name_on_machine(remote: Remote) -> str | None:
    """Returns how the processes of this machine name a remote; None where only one process has it, or none."""
    place = remote.mode.place
    if place is None or place[0] == "memory" or remote.offline:
        return None
    return repr((place, remote.store.location, remote.names.root))


class WriterLocks:
    """The locks of one session.

    Attributes:
        held: The lock that is held from open to close; None for an optimistic writer.
        fence: The root's fence when that lock was taken; a higher one means that the lock is lost.
        timeout_seconds: How long a commit waits for a lock that another writer holds.
        queue: Where an optimistic writer waits for the others of its machine.
    """

    def __init__(self, remote: Remote) -> None:
        self.held: WriterLock | None = None
        self.fence = 0
        self.timeout_seconds = COMMIT_TIMEOUT_SECONDS
        self.queue = MachineQueue(_name_on_machine(remote), remote.policy)
        self._remote = remote
        self._turn: WriterLock | None = None
        self._pending: list[WriterLock] = []

    # -- the lock that is kept -----------------------------------------------------------------

    def take(self, timeout_seconds: float, *, force: bool = False) -> None:
        """Takes the lock that is held until the session ends.

        Args:
            timeout_seconds: How long to wait for another writer.
            force: Whether it is taken from a writer that holds it.

        Raises:
            LockTimeoutError: Another writer kept it; the message names it.
        """
        self.held = new_lock(self._remote)
        try:
            self.held.acquire(timeout_seconds, force=force)
        except ConditionUnsupportedError:
            # The root says compare-and-swap, but no lease can be taken: the next commit finds out.
            self._remote.mode.doubt_swaps()
            self.held = new_ticket(self._remote)
            self.held.acquire(timeout_seconds, force=force)
            self.held.taken_over = True

    def adapt(self, timeout_seconds: float | None = None) -> bool:
        """Makes the lock that is held one of the kind that commits want; True when it was of the other.

        A ticket is taken while the lease is still held. A lease is not waited for with a ticket in hand.

        Raises:
            LockTimeoutError: Another writer holds it.
        """
        held, mode = self.held, self._remote.mode
        if held is None or isinstance(held, TicketLock) is not mode.swaps:
            return False
        seconds = self.timeout_seconds if timeout_seconds is None else timeout_seconds
        if mode.swaps:
            held.release()
        lock = new_lock(self._remote)
        self._pending.append(lock)
        try:
            lock.acquire(seconds)
        except ConditionUnsupportedError:
            # No lease can be taken here: then no root can be swapped either, which the next commit shows.
            mode.doubt_swaps()
            self._pending.remove(lock)
            lock = new_ticket(self._remote)
            self._pending.append(lock)
            lock.acquire(seconds)
        lock.taken_over = lock.taken_over or held.taken_over
        held.release()
        self.held = lock
        self._pending.remove(lock)
        return True

    def check(self) -> None:
        """Makes sure that the lock is held, and of the right kind; none is no error.

        Raises:
            LockLostError: Another writer has it; every change is still pending.
        """
        self.adapt()
        self._use(lambda lock: lock.check())

    def renew(self) -> None:
        """Renews the lock, so that it is known to be held now; none is no error.

        Raises:
            LockLostError: Another writer has it; every change is still pending.
        """
        self._use(lambda lock: lock.renew())

    def _use(self, use: Callable[[WriterLock], None]) -> None:
        if self.held is None:
            return
        try:
            use(self.held)
        except ConditionUnsupportedError as error:
            # No writer can renew a lease here any more: from here on a ticket keeps others out.
            _log.warning("%s", error)
            self._remote.mode.doubt_swaps()
            self.adapt()
            use(self.held)

    # -- fences --------------------------------------------------------------------------------

    @property
    def owes_fence(self) -> bool:
        """Whether the lock was taken over from a holder that had not released it."""
        return self.held is not None and self.held.taken_over

    def note_fence(self, fence: int) -> None:
        """Notes the fence of a root that was read, and makes sure that the lock was still held after that.

        In this order alone, a holder that is suspended between the two can't mistake the higher fence of its
        successor, which is to keep it out, for its own.

        Raises:
            LockLostError: Another writer has the lock.
        """
        if self.held is not None:
            self.renew()
            self.fence = fence

    def fence_raised(self, fence: int) -> None:
        """Notes that a root with a higher fence is in: no earlier holder can commit any more."""
        self.fence = fence
        if self.held is not None:
            self.held.fence_raised()

    def check_fence(self, root_fence: int) -> None:
        """Makes sure that the root does not show that another writer took the lock over.

        Raises:
            LockLostError: It does.
        """
        if self.held is not None and fenced_off(root_fence, self.fence):
            self.held.mark_lost("the root carries a higher fence")
            self.held.check()

    @property
    def is_optimistic(self) -> bool:
        """Whether the session's commits are swapped in without a lock."""
        return self.held is None and self._remote.mode.swaps

    # -- locks for one commit ------------------------------------------------------------------

    @property
    def ticket(self) -> WriterLock | None:
        """The ticket that is held: the session's lock, or for one commit."""
        return self.held if isinstance(self.held, TicketLock) else self._turn

    def acquire_turn(self) -> WriterLock:
        """Takes a ticket for one commit, waiting for the writers in front.

        Raises:
            LockTimeoutError: Another writer kept its ticket.
        """
        self.release_turn()
        turn = self._turn = new_ticket(self._remote)
        turn.acquire(self.timeout_seconds)
        return turn

    def release_turn(self) -> None:
        """Gives back the ticket for one commit; none, or one that was taken only in part, is no error."""
        if self._turn is not None:
            self._turn.release()
            self._turn = None

    def recheck(self) -> bool:
        """Before another round of a commit; True when a ticket was taken, so that a pull has to follow.

        A lock has to be held still, as another writer's commit came first although it was. Where commits are
        made under tickets, a round with a base from before the queue finds out nothing but that. With as many
        writers as there are in the queue, only the first of them would get a commit in; so from the second
        round on the ticket is kept for the whole round, once all packs have been sent.
        """
        if self.held is not None:
            self.check()
        elif self._turn is None and not self._remote.mode.swaps:
            self.acquire_turn()
            return True
        return False

    @contextmanager
    def both(self) -> Iterator[bool]:
        """Holds lease and ticket for a block; what the session does not keep is given back afterwards.

        The lease comes first, for everyone, so that no two writers wait for each other. A session whose own lock
        is a ticket does not wait for the lease. A lease that can't be taken because conditions don't work can't
        be held by another writer either.

        Yields:
            Whether no other writer has the lease.
        """
        self.release_turn()
        with ExitStack() as stack:
            ticket: WriterLock | None = self.held if isinstance(self.held, TicketLock) else None
            lease = self.held if ticket is None else None
            alone = True
            if lease is None:
                try:
                    lease = self._taken(stack, new_lease(self._remote), waits=ticket is None)
                except ConditionUnsupportedError as error:
                    _log.info("%s", error)
                except LockTimeoutError:
                    if ticket is None:
                        raise
                    alone = False
            if ticket is not None:
                ticket.check()
            elif self._remote.mode.may_list:
                ticket = self._taken(stack, new_ticket(self._remote), waits=True)
            yield alone
            wanted = lease if self._remote.mode.swaps else ticket
            if self.held is not None and wanted is not None and wanted is not self.held:
                # Released by the session's end; the stack gives back the other.
                stack.callback(self.held.release)
                self.held = wanted

    def _taken(self, stack: ExitStack, lock: WriterLock, *, waits: bool) -> WriterLock:
        self._pending.append(lock)

        def give_back() -> None:
            if self.held is not lock:
                lock.release()
            self._pending.remove(lock)

        stack.callback(give_back)
        lock.acquire(self.timeout_seconds if waits else 0.0)
        return lock

    # -- the end -------------------------------------------------------------------------------

    def release(self) -> None:
        """Gives back what is held, or may be, in the remote; twice is no error."""
        self.queue.close()
        for lock in (*self._pending, self._turn, self.held):
            if lock is not None:
                lock.release()

    def forget_in_child(self) -> None:
        """In a forked child: the lock is the parent's."""
        self.queue.forget_in_child()
        if self.held is not None:
            self.held.forget_in_child()
