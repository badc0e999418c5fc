"""Tickets: one writer at a time, on stores whose conditional writes don't work.

Owns the objects `D.lock.<number>.<id>` of one session while it holds or waits. It is Lamport's bakery
algorithm (L. Lamport, "A new solution of Dijkstra's concurrent programming problem", 1974), where one listing
reads the numbers of all writers. It needs neither compare-and-swap nor any order of the requests, only that a
listing shows every ticket that was there before it began.

The invariant: no writer enters while there is a ticket with a lower number, or one whose number is still being
chosen. It is weaker than a lease in one way that can't be avoided: a ticket that was not renewed for a whole TTL
is removed, and its holder, if it was only slow, learns so at its next listing.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable, Container
from dataclasses import dataclass

from ebooklet_tx.errors import (
    Error,
    LockLostError,
    LockTimeoutError,
    ObjectMissingError,
    RemoteAccessError,
    RemoteIntegrityError,
)
from ebooklet_tx.limits import MAX_LOCK_BYTES
from ebooklet_tx.locks.lease import UNKNOWN_HOLDER, describe
from ebooklet_tx.locks.lease_rules import Holder, LeaseRecord, Watch, decode_lease, encode_lease, poll_seconds
from ebooklet_tx.locks.process_identity import boot_clock, is_dead
from ebooklet_tx.locks.writer_lock import HeldLock
from ebooklet_tx.stores.object_store import ObjectStore, StoredObject
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.timestamps import now_us

TICKET_TTL_SECONDS = 60.0
SETTLE_SECONDS = 0.2
_CHOOSING = "choosing"
_NUMBER = re.compile("[0-9]{1,18}", re.ASCII)
_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True, order=True)
class Ticket:
    """A position in the queue; number 0 while it is being chosen."""

    number: int
    owner: str

    def suffix(self) -> str:
        """Returns the name of the ticket's object after the lock's key and a dot."""
        return f"{_CHOOSING if self.number == 0 else f'{self.number:012d}'}.{self.owner}"


def parse_ticket(suffix: str) -> Ticket | None:
    """Returns the ticket that an object's name describes; None when it is another object."""
    number, _, owner = suffix.partition(".")
    if not owner or not (number == _CHOOSING or _NUMBER.fullmatch(number)):
        return None
    return Ticket(0 if number == _CHOOSING else int(number), owner)


def next_number(tickets: list[Ticket]) -> int:
    """Returns a number above those of all tickets."""
    return max((ticket.number for ticket in tickets), default=0) + 1


def stands_before(mine: Ticket, other: Ticket) -> bool:
    """Whether another ticket's turn comes before ours."""
    return other.owner != mine.owner and (other.number == 0 or other < mine)


