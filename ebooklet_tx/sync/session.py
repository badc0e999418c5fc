"""A session: one open local store with the remote that it syncs with.

The invariant: local state is touched only while the local store's mutex is held, and no request to the store is
made while it is, so that a slow network never keeps other threads from reading what is here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import BaseIndex
from ebooklet_tx.sync.commit.push_result import Together
from ebooklet_tx.sync.commit.turns import Turns
from ebooklet_tx.sync.commit.writer_locks import WriterLocks
from ebooklet_tx.sync.remote import Remote


def _raw_bytes(_key: str, value: Any) -> Any:
    return value


@dataclass(slots=True)
class Session:
    """An open local store with the remote that it syncs with.

    Attributes:
        local: The local half.
        remote: The remote half.
        locks: What the session holds, or takes, in the remote.
        type: What the database is: `booklet`, or a group.
        serializer_name: How values are encoded; None until the database has one.
        decode: Makes a value of a key's encoded bytes.
        encode: Makes the bytes of a key's value.
        in_transaction: Whether the thread that holds the mutex is inside a transaction.
        on_conflict: What a push does about keys that another writer changed too, where it is not told.
        holds_index: Whether the whole index is brought here after each pull and push.
        at: The snapshot whose commit the session reads; None where it reads the newest.
        ended: Called when the session has ended; None where nothing is left to do.
        push_mutex: Held by one push, compaction or repair at a time.
        index: The index of the remote's commits.
        turns: What is known of the writers that push beside this one.
        together: What the pushes of this session's threads share.
    """

    local: LocalStore
    remote: Remote
    locks: WriterLocks
    type: str = "booklet"
    serializer_name: str | None = None
    decode: Callable[[str, bytes], Any] = _raw_bytes
    encode: Callable[[str, Any], bytes] = _raw_bytes
    in_transaction: bool = False
    on_conflict: Any = "raise"
    holds_index: bool = False
    at: str | None = None
    ended: Callable[[], object] | None = None
    push_mutex: threading.RLock = field(default_factory=threading.RLock)
    index: BaseIndex = field(init=False)
    turns: Turns = field(init=False)
    together: Together = field(default_factory=Together)

    def __post_init__(self) -> None:
        self.turns = Turns(self.remote.policy)
        self.index = BaseIndex(self.local, self.remote)

    @property
    def mutex(self) -> threading.RLock:
        """Held where several uses of the local store belong together; each of them holds it for itself."""
        return self.local.mutex

    @property
    def journal(self) -> Journal:
        return self.local.journal
