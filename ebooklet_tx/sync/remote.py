"""A database's place in a store, as every part of sync uses it.

Owns no state on disk or in the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.progress import Reporter
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.commit_mode import CommitMode


@dataclass(slots=True)
class Remote:
    """A database's place in a store.

    Attributes:
        store: The store, with its retries.
        names: The names of the database's objects.
        policy: How failing requests are tried again.
        threads: How many requests may be under way at once.
        mode: How commits are made here.
        offline: Whether nothing is to be asked of it.
        other_etags: Objects whose bytes are right under another ETag than the index has.
        given_policy: The policy that the user gave; None where that is the connection's own.
        reporter: What is told how far the operations on it are.
    """

    store: ObjectStore
    names: ObjectNames
    policy: RetryPolicy = field(default_factory=RetryPolicy)
    threads: int = 8
    mode: CommitMode = field(default_factory=CommitMode)
    offline: bool = False
    other_etags: set[str] = field(default_factory=set)
    given_policy: RetryPolicy | None = None
    reporter: Reporter = field(default_factory=Reporter)

    def __post_init__(self) -> None:
        self.mode.location = self.store.location

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