class TicketLock(HeldLock):
    """A ticket of one session; it has the interface of a lease."""

    _thread_name = "ebooklet_tx ticket"

    def __init__(
        self,
        store: ObjectStore,
        key: str,
        *,
        ttl_seconds: float = TICKET_TTL_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
        policy: RetryPolicy | None = None,
        clock: Callable[[], float] = boot_clock,
        holder: Holder | None = None,
    ) -> None:
        super().__init__(store, key, ttl_seconds=ttl_seconds, policy=policy, clock=clock, holder=holder)
        self._settle_seconds = settle_seconds
        self._ticket: Ticket | None = None
        self._placed: set[Ticket] = set()
        self._watches: dict[str, Watch] = {}
        self._renewed_at = float("-inf")

    def acquire(self, timeout_seconds: float, *, force: bool = False) -> None:
        """Takes a ticket and waits for its turn; see `Lease.acquire`."""
        began = self._clock()
        self._stop.clear()
        self._acquired_at_us = now_us()
        try:
            # Tried first: a ticket that can't be removed again would block every writer.
            self._remove(Ticket(0, self.holder.owner))
            tickets = self._take_a_number()
            self._start_renewing()
            self._wait_for_turn(tickets, began, timeout_seconds, force=force)
        except RemoteAccessError as error:
            self.release()
            raise RemoteAccessError(
                f"writers of {self._name} wait for their turn by tickets, which need the rights to read, write, "
                f"list and delete (s3:GetObject, s3:PutObject, s3:ListBucket, s3:DeleteObject): {error}",
                object_name=error.object_name,
                operation=error.operation,
            ) from error
        except BaseException:
            self.release()
            raise

    def _take_a_number(self) -> dict[Ticket, StoredObject]:
        """Writes a ticket with a number above all others; returns the tickets that were there afterwards.

        A writer that saw the choosing ticket without a renewal for a whole TTL removed it, and did not wait for
        the number. So a number counts only if the choosing ticket was still there after it was written.
        """
        choosing = Ticket(0, self.holder.owner)
        while True:
            self._put(choosing)
            self._ticket = Ticket(next_number(list(self._tickets())), self.holder.owner)
            self._renewed_at = self._clock()
            self._put(self._ticket)
            tickets = self._tickets()
            if choosing in tickets:
                self._remove(choosing)
                return tickets
            self._remove(self._ticket)

    def _wait_for_turn(
        self, tickets: dict[Ticket, StoredObject], began: float, timeout_seconds: float, *, force: bool
    ) -> None:
        clear_before = False
        while True:
            before = [found for ticket, found in tickets.items() if stands_before(self._mine(), ticket)]
            waiting = [found for found in before if not self._remove_if_abandoned(found, force=force)]
            waited = self._clock() - began
            if not waiting and clear_before:
                self._raise_unless_there(self._mine(), tickets)
                return
            if waiting and waited >= timeout_seconds:
                raise self._timeout_error(waiting[0].key, waited)
            # The queue has to be clear in a second listing too: a store may list a write a little late.
            clear_before = not waiting
            poll = min(poll_seconds(waited, self._ttl_seconds), timeout_seconds - waited)
            if clear_before:
                self._policy.sleep(self._settle_seconds)
            else:
                self._policy.await_lock(poll)
            tickets = self._tickets()

    def _mine(self) -> Ticket:
        if self._ticket is None:
            raise LockLostError(f"no ticket is held for {self._name}; open the database again")
        return self._ticket

    def _tickets(self) -> dict[Ticket, StoredObject]:
        prefix = f"{self._key}."
        found = {}
        for entry in self._store.list(prefix):
            ticket = parse_ticket(entry.key[len(prefix) :])
            if ticket is not None:
                found[ticket] = entry
        return found

    def _remove_if_abandoned(self, found: StoredObject, *, force: bool) -> bool:
        """Removes a ticket whose holder is dead or has not renewed it for a whole TTL; True if it did."""
        now = self._clock()
        watch = self._watches.get(found.key)
        if watch is None or watch.etag != found.etag:
            self._watches[found.key] = watch = Watch(found.etag, now)
            record = record_of(self._store, found.key)
            gone = record is not None and is_dead(record.holder)
        else:
            gone = now - watch.since_seconds >= self._ttl_seconds
        if gone or force:
            _log.warning("the ticket %s was removed: its holder has ended or does not renew it", found.key)
            self._store.delete(found.key)
            self.taken_over = True
        return gone or force

    def _put(self, ticket: Ticket) -> None:
        self._placed.add(ticket)
        record = LeaseRecord(
            held=True,
            holder=self.holder,
            token=secrets.token_hex(16),
            ttl_seconds=self._ttl_seconds,
            acquired_at_us=self._acquired_at_us,
            written_at_us=now_us(),
        )
        self._store.put(f"{self._key}.{ticket.suffix()}", encode_lease(record))

    def _remove(self, ticket: Ticket) -> None:
        self._store.delete(f"{self._key}.{ticket.suffix()}")
        self._placed.discard(ticket)

    # -- keeping ---------------------------------------------------------------------------

    def renew(self) -> None:
        """Writes the ticket again, unless another writer removed it.

        Raises:
            LockLostError: It was removed.
        """
        with self._mutex:
            if self._ticket is None or self._stop.is_set():
                return
            self._raise_unless_there(self._ticket, self._tickets())
            renewed_before, self._renewed_at = self._renewed_at, self._clock()
            self._put(self._ticket)
            if self._clock() - renewed_before >= self._ttl_seconds:
                # It may have been removed between the listing and the write, which would bring it back.
                self._lost = "it was not renewed for a whole TTL"
                self._remove(self._ticket)
                self._raise_if_lost()

    def check(self) -> None:
        """Makes sure, by one listing, that the ticket is still there.

        Raises:
            LockLostError: It is not; every change is still pending.
        """
        with self._mutex:
            self._raise_if_lost()
            self._raise_unless_there(self._mine(), self._tickets())

    def _raise_unless_there(self, mine: Ticket, tickets: Container[Ticket]) -> None:
        if self._lost is None and mine not in tickets:
            self._lost = "another writer removed its ticket"
        self._raise_if_lost()

    def _release_held(self) -> None:
        """Removes the tickets, lost ones too, so that they block no other writer."""
        for ticket in sorted(self._placed):
            try:
                self._remove(ticket)
            except Error as error:
                _log.warning("the ticket for %s could not be removed: %s", self._name, error)
        self._forget()

    def _forget(self) -> None:
        self._ticket = None
        self._placed.clear()

    # -- messages ---------------------------------------------------------------------------

    @property
    def _title(self) -> str:
        return f"the ticket for {self._name}"

    def _timeout_error(self, key: str, waited_seconds: float) -> LockTimeoutError:
        record = record_of(self._store, key)
        holder = describe(record) if record is not None else UNKNOWN_HOLDER
        return LockTimeoutError(
            f"the database is locked by {holder} (ticket {key!r} at {self._store.location}), which did not "
            f"release it within {waited_seconds:.0f} seconds; wait longer with lock_timeout, or, if that writer "
            "has surely ended, use force_lock=True or 'ebooklet-tx unlock'",
            object_name=key,
            operation="lock",
        )


def read_tickets(store: ObjectStore, key: str) -> list[tuple[StoredObject, LeaseRecord | None]]:
    """Returns every ticket with the record of its holder, None where that can't be read."""
    prefix = f"{key}."
    listed = [found for found in store.list(prefix) if parse_ticket(found.key[len(prefix) :])]
    return [(found, record_of(store, found.key)) for found in listed]


def record_of(store: ObjectStore, key: str) -> LeaseRecord | None:
    """Reads a ticket; None when it was removed, or is no ticket of ours."""
    try:
        blob = store.get(key, max_bytes=MAX_LOCK_BYTES)
        return decode_lease(blob.data, name=key) if blob is not None else None
    except (ObjectMissingError, RemoteIntegrityError):
        return None
