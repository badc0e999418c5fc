"""What the parts of sync share: one local store, one remote, and the mutex between threads.

Owns the mutex of a session and nothing on disk. The invariant: local state is touched only while
the mutex is held, and no request to the store is made while it is, so that a slow network never
keeps other threads from reading what is here.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.capabilities import Quoting
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy


def writer_name() -> str:
    """Returns how this process signs its commits, for people to read."""
    host = "".join(letter if letter.isprintable() else "?" for letter in socket.gethostname())
    return f"{host}:{os.getpid()}"


@dataclass(slots=True)
class Remote:
    """A database's place in a store.

    Attributes:
        conditional: Whether commits are made by compare-and-swap; otherwise in one's turn.
        probing: The store to try on whether they can be, None where that is known.
        quoting: The store that sends ETags with quotes or without, None where there is no choice.
        place: Endpoint and bucket, as a root names them; None where roots say nothing of them.
        opinion: What this client holds of the store's conditional writes, None when it has no opinion.
        in_doubt: Whether the next commit has to find out, on the root itself; see `commit_way`.
        racy: Whether creates at once were seen to succeed together, whatever one write shows.
        may_list: False where objects are known to be neither listed nor deleted, so that there are no tickets.
        offline: Whether nothing is to be asked of it.
        other_etags: Objects whose bytes are right under another ETag than the index has.
    """

    store: ObjectStore
    names: ObjectNames
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    threads: int = 8
    conditional: bool = True
    probing: Quoting | None = None
    quoting: Quoting | None = None
    place: tuple[str, str] | None = None
    opinion: bool | None = None
    in_doubt: bool = False
    racy: bool = False
    may_list: bool = True
    offline: bool = False
    other_etags: set[str] = field(default_factory=set)

    def etag_to_match(self, ref: ObjectRef) -> str | None:
        """Returns the ETag that reading an object demands; None where another one is right as well.

        A web server has ETags of its own, and so has a store into which a database was copied. What is
        read there is held to its digest alone.
        """
        return ref.etag if self.store.writable and ref.name not in self.other_etags else None

    def note_other_etag(self, ref: ObjectRef) -> None:
        """Notes that bytes of an object were right although its ETag is not the index's."""
        self.other_etags.add(ref.name)

    @property
    def root_place(self) -> str:
        """The root's name as messages give it."""
        return f"{self.names.root!r} at {self.store.location}"


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


def _raw_bytes(_key: str, value: Any) -> Any:
    return value


@dataclass(slots=True)
class Session:
    """An open local store with the remote that it syncs with.

    Attributes:
        lock: The lock on the remote, held from open to close; None for an optimistic writer.
        commit_lock: Makes a ticket for the time of one commit, where a commit is no compare-and-swap.
        moving_lock: Makes a lease for the time of a commit that changes how commits are made.
        spare: Locks that are taken beside it, or in its place, from before they are taken until they are let go.
        turn: The ticket of a commit at work, or that a push keeps from one round to the next; `turns` has it.
        fence: The root's fence when the lock was taken; a higher one means that it is lost.
        in_transaction: Whether the thread that holds the mutex is inside a transaction.
        on_conflict: What a push does about keys that another writer changed too, where it is not told.
    """

    local: LocalStore
    remote: Remote
    type: str = "booklet"
    serializer_name: str | None = None
    decode: Callable[[str, bytes], Any] = _raw_bytes
    encode: Callable[[str, Any], bytes] = _raw_bytes
    lock: WriterLock | None = None
    commit_lock: Callable[[], WriterLock] | None = None
    moving_lock: Callable[[], WriterLock] | None = None
    fence: int = 0
    commit_timeout_seconds: float = 300.0
    turn: WriterLock | None = None
    spare: list[WriterLock] = field(default_factory=list)
    in_transaction: bool = False
    on_conflict: Any = "raise"
    push_mutex: threading.RLock = field(default_factory=threading.RLock)

    @property
    def mutex(self) -> threading.RLock:
        """Held where several uses of the local store belong together; each of them holds it for itself."""
        return self.local.mutex

    @property
    def journal(self) -> Journal:
        return self.local.journal

    def release_locks(self) -> None:
        """Gives back what is held, or may be, in the remote; twice is no error."""
        for lock in (*self.spare, self.turn, self.lock):
            if lock is not None:
                lock.release()
