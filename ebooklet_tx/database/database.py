"""A database: a mapping that is durable here, and what can be done with its remote.

What is seldom done is imported when it is done: each process that opens a database would pay for it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from ebooklet_tx.connection import RemoteConn, parse_connection
from ebooklet_tx.database.applying import ApplyingDatabase
from ebooklet_tx.database.at_prompt import counts_in_words, keys_at_hand
from ebooklet_tx.errors import InvalidArgumentError, NotPushedWarning, ObjectMissingError, RemoteMissingError
from ebooklet_tx.formats.checks import message_of
from ebooklet_tx.keys import several
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.known import is_any_pending
from ebooklet_tx.local.journal.pending.glance import glance
from ebooklet_tx.progress import ProgressOption, telling
from ebooklet_tx.records import CommitRecord, KeyChange
from ebooklet_tx.sync.connecting import remote_at
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.read.whole_index import load_index, refresh_index
from ebooklet_tx.tracebacks import at_edge

if TYPE_CHECKING:
    from ebooklet_tx.changes import Change
    from ebooklet_tx.maintenance.check_reports import CompactReport
    from ebooklet_tx.maintenance.copy import CopyReport
    from ebooklet_tx.maintenance.erase import EraseReport
    from ebooklet_tx.maintenance.snapshots.kept import Snapshot
    from ebooklet_tx.maintenance.snapshots.restore import RestoreResult


class Database(ApplyingDatabase):
    """An open database: a mapping of str keys to values, local first, pushed on demand.

    Threads may share one session. A forked process opens its own.

    Examples:
        >>> with ebooklet_tx.open(remote, "other.blt", "w", "orjson") as other:
        ...     other["c"] = [1, 2, 3]
        ...     print(dict(other), bool(other.changes().push()))
        {'a': 1, 'b': 2, 'c': [1, 2, 3]} True
    """

    _noun = "database"

    @property
    def _n_buckets(self) -> int:
        """The Booklet's hash buckets, under the name that programs written for ebooklet read."""
        return self._usable().local.file.header.n_buckets

    @property
    def _local_file(self) -> Database:
        """The local half, for the same programs; here it is the database itself."""
        return self

    @at_edge
    def changes(self) -> Change:
        """Returns what differs from the remote, with the ways to pull, push or discard it.

        Examples:
            >>> db["a"] = 10
            >>> [change["key"] for change in db.changes().iter_changes()]
            ['a']
        """
        from ebooklet_tx.changes import Change

        self._usable()
        return Change(self)

    @at_edge
    def history(self, limit: int = 20) -> list[CommitRecord]:
        """Returns the newest commits up to the one on which this session stands, the newest first.

        The remote keeps some 10,000. The newest are on this machine; older ones are read from the remote.

        Args:
            limit: How many at most.

        Raises:
            InvalidArgumentError: The limit is no positive int.
            OfflineError: Older ones are wanted, and the remote can't be reached.

        Examples:
            >>> [(commit.seq, commit.set_count, commit.message) for commit in db.history()]
            [(1, 2, '')]
        """
        if isinstance(limit, bool) or not isinstance(limit, int) or limit < 1:
            raise InvalidArgumentError(f"limit must be an int from 1 on, not {limit!r}")
        session = self._usable()
        view = session.index.of_base(read_base(session.journal))
        return [] if view is None else view.remote.history.newest(view.manifest, limit)

    @at_edge
    def snapshot(self, name: str, *, message: str = "") -> Snapshot:
        """Keeps the remote's newest commit under a name, until it is deleted by `delete_snapshot`.

        It costs three small requests whatever the size, and afterwards the room of what is replaced or deleted
        since: `collect` keeps it. `open(..., at=name)` reads it, `restore` makes it the newest commit.

        Args:
            name: 1 to 64 letters, digits, dots, dashes and underscores, the first a letter or digit; not digits
                alone.
            message: What is said of it, up to 4 KiB.

        Raises:
            RemoteMissingError: Nothing was pushed yet.
            InvalidArgumentError: There is a snapshot of that name, or name or message can't be kept.
            OfflineError: The store can't be reached; `snapshots` tells later whether it was made.

        Warns:
            NotPushedWarning: Changes are pending; they are not in the snapshot.

        Examples:
            >>> kept = db.snapshot("before-cleanup", message="as delivered")
            >>> kept.seq, kept.key_count
            (1, 2)
        """
        from ebooklet_tx.maintenance.snapshots import kept

        kept.check_name(name)
        said = message_of(message)
        with self._outside_transaction("snapshot") as session:
            session.local.commit()
            with session.journal.reading() as raw:
                pending = is_any_pending(raw)
        if not read_base(session.journal).seq:
            # Another writer may have made the database meanwhile: then this becomes a copy of that one.
            pull(session)
        made = kept.create(session.remote, name, uuid=self.uuid, message=said)
        if pending:
            warnings.warn(
                f"changes in {session.local.path} are not pushed, so they are not in the snapshot {name!r}, "
                f"which is of commit {made.seq}",
                NotPushedWarning,
                stacklevel=3,
            )
        return made

    @at_edge
    def snapshots(self) -> list[Snapshot]:
        """Returns the snapshots of the database, the oldest first.

        Costs a listing, and a small request for each.

        Raises:
            ReadOnlyError: The remote is a public address, which can't be listed.
            OfflineError: The store can't be reached.

        Examples:
            >>> made = db.snapshot("monday", message="as delivered")
            >>> [(one.name, one.seq, one.message) for one in db.snapshots()]
            [('monday', 1, 'as delivered')]
        """
        from ebooklet_tx.maintenance.snapshots import kept

        return kept.listed(self._usable().remote, uuid=self.uuid)

    @at_edge
    def restore(self, name: str, *, message: str = "") -> RestoreResult:
        """Makes the state of a snapshot the remote's newest commit: all keys, values and the metadata.

        It is one commit, made at once or not at all, and no value is sent. The history stays, so the state before
        can be kept by a snapshot of its own. The newest commit is pulled first. What is pending here after that
        stays pending; the result tells which of it conflicts with what was restored.

        Args:
            name: The snapshot's name.
            message: What the history says of the commit; empty for "restored the snapshot ...".

        Raises:
            RemoteMissingError: There is no such snapshot; nothing was changed.
            InvalidArgumentError: A transaction is at work, or name or message can't be.
            LockLostError: Another writer took the lock over; nothing was changed.
            OfflineError: The store keeps failing; call it again.

        Examples:
            >>> made = db.snapshot("monday")
            >>> db.clear()
            >>> bool(db.changes().push()), dict(db)
            (True, {})
            >>> db.restore("monday").seq, dict(db)
            (3, {'a': 1, 'b': 2})
        """
        from ebooklet_tx.maintenance.snapshots import kept
        from ebooklet_tx.maintenance.snapshots.restore import restore

        kept.check_name(name)
        said = message_of(message)
        with self._outside_transaction("restore") as session:
            pass
        result = restore(session, name, message=said)
        refresh_index(session)
        return result

    @at_edge
    def delete_snapshot(self, name: str) -> None:
        """Deletes a snapshot; `collect` frees in its time what only that one kept.

        Raises:
            RemoteMissingError: There is no snapshot of that name.
            OfflineError: The store can't be reached; call it again.

        Examples:
            >>> made = db.snapshot("monday")
            >>> db.delete_snapshot("monday")
            >>> db.snapshots()
            []
        """
        from ebooklet_tx.maintenance.snapshots import kept

        kept.check_name(name)
        kept.delete(self._writing().remote, name)

    @at_edge
    def diff(self, a: int | str | None = None, b: int | str | None = None) -> Iterator[KeyChange]:
        """Yields the keys whose values differ between two states, in order, each as (key, kind).

        Costs the parts of the index that differ, and no value is read. The metadata is left out, and a timestamp
        alone makes no difference.

        Args:
            a: From which state: the name of a snapshot, or the seq or id of a commit as `history` shows them.
                None, with no `b`, for what is pending here.
            b: To which; None for the commit on which this session stands.

        Returns:
            `KeyChange` of kind `added`, `changed` or `removed`. The remote keeps the state of its newest commit
            and of snapshots. From another commit it can only be told what was written since: `set`, also where
            `compact` has moved the value, or `removed`.

        Raises:
            InvalidArgumentError: There is no such commit, or what differs can't be told.
            RemoteMissingError: There is no such snapshot, or no commit yet; or a state is gone meanwhile.
            OfflineError: A part is not here, and the remote can't be reached.

        Examples:
            >>> made = db.snapshot("monday")
            >>> db["a"], db["c"] = 10, 3
            >>> [tuple(change) for change in db.diff()]
            [('a', 'changed'), ('c', 'added')]
            >>> bool(db.changes().push()), dict(db.diff("monday"))
            (True, {'a': 'changed', 'c': 'added'})
        """
        from ebooklet_tx.maintenance.snapshots import difference

        session = self._usable()
        if self.writable:
            with self._outside_transaction("diff"):
                session.local.commit()
        reader = reader_of(session)
        if a is None and b is None:
            return self._differences(difference.pending_changes(reader))
        if a is None:
            raise InvalidArgumentError("give the state from which to compare as well: diff(a, b)")
        one, other = difference.state_of(reader, self.uuid, a), difference.state_of(reader, self.uuid, b)
        difference.check_comparable(one, other)
        return self._differences(difference.differences(one, other))

    @at_edge
    def _differences(self, changes: Iterator[KeyChange]) -> Iterator[KeyChange]:
        try:
            for change in changes:
                yield change
                self._usable()
        except ObjectMissingError as error:
            raise RemoteMissingError(
                "a state that was to be compared is gone meanwhile: a snapshot was deleted, or a newer commit "
                f"came; pull, and ask again ({error})"
            ) from error
        self._usable().local.keep_pieces()

    @at_edge
    def load_index(self, *, progress: ProgressOption = None) -> None:
        """Brings the whole index here: which keys there are, when each was written, and where its value lies.

        From then on `in`, `len()`, `keys()` and timestamps need no request, and work offline, until a pull moves
        on to another commit. Reads what is not here yet: about 25 bytes a key. It is kept in the journal,
        whatever else is read. `open(..., index="full")` does this at opening and after each pull and push.

        Args:
            progress: As in `Change.push`.

        Raises:
            OfflineError: A part is not here, and the remote can't be reached.
            LockTimeoutError: Another session has the local file open for writing; ask for the index there.
            RemoteIntegrityError: A part is damaged or missing.

        Examples:
            >>> db.load_index()
            >>> "a" in db, len(db)
            (True, 2)
        """
        with telling(progress):
            load_index(reader_of(self._usable()))

    @at_edge
    def compact(
        self, *, live_share: float = 0.5, packs: Collection[str] = (), progress: ProgressOption = None
    ) -> CompactReport:
        """Rewrites packs of the remote that hold mostly dead values, and merges small ones.

        It is a commit of the same values. The old packs stay until `ebooklet_tx.collect` removes them.

        Args:
            live_share: Packs of which less than this share is live are rewritten.
            packs: Names of packs to rewrite in any case, for example because they are damaged.
            progress: As in `Change.push`.

        Raises:
            OfflineError: The store keeps failing; what was sent is kept for the next call.

        Examples:
            >>> db.compact().moved_keys
            0
        """
        from ebooklet_tx.maintenance.compact import compact

        several(packs, "compact(packs=)")
        with self._outside_transaction("compact") as session:
            session.local.commit()
        with telling(progress):
            return compact(session, live_share=live_share, packs=packs)

    @at_edge
    def delete_remote(self) -> EraseReport:
        """Deletes the database in the remote with its snapshots, and nothing else there; the local file is kept.

        The next push sends what is on this machine. Values that were never fetched are lost. Other copies find
        the remote missing.

        Raises:
            UUIDMismatchError, UnsupportedFormatError: Something else lies there; nothing was deleted.
            LockTimeoutError: Another writer holds the remote's lock; nothing was deleted.
            OfflineError: The store keeps failing; call it again to finish.

        Examples:
            >>> db.delete_remote().deleted_objects > 0
            True
            >>> db["a"]
            1
        """
        from ebooklet_tx.maintenance.erase import delete_remote

        with self._outside_transaction("delete_remote") as session:
            pass
        return delete_remote(session)

    @at_edge
    def copy_remote(self, remote_conn: RemoteConn, *, progress: ProgressOption = None) -> CopyReport:
        """Copies the database from the remote to another address; pending changes and snapshots are not copied.

        Inside one store with the same credentials, no value passes through this machine. An interrupted copy
        shows no database at its target; the same call again continues it.

        Args:
            remote_conn: The target, as `open` takes it. No database may be there.
            progress: As in `Change.push`.

        Raises:
            InvalidArgumentError: A database lies there already; nothing was changed.
            ReadOnlyError: The target can only be read.
            OfflineError: A store keeps failing.

        Examples:
            >>> db.copy_remote(remote + "-copy").key_count
            2
        """
        from ebooklet_tx.maintenance.copy import copy_remote

        source = self._usable().remote
        target = remote_at(parse_connection(remote_conn), retry=source.given_policy, for_writing=True)
        with contextlib.closing(target.store), telling(progress):
            return copy_remote(source, target)

    def __repr__(self) -> str:
        place = f"<ebooklet_tx {self._noun} {str(self._session.local.path)!r} of {self._connection.url}"
        if self._closed or self._in_child:
            return f"{place}, {self._state}>"
        local = self._session.local
        counts = counts_in_words(glance(local.journal), len(local.overlay.operations))
        return f"{place}, {self._state}: {counts}>"

    def _ipython_key_completions_(self) -> list[str]:
        """The first keys, up to 2,000, for completion behind `db["`: those that can be told without a request."""
        if self._closed or self._in_child:
            return []
        return keys_at_hand(self._session.local, self._connection)


__all__ = ["Database"]
