"""The coordinator's side of forks: a database that hands itself to workers, and takes in what they changed.

What forks alone need is imported when one is made or merged: each process that opens a database would pay for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebooklet_tx.database.writing import WritableDatabase
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.limits import MAX_FORK_SECONDS
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.sync.pull.resolve import Resolver, check_choice
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.tracebacks import at_edge

if TYPE_CHECKING:
    from ebooklet_tx.database.forking import Fork
    from ebooklet_tx.sync.forks.merge import MergeResult
    from ebooklet_tx.sync.forks.receipt import Receipt


class ForkingDatabase(WritableDatabase):
    """The part of a database that hands it to workers, and takes in what they changed."""

    @at_edge
    def fork(self, ttl_seconds: int = 86_400) -> Fork:
        """Returns a handle on the remote's newest commit, for workers on any machine.

        Three small requests, whatever the size. `collect` leaves alone what the workers read and send until
        `ttl_seconds` after the fork was made. What is pending here is not seen by them: push first.

        Args:
            ttl_seconds: From 1 second to 30 days.

        Raises:
            RemoteMissingError: Nothing was pushed yet.
            InvalidArgumentError: No such time can be, or the next push replaces the database.
            OfflineError: The store can't be reached.

        Examples:
            >>> fork = db.fork(ttl_seconds=3600)
            >>> fork.base_seq
            1
        """
        from ebooklet_tx.database.forking import Fork
        from ebooklet_tx.sync.forks.begin import begin

        if isinstance(ttl_seconds, bool) or not isinstance(ttl_seconds, int):
            raise InvalidArgumentError(f"ttl_seconds must be an int, not {ttl_seconds!r}", operation="fork")
        if not 1 <= ttl_seconds <= MAX_FORK_SECONDS:
            raise InvalidArgumentError(
                f"ttl_seconds must be from 1 to {MAX_FORK_SECONDS}, not {ttl_seconds}", operation="fork"
            )
        session = self._writing()
        if session.type != "booklet":
            raise InvalidArgumentError(
                "a connection group is not forked; its entries are few, and one writer sets them",
                operation="fork",
            )
        if is_replacing(session.journal):
            raise InvalidArgumentError(
                "the next push replaces the whole database, so a fork of what is there now makes no sense; push "
                "first",
                operation="fork",
            )
        note, fetched = begin(session.remote, uuid=self.uuid, ttl_seconds=ttl_seconds)
        return Fork(
            fork_id=note.fork_id,
            uuid=note.uuid,
            base_seq=fetched.manifest.seq,
            base_commit_id=fetched.manifest.commit_id,
            address=self._connection.to_dict(),
            value_serializer=fetched.manifest.value_serializer,
            ttl_seconds=ttl_seconds,
        )

    @at_edge
    def merge(self, *receipts: Receipt, on_conflict: str | Resolver = "raise") -> MergeResult:
        """Takes in what workers changed: it is pending here, and the next push commits all of it at once.

        No value passes through this machine: some 30 to 60 bytes a key do. A receipt that was taken in before
        counts once. What another writer has changed since the fork was made comes up at the push, key by key,
        as with any writer.

        Args:
            receipts: What the workers handed back.
            on_conflict: What becomes of a key that two workers changed, or a worker and this session: "raise",
                "ours" (what is pending here, or comes first), "theirs", "newest" by timestamp, or a function
                that gets a `Conflict` and returns the value to keep, or `MISSING` to delete the key.

        Raises:
            ConflictError: A key was changed twice; it names both workers, and nothing was taken in.
            RemoteMissingError: What a receipt names is gone, as its fork has expired.
            RemoteIntegrityError: It is damaged.
            InvalidArgumentError: It is of another database, or can't be one; or a transaction is at work.
            OfflineError: The store can't be reached; nothing was taken in.

        Examples:
            >>> fork = db.fork()
            >>> with fork.open() as one, fork.open() as other:
            ...     one["a"], other["b"] = 10, 20
            >>> db.merge(one.receipt, other.receipt).set_count
            2
            >>> db.changes().push().set_count, dict(db)
            (2, {'a': 10, 'b': 20})
        """
        from ebooklet_tx.sync.forks.merge import merge
        from ebooklet_tx.sync.forks.receipt import check_receipt

        check_choice(on_conflict)
        with self._outside_transaction("merge") as session:
            session.local.commit()
        checked = [check_receipt(receipt, uuid=self.uuid) for receipt in receipts]
        return merge(reader_of(session), session.decode, session.encode, checked, on_conflict)


__all__ = ["ForkingDatabase"]
