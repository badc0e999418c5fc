"""Changes: how a database differs from its remote, and how to push, pull, resolve or discard the difference.

The invariant: each answer is read from the journal when it is asked for, after uncommitted writes are committed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

from ebooklet_tx.connection import Connection
from ebooklet_tx.errors import InvalidArgumentError, SessionClosedError
from ebooklet_tx.formats.checks import message_of
from ebooklet_tx.html_tables import counted, html_table
from ebooklet_tx.keys import several
from ebooklet_tx.local.journal.entries import PENDING_SET, entries_where, pending_entries
from ebooklet_tx.local.journal.pending.discard import discard
from ebooklet_tx.local.journal.pending.glance import Glance, first_changes, glance
from ebooklet_tx.progress import ProgressOption, telling
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.commit.push import PushResult, push
from ebooklet_tx.sync.pull.conflicts import Conflict, find_conflicts
from ebooklet_tx.sync.pull.pull import PullResult, pull
from ebooklet_tx.sync.pull.resolve import Resolver, apply, decide_keys
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.read.whole_index import refresh_index
from ebooklet_tx.sync.session import Session
from ebooklet_tx.timestamps import as_datetime
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.unshared import Unshared

_NO_CHOICE = object()

SHOWN_CHANGES = 20
"""How many pending changes a notebook shows."""


class Host(Protocol):
    """What a `Change` asks of the database that made it."""

    _session: Session
    _connection: Connection

    @property
    def writable(self) -> bool: ...

    @property
    def closed(self) -> bool: ...

    @property
    def _state(self) -> str: ...

    def _usable(self) -> Session: ...

    def _outside_transaction(self, what: str) -> AbstractContextManager[Session]: ...


class Change(Unshared):
    """The difference between a session and its remote.

    Examples:
        >>> changes = db.changes()
        >>> db["a"] = 10
        >>> bool(changes.push()), bool(changes.push())
        (True, False)
    """

    def __init__(self, database: Host) -> None:
        self._database = database

    def _look(self) -> Glance | None:
        """Returns what is at hand, without a request and without a commit; None where nothing is."""
        try:
            return glance(self._database._usable().journal)
        except SessionClosedError:
            return None

    def __repr__(self) -> str:
        path, found = str(self._database._session.local.path), self._look()
        counts = self._database._state if found is None else _counts(found, self._written)
        return f"<ebooklet_tx changes of {path!r} to {self._database._connection.url}: {counts}>"

    def _repr_html_(self) -> str:
        session, found = self._database._session, self._look()
        title = f"Changes of {session.local.path} to {self._database._connection.url}"
        if found is None:
            return html_table(title, [(self._database._state,)])
        shown = first_changes(session.journal, SHOWN_CHANGES)
        rows = [(key, "set" if kind == PENDING_SET else "delete") for key, kind in shown]
        if found.has_more or found.sets + found.deletes > len(rows):
            rows.append(("...", ""))
        return html_table(f"{title}: {_counts(found, self._written)}", rows, heads=("key", "operation"))

    @property
    def _written(self) -> int:
        return len(self._database._session.local.overlay.operations)

    def _committed(self, what: str, *, fold: bool = False) -> Session:
        with self._database._outside_transaction(what) as session:
            session.local.commit(fold=fold)
        return session

    @contextmanager
    def _reading(self, what: str) -> Iterator[Session]:
        """Commits what was written, then holds the mutex while the journal is read."""
        session = self._committed(what) if self._database.writable else self._database._usable()
        with session.mutex:
            yield session

    @at_edge
    def pull(self, *, progress: ProgressOption = None) -> PullResult:
        """Applies what other writers have pushed; costs one request when there is nothing new.

        Pending changes stay as they are; `conflicts` lists those that another writer's changes meet.

        Args:
            progress: As in `push`.

        Raises:
            RemoteMissingError: The remote is gone; everything local is kept.
            UUIDMismatchError: Another database lies there; nothing was changed.
            OfflineError: The store can't be reached; nothing was changed.

        Examples:
            >>> bool(db.changes().pull())  # Nothing new.
            False
        """
        with telling(progress):
            result = pull(self._committed("pull") if self._database.writable else self._database._usable())
            refresh_index(self._database._usable())
        return result

    @at_edge
    def push(
        self,
        force_push: bool = False,
        *,
        on_conflict: str | Resolver | None = None,
        message: str = "",
        progress: ProgressOption = None,
    ) -> PushResult:
        """Publishes every pending change as one commit; true when the remote changed.

        What is written is synced first, as by `sync`.

        Args:
            force_push: Overwrite keys that another writer changed too, create the database again where the
                remote has vanished, and make a commit although nothing is pending.
            on_conflict: What to do about keys that another writer changed too: "raise", "ours", "theirs",
                "newest" (by timestamp), or a function that gets a `Conflict` and returns the value
                to keep, or `MISSING` to delete the key. None for what the database was opened with. A local
                change gives way only to the version that the remote has when the push ends.
            message: What the history says of the commit, up to 4 KiB. A push that turns out to have succeeded
                before keeps the message that it had then.
            progress: Told how far this is: a function that gets each `Progress`, or True for a bar. None for what
                the database was opened with.

        Raises:
            InvalidArgumentError: The message can't be kept; everything stays pending.
            ConflictError: Another writer changed some of the same keys; nothing was pushed.
            RemoteMissingError: The remote is gone; with `force_push`, values that are not on this machine are
                gone with it, and nothing was changed.
            LockLostError: Another writer took the lock over; everything stays pending.
            OfflineError: The store can't be reached; everything stays pending.

        Examples:
            >>> db["a"] = 10
            >>> db.changes().push(on_conflict=lambda conflict: max(conflict.ours, conflict.theirs)).updated
            True
            >>> db["a"] = 11
            >>> db.changes().push(message="gauge 7 recalibrated").seq
            3
        """
        said = message_of(message)
        session = self._committed("push", fold=True)
        choice = session.on_conflict if on_conflict is None else on_conflict
        with telling(progress):
            result = push(session, force=force_push, on_conflict=choice, message=said)
            refresh_index(session)
        return result

    @at_edge
    def update(self) -> None:
        """Commits what was written, so that every answer of this object counts it.

        Examples:
            >>> changes = db.changes()
            >>> changes.update()
        """
        self._committed("update")

    build_changelog = update
    """The name under which programs written for ebooklet 0.10 and later know `update`."""

    @property
    def pending_deletes(self) -> frozenset[str]:
        """The keys that are deleted here and not yet in the remote."""
        with self._reading("pending_deletes") as session:
            return frozenset(
                entry.key
                for entry in entries_where(session.journal, "pending != 0 AND pending = 2")
                if entry.key != METADATA_KEY
            )

    @at_edge
    def iter_changes(self) -> Iterator[dict[str, Any]]:
        """Yields a dict for each pending change, in order of key.

        `key`; `remote_timestamp` and `local_timestamp` as datetimes in UTC, the remote's None for a
        key that it does not have; `operation`, "set" or "delete".

        Examples:
            >>> del db["a"]
            >>> [(change["key"], change["operation"]) for change in db.changes().iter_changes()]
            [('a', 'delete')]
        """
        with self._reading("iter_changes") as session:
            entries = pending_entries(session.journal)
        for entry in entries:
            if entry.key == METADATA_KEY:
                continue
            known = entry.remote_timestamp_us if entry.remote_digest is not None else None
            yield {
                "key": entry.key,
                "remote_timestamp": as_datetime(known),
                "local_timestamp": as_datetime(entry.timestamp_us),
                "operation": "set" if entry.digest is not None else "delete",
            }

    @at_edge
    def conflicts(self) -> list[Conflict]:
        """Returns the keys that were changed here and by another writer, as far as was pulled.

        Examples:
            >>> [conflict.key for conflict in db.changes().conflicts()]
            []
        """
        with self._reading("conflicts") as session:
            return find_conflicts(reader_of(session), session.decode)

    @at_edge
    def resolve(self, keys: str | Iterable[str] | Mapping[str, Any], choice: Any = _NO_CHOICE) -> int:
        """Resolves conflicts by hand; the next push publishes the outcome.

        Args:
            keys: A key, several keys, or a mapping of keys to their choices.
            choice: For all keys: "ours", "theirs", "newest", `MISSING` to delete, a function as in
                `push`, or the value to keep. To keep one of these words as a value, give a function.

        Returns:
            How many conflicts were resolved.

        Raises:
            KeyError: A key is not in conflict; nothing was resolved.

        Examples:
            >>> changes = db.changes()
            >>> changes.resolve([conflict.key for conflict in changes.conflicts()], "ours")
            0
        """
        if isinstance(keys, Mapping):
            choices = dict(keys)
        elif choice is _NO_CHOICE:
            raise InvalidArgumentError(
                "resolve() needs a choice: 'ours', 'theirs', 'newest', a function or a value"
            )
        else:
            choices = dict.fromkeys([keys] if isinstance(keys, str) else keys, choice)
        session = self._committed("resolve")
        resolutions = decide_keys(find_conflicts(reader_of(session), session.decode), choices, session.encode)
        apply(session.journal, resolutions)
        return len(resolutions)

    @at_edge
    def discard(self, keys: Iterable[str] | None = None) -> int:
        """Drops pending changes, of all keys or some: the remote's values show again.

        Returns:
            How many changes were dropped.

        Raises:
            InvalidTypeError: `keys` is a str; give a list for one key.

        Examples:
            >>> db["a"] = 10
            >>> db.changes().discard(["a"]), db["a"]
            (1, 1)
        """
        wanted = None if keys is None else list(several(keys, "discard"))
        session = self._committed("discard")
        return discard(session.journal, wanted)


def _counts(found: Glance, written: int) -> str:
    """Returns the counts of a glance in words, and how many writes are not committed."""
    conflicts = "? conflicts" if found.conflicts is None else counted(found.conflicts, "conflict")
    said = [found.pending_words, conflicts, f"on commit {found.seq}" if found.seq else "on no commit yet"]
    if written:
        said.append(f"{counted(written, 'write')} not committed")
    return ", ".join(said)
