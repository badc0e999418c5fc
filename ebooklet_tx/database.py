"""The mapping: one open database, as a dict that is durable and can be pushed.

Owns a session: its mutex, its transaction, and the word that it is closed. The invariant: every
write goes through the overlay and becomes durable by a commit of the local store; every value that
is returned was checked against its digest.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import warnings
import weakref
from collections.abc import (
    Collection,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    MutableMapping,
    Sequence,
    ValuesView,
)
from itertools import chain, islice
from typing import Any, Literal, Self, overload

from ebooklet_tx.changes import Change
from ebooklet_tx.connection import Connection, parse_connection
from ebooklet_tx.ending import Ending
from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ReadOnlyError,
    SessionClosedError,
)
from ebooklet_tx.keys import check_key, is_text, several, text_of
from ebooklet_tx.local.journal.entries import iter_pages, visible_count
from ebooklet_tx.local.journal.inline_values import prune_inline_values
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.maintenance.check_reports import CompactReport
from ebooklet_tx.maintenance.compact import compact
from ebooklet_tx.maintenance.copy import CopyReport, copy_remote
from ebooklet_tx.maintenance.erase import EraseReport, delete_remote
from ebooklet_tx.parallel import ItemFunction, map_items
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.connecting import remote_at
from ebooklet_tx.sync.read.fetch import Found, fetch_many, read_value
from ebooklet_tx.sync.read.load import load_all, load_some
from ebooklet_tx.sync.read.reader import reader_of
from ebooklet_tx.sync.session import Session, WriterLock
from ebooklet_tx.timestamps import Timestamp, timestamp_us
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.unshared import Unshared
from ebooklet_tx.values.serializers import Serializer, checked_value, decode_metadata, encode_metadata
from ebooklet_tx.views import ItemsOf, KeysOf, ValuesOf

_log = logging.getLogger("ebooklet_tx")

DROPPED_WAIT_SECONDS = 5.0
"""How long the end of a program waits for another thread that is at work in a session."""

MAP_PAGE_KEYS = 200
"""How many values `map` fetches together."""

PAGE_KEYS = 1000
MAX_PAGE_KEYS = 64_000
"""Keys are looked up a page at a time, the first page small and those behind it larger."""

_MISSING = object()
_MISSING_HERE = object()

_open_databases: weakref.WeakValueDictionary[int, Database] = weakref.WeakValueDictionary()


class Database(Unshared, MutableMapping[str, Any]):
    """An open database: a mapping of str keys to values, local first, pushed on demand.

    Threads may share one session. A process that was forked from it may not: it opens its own.
    """

    def __init__(
        self, session: Session, serializer: Serializer, connection: Connection, *, buffer_size: int
    ) -> None:
        self._session = session
        self._serializer = serializer
        self._connection = connection
        self._buffer_size = max(buffer_size, 1)
        self._write_buffer_size = self._buffer_size
        self._pid = os.getpid()
        self._closed = False
        # The last one added is the first to run.
        self._ending = Ending()
        self._ending.add(session.remote.store.close)
        self._ending.add(session.release_locks)
        self._ending.add(session.local.close)
        self._in_child = False
        self._in_transaction = False
        _open_databases[id(self)] = self

    # -- state -----------------------------------------------------------------------------

    @property
    def writable(self) -> bool:
        """Whether this session may write."""
        return self._session.local.writable

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._closed

    @property
    def offline(self) -> bool:
        """Whether this session was opened without its remote."""
        return self._session.remote.offline

    @property
    def lock(self) -> WriterLock | None:
        """The lock on the remote that this session holds until it is closed; None where it holds none."""
        return self._session.lock

    @property
    def uuid(self) -> str:
        """The database's identity, 32 hex digits, the same on every machine."""
        return self._usable().local.file.header.uuid.hex()

    @property
    def _n_buckets(self) -> int:
        """The Booklet's hash buckets, under the name by which programs written for ebooklet ask."""
        return self._usable().local.file.header.n_buckets

    @property
    def _local_file(self) -> Database:
        """What such programs ask for the local half; here both halves have one face."""
        return self

    def _usable(self) -> Session:
        if not (self._closed or self._in_child):
            return self._session
        if self._in_child:
            raise SessionClosedError(
                f"{self._session.local.path} was opened by the process {self._pid} that this one was forked "
                "from; open it again here",
                path=self._session.local.path,
            )
        raise SessionClosedError(
            f"{self._session.local.path} is closed; open it again", path=self._session.local.path
        )

    def _writing(self) -> Session:
        session = self._usable()
        if not session.local.writable:
            raise ReadOnlyError(
                f"{session.local.path} is open for reading; open it with flag 'w' to change it",
                path=session.local.path,
            )
        return session

    @contextlib.contextmanager
    def _outside_transaction(self, what: str) -> Iterator[Session]:
        """Holds the mutex, waiting for another thread's transaction; refuses inside one's own."""
        session = self._writing()
        with session.mutex:
            self._usable()
            if self._in_transaction:
                raise InvalidArgumentError(
                    f"{what} can't take place inside a transaction; end the block first", operation=what
                )
            yield session

    # -- reading ---------------------------------------------------------------------------

    def _read(self, key: str) -> tuple[int, bytes] | None:
        """Returns timestamp and encoded value of a key, uncommitted writes included."""
        session = self._usable()
        with session.mutex:
            overlay = session.local.overlay
            operation = overlay.operations.get(key)
            if operation is not None:
                value, stamp = operation
                return None if value is None else (stamp, value)
            if overlay.cleared and key != METADATA_KEY:
                return None
            here = session.local.read_here(key)
        if here is not None:
            return here
        found = read_value(reader_of(session), key)
        return None if found is None else (found[0].timestamp_us, found[1])

    def _read_user(self, key: object) -> tuple[int, bytes] | None:
        """Like `_read`, for keys that users give: the metadata's is none of theirs."""
        return self._read(text) if (text := text_of(key)) else None

    @at_edge
    def __getitem__(self, key: str) -> Any:
        found = self._read_user(key)
        if found is None:
            raise KeyError(key)
        return self._serializer.loads(key, found[1])

    @at_edge
    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or `default` when there is none."""
        found = self._read_user(key)
        return default if found is None else self._serializer.loads(key, found[1])

    @at_edge
    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and is_text(key) and self._timestamp_of(key) is not None

    def _timestamp_of(self, key: str) -> int | None:
        session = self._usable()
        if not key:
            return None
        with session.mutex:
            overlay = session.local.overlay
            operation = overlay.operations.get(key)
            if operation is not None:
                return None if operation[0] is None else operation[1]
            entry = None if overlay.cleared else session.local.entry(key)
            return None if entry is None or entry.digest is None else entry.timestamp_us

    @at_edge
    def __len__(self) -> int:
        session = self._usable()
        with session.mutex:
            overlay = session.local.overlay
            count = 0 if overlay.cleared else visible_count(session.journal)
            for key, (value, _) in overlay.operations.items():
                if key == METADATA_KEY:
                    continue
                entry = None if overlay.cleared else session.local.entry(key)
                there = entry is not None and entry.digest is not None
                count += (value is not None) - there
            return count

    def __iter__(self) -> Iterator[str]:
        return self._iter_keys("")

    @at_edge
    def _iter_keys(self, prefix: str) -> Iterator[str]:
        for page in self._key_pages(prefix):
            yield from page

    def _key_pages(self, prefix: str) -> Iterator[list[str]]:
        """Yields visible keys in order, a page at a time, each merged with what is uncommitted.

        Writing while iterating is allowed; a key that is there all the while comes exactly once.
        """
        session = self._usable()
        after = ""
        pages = iter_pages(session.journal, prefix)
        while True:
            self._usable()
            with session.mutex:
                overlay = session.local.overlay
                committed = [] if overlay.cleared else next(pages, [])
                upto = committed[-1] if committed else None
                page = {key for key in committed if key > after}
                for key, (value, _) in overlay.operations.items():
                    if key <= after or not key.startswith(prefix) or (upto is not None and key > upto):
                        continue
                    if value is None:
                        page.discard(key)
                    else:
                        page.add(key)
            yield sorted(page)
            if upto is None:
                return
            after = upto

    @at_edge
    def keys(self, prefix: str = "") -> KeysView[str]:
        """Returns a view of the keys in order, all of them or those with a prefix."""
        self._usable()
        return KeysOf(self, text_of(prefix))

    @at_edge
    def items(self) -> ItemsView[str, Any]:
        """Returns a view of the pairs in order of key; values that are not here are fetched."""
        self._usable()
        return ItemsOf(self)

    @at_edge
    def values(self) -> ValuesView[Any]:
        """Returns a view of the values in order of key; those that are not here are fetched."""
        self._usable()
        return ValuesOf(self)

    @at_edge
    def _iter_items(self) -> Iterator[tuple[str, Any]]:
        for key, value in self._read_many(chain.from_iterable(self._key_pages("")), in_order=True):
            if isinstance(value, Error):
                raise value
            if value is not None:
                yield key, self._serializer.loads(key, value)

    def _read_many(self, keys: Iterable[str], *, in_order: bool = False) -> Iterator[tuple[str, Found]]:
        """Yields what each key has, uncommitted writes included, in the order of the keys.

        With `in_order` they are the journal's own from one to another, merged with what is uncommitted.
        """
        session = self._usable()
        for page in _pages(keys):
            uncommitted = self._uncommitted(page)
            others = [key for key in page if key not in uncommitted]
            committed = fetch_many(reader_of(session), others, in_order=in_order)
            for key in page:
                yield (key, uncommitted[key]) if key in uncommitted else next(committed)

    def _uncommitted(self, keys: Sequence[str]) -> dict[str, bytes | None]:
        """Returns what uncommitted writes say of keys; an empty one, which is nobody's, is not there."""
        session = self._usable()
        with session.mutex:
            overlay = session.local.overlay
            written = {key: overlay.operations[key][0] for key in keys if key in overlay.operations and key}
            gone = {key: None for key in keys if not key or (overlay.cleared and key not in written)}
        return {**gone, **written}

    def get_items(self, keys: Iterable[str], default: Any = None) -> Iterator[tuple[str, Any]]:
        """Yields (key, value) for the keys given, in their order, with `default` for missing ones.

        Values that are not on this machine are fetched together.
        """
        return self._items_of([text_of(key) for key in several(keys, "get_items")], default)

    @at_edge
    def _items_of(self, keys: Sequence[str], default: Any) -> Iterator[tuple[str, Any]]:
        for key, value in self._read_many(keys):
            if isinstance(value, Error):
                raise value
            yield key, default if value is None else self._serializer.loads(key, value)

    @at_edge
    def map(
        self, func: ItemFunction, keys: Iterable[str] | None = None, n_workers: int | None = None
    ) -> Iterator[tuple[Any, Any]]:
        """Yields what a function makes of each item, computed in several processes, as it is done.

        Args:
            func: Called as func(key, value); returns (key, value), or None to leave the item out. It runs in
                other processes, so it must be one that they can import: defined at the top level of a module.
                A script calls map under `if __name__ == "__main__":`, as they import it too.
            keys: The keys to take; None for all. Those that are not there are left out.
            n_workers: How many processes; None for one a processor.

        Raises:
            InvalidTypeError: The function is a lambda, or defined inside another; nothing was started.
            WorkerError: A process died, or could not import the function.
            Error: A value can't be had; and whatever the function raises.
        """
        wanted = None if keys is None else several(keys, "map")
        return map_items(func, self._mapped_items(wanted), n_workers)

    def _mapped_items(self, keys: Iterable[str] | None) -> Iterator[tuple[str, Any]]:
        if keys is None:
            yield from self._iter_items()
            return
        wanted = iter(keys)
        while page := list(islice(wanted, MAP_PAGE_KEYS)):
            for key, value in self.get_items(page, _MISSING):
                if value is not _MISSING:
                    yield key, value

    @at_edge
    def load_items(self, keys: Iterable[str] | None = None) -> dict[str, str]:
        """Fetches values so that they are on this machine; all of them, or those of some keys.

        Returns:
            The keys whose values could not be had, each with the reason.
        """
        reader = reader_of(self._usable())
        if keys is None:
            failures = load_all(reader)
        else:
            wanted = map(text_of, several(keys, "load_items"))
            failures = chain.from_iterable(load_some(reader, page) for page in _pages(wanted))
        found = {key: str(error) for key, error in failures}
        # What was written since then needs no copy of what it replaces.
        for key in self._uncommitted(list(found)):
            if key:
                del found[key]
        return found

    @overload
    def timestamps(self, include_value: Literal[False] = False) -> Iterator[tuple[str, int]]: ...

    @overload
    def timestamps(self, include_value: Literal[True]) -> Iterator[tuple[str, int, Any]]: ...

    @overload
    def timestamps(self, include_value: bool) -> Iterator[tuple[str, int] | tuple[str, int, Any]]: ...

    @at_edge
    def timestamps(self, include_value: bool = False) -> Iterator[tuple[str, int] | tuple[str, int, Any]]:
        """Yields (key, timestamp in microseconds), with the value behind it if asked."""
        keys = chain.from_iterable(self._key_pages(""))
        if not include_value:
            for key in keys:
                stamp = self._timestamp_of(key)
                if stamp is not None:
                    yield key, stamp
            return
        for key, value in self._read_many(keys, in_order=True):
            if isinstance(value, Error):
                raise value
            stamp = self._timestamp_of(key)
            if stamp is not None and value is not None:
                yield key, stamp, self._serializer.loads(key, value)

    @at_edge
    def get_timestamp(
        self, key: str, include_value: bool = False, decode_value: bool = True, default: Any = None
    ) -> Any:
        """Returns a key's timestamp in microseconds, or (timestamp, value); `default` when missing."""
        if not include_value:
            stamp = self._timestamp_of(text_of(key))
            return default if stamp is None else stamp
        found = self._read_user(key)
        if found is None:
            return default
        stamp, value = found
        return stamp, self._serializer.loads(key, value) if decode_value else value

    @at_edge
    def get_metadata(self, include_timestamp: bool = False) -> Any:
        """Returns the database's metadata, None when there is none; or (metadata, timestamp)."""
        found = self._read(METADATA_KEY)
        if found is None:
            return None
        data = decode_metadata(found[1])
        return (data, found[0]) if include_timestamp else data

    # -- writing ---------------------------------------------------------------------------

    @at_edge
    def __setitem__(self, key: str, value: Any) -> None:
        self.set(key, value)

    @at_edge
    def set(self, key: str, value: Any, timestamp: Timestamp = None, encode_value: bool = True) -> None:
        """Sets a key.

        Args:
            key: A non-empty str of at most 65,535 UTF-8 bytes.
            value: What the serializer takes; bytes when `encode_value` is False.
            timestamp: Microseconds, ISO 8601 str or datetime with a zone; None for now.
            encode_value: Whether the serializer encodes it.

        Raises:
            InvalidKeyError, InvalidValueError, InvalidArgumentError: Nothing was changed.
        """
        self._writing()
        check_key(key)
        encoded = self._serializer.dumps(key, value) if encode_value else checked_value(key, value)
        self._put([(key, encoded, timestamp_us(timestamp))])

    @at_edge
    def set_timestamp(self, key: str, timestamp: Timestamp) -> None:
        """Gives a key another timestamp and leaves its value as it is.

        Raises:
            KeyError: There is no such key.
        """
        self._writing()
        stamp = timestamp_us(timestamp)
        while True:
            with self._session.mutex:
                before = self._state_of(text_of(key))
            found = self._read_user(key)
            if found is None:
                raise KeyError(key)
            if self._put_if(key, before, (found[1], stamp)):
                return

    @at_edge
    def set_metadata(self, data: Any, timestamp: Timestamp = None) -> None:
        """Sets the database's metadata, anything that is JSON; it is pushed as a key is."""
        self._writing()
        self._put([(METADATA_KEY, encode_metadata(data), timestamp_us(timestamp))])

    @at_edge
    def update(self, other: Any = (), /, **more: Any) -> None:
        """Sets many keys; when one of them can't be set, none is."""
        self._writing()
        if isinstance(other, Mapping):
            pairs = list(other.items())
        elif hasattr(other, "keys"):
            pairs = [(key, other[key]) for key in other.keys()]  # noqa: SIM118
        else:
            pairs = list(other)
        stamp = timestamp_us(None)
        operations = []
        for key, value in [*pairs, *more.items()]:
            check_key(key)
            operations.append((key, self._serializer.dumps(key, value), stamp))
        self._put(operations)

    @at_edge
    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    @at_edge
    def __delitem__(self, key: str) -> None:
        session = self._writing()
        with session.mutex:
            if self._timestamp_of(text_of(key)) is None:
                raise KeyError(key)
            session.local.overlay.put(key, None, timestamp_us(None))
            self._commit_when_full(session)

    def _state_of(self, key: str) -> object:
        """Returns what differs from before when a key was written; needs the mutex."""
        session = self._usable()
        overlay = session.local.overlay
        if key in overlay.operations or overlay.cleared:
            return overlay.operations.get(key)
        entry = session.local.entry(key)
        return None if entry is None or entry.digest is None else (entry.digest, entry.timestamp_us)

    def _put_if(self, key: str, before: object, operation: tuple[bytes | None, int]) -> bool:
        """Writes a key, or deletes it with None, if its state still is what it was; False when it is not.

        So values are read and fetched without the mutex, and the writes of other threads come before the
        reading or after the writing.
        """
        session = self._writing()
        with session.mutex:
            if self._state_of(key) != before:
                return False
            session.local.overlay.put(key, *operation)
            self._commit_when_full(session)
        return True

    @at_edge
    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns a key's value; sets it to `default` first where there is none, in one step for all threads."""
        self._writing()
        check_key(key)
        while True:
            with self._session.mutex:
                before = self._state_of(key)
            found = self._read_user(key)
            if found is not None:
                return self._serializer.loads(key, found[1])
            if self._put_if(key, before, (self._serializer.dumps(key, default), timestamp_us(None))):
                return default

    @at_edge
    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Deletes a key and returns its value, in one step for all threads.

        Raises:
            KeyError: There is no such key, and no default was given.
        """
        self._writing()
        while True:
            with self._session.mutex:
                before = self._state_of(text_of(key))
            found = self._read_user(key)
            if found is None:
                if default is _MISSING:
                    raise KeyError(key)
                return default
            # Before it is deleted: a value that can't be decoded stays.
            value = self._serializer.loads(key, found[1])
            if self._put_if(key, before, (None, timestamp_us(None))):
                return value

    @at_edge
    def popitem(self) -> tuple[str, Any]:
        """Deletes the first key and returns it with its value, in one step for all threads.

        Raises:
            KeyError: There is none.
        """
        self._writing()
        while True:
            key = next(iter(self), None)
            if key is None:
                raise KeyError("the database is empty")
            value = self.pop(key, _MISSING_HERE)
            if value is not _MISSING_HERE:
                return key, value

    @at_edge
    def clear(self) -> None:
        """Deletes every key; the next push deletes them in the remote. The metadata stays."""
        session = self._writing()
        with session.mutex:
            session.local.overlay.clear(timestamp_us(None))

    def _put(self, operations: Iterable[tuple[str, bytes, int]]) -> None:
        session = self._usable()
        with session.mutex:
            # Another thread may have closed it meanwhile.
            self._usable()
            overlay = session.local.overlay
            overlay.put_all({key: (value, stamp) for key, value, stamp in operations})
            self._commit_when_full(session)

    def _commit_when_full(self, session: Session) -> None:
        if session.local.overlay.waiting_bytes > self._buffer_size and not self._in_transaction:
            session.local.commit()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Self]:
        """A block whose writes are committed together at its end, or not at all.

        When the block raises, everything written in it is dropped. Other threads wait meanwhile. What
        was written before the block is committed first.
        """
        with self._outside_transaction("a transaction") as session:
            session.local.commit()
            # Twice, as an interrupt can come in the middle of the first end as well.
            try:
                try:
                    self._in_transaction = session.in_transaction = True
                    yield self
                    session.local.commit()
                finally:
                    self._end_transaction()
            finally:
                self._end_transaction()

    def _end_transaction(self) -> None:
        """Drops what was not committed; outside a transaction nothing is."""
        if self._in_transaction:
            self._session.local.overlay.forget()
            self._in_transaction = self._session.in_transaction = False

    @at_edge
    def sync(self, force_shutdown: bool = False) -> None:
        """Makes everything written so far durable on this machine, in the Booklet file itself.

        A copy of that file that is taken now opens with plain booklet, and shows every value that is here.

        Args:
            force_shutdown: No effect: nothing is left running that could be shut down.
        """
        with self._outside_transaction("sync") as session:
            session.local.commit(fold=True)

    @at_edge
    def prune(self, timestamp: Timestamp = None, reindex: bool = False) -> int:
        """Rewrites the local file without dead bytes.

        Args:
            reindex: No effect: the Booklet's index is made anew all the same.
            timestamp: Local copies of pushed values older than this are dropped too; they are
                fetched again when they are read. Values that were not pushed always stay.

        Returns:
            How many items the file holds less: values that were replaced or deleted, and local copies that
            were dropped.
        """
        keep = "1" if timestamp is None else f"local_timestamp_us >= {timestamp_us(timestamp)}"
        with self._outside_transaction("prune") as session:
            prune_inline_values(session.journal)
            return session.local.prune(keep)

    # -- remote ----------------------------------------------------------------------------

    @at_edge
    def changes(self) -> Change:
        """Returns what differs from the remote, with the ways to pull, push or discard it."""
        self._usable()
        return Change(self)

    @at_edge
    def compact(self, *, live_share: float = 0.5, packs: Collection[str] = ()) -> CompactReport:
        """Writes packs of the remote anew that hold little but dead values, or are many and small.

        That is a commit of the same values.

        The old packs stay until `ebooklet_tx.collect` removes them.

        Args:
            live_share: Packs of which less than this share is live are written anew.
            packs: Names of packs that are written anew in any case, for example because they are damaged.

        Raises:
            OfflineError: The store keeps failing; what was sent is kept for the next call.
        """
        several(packs, "compact(packs=)")
        with self._outside_transaction("compact") as session:
            session.local.commit()
        return compact(session, live_share=live_share, packs=packs)

    @at_edge
    def delete_remote(self) -> EraseReport:
        """Deletes the database in the remote, and nothing else there; the local file is kept.

        What is on this machine becomes the content of the next push. Values that were never fetched are gone
        with the remote. Others who have a copy find the remote missing.

        Raises:
            UUIDMismatchError, UnsupportedFormatError: Something else lies there; nothing was deleted.
            LockTimeoutError: Another writer holds the remote's lock; nothing was deleted.
            OfflineError: The store keeps failing; call it again to finish.
        """
        with self._outside_transaction("delete_remote") as session:
            pass
        return delete_remote(session)

    @at_edge
    def copy_remote(self, remote_conn: Any) -> CopyReport:
        """Copies the database as it stands in the remote to another place; what is pending here stays here.

        Inside one store with the same credentials nothing passes through this machine. A copy that was
        interrupted shows no database at its target; the same call again goes on with it.

        Args:
            remote_conn: The target, as `open` takes it. No database may be there.

        Raises:
            InvalidArgumentError: A database lies there already; nothing was changed.
            ReadOnlyError: The target can only be read.
            OfflineError: A store keeps failing.
        """
        source = self._usable().remote
        target = remote_at(parse_connection(remote_conn), for_writing=True)
        with contextlib.closing(target.store):
            return copy_remote(source, target)

    # -- the end ---------------------------------------------------------------------------

    @at_edge
    def close(self, force_shutdown: bool = False) -> None:
        """Commits what was written, moves it into the Booklet file and closes; twice is no error.

        When it raises, the session is closed all the same and the last commit is intact. Interrupted, it makes
        what was written durable and lets go of all locks before it raises; called again, it finishes.

        Args:
            force_shutdown: No effect: nothing is left running that could be shut down.
        """
        self._closed = True
        if os.getpid() != self._pid:
            return
        with self._session.mutex:
            try:
                self._ending.finish()
            except BaseException:
                # What an interrupt left undone; nothing, after an error.
                self._ending.finish()
                raise

    def __enter__(self) -> Self:
        self._usable()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_in_transaction"):
            self._end_unclosed()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "writable" if self.writable else "read-only"
        return f"<ebooklet_tx database {str(self._session.local.path)!r}, {state}>"

    def _end_unclosed(self) -> None:
        """Ends a session that was dropped: commits what was written here, and pushes nothing.

        A transaction that is open then was never acknowledged, so it is dropped as a whole.
        """
        if self._ending.is_finished or self._in_child or os.getpid() != self._pid:
            return
        path, overlay = self._session.local.path, self._session.local.overlay
        if not self._session.mutex.acquire(timeout=DROPPED_WAIT_SECONDS):
            _log.warning("%s was not closed, and another thread is at work in it: %s", path, _lost(overlay))
            return
        try:
            if self._in_transaction and overlay:
                _log.warning("%s was dropped inside a transaction: %s", path, _lost(overlay))
                overlay.forget()
            self.close()
        except Exception as error:
            _log.warning("%s was not closed, and can't be: %s: %s", path, _lost(overlay), error)
        finally:
            self._session.mutex.release()
            warnings.warn(f"{path} was not closed", ResourceWarning, source=self, stacklevel=3)

    def _forget_in_child(self) -> None:
        self._in_child = True
        self._session.local.forget_in_child()
        if self._session.lock is not None:
            self._session.lock.forget_in_child()


def _pages(keys: Iterable[str]) -> Iterator[list[str]]:
    remaining = iter(keys)
    page_keys = PAGE_KEYS
    while page := list(islice(remaining, page_keys)):
        yield page
        page_keys = min(page_keys * 4, MAX_PAGE_KEYS)


def _forget_all_in_child() -> None:
    for database in list(_open_databases.values()):
        database._forget_in_child()


os.register_at_fork(after_in_child=_forget_all_in_child)


def _end_all_unclosed() -> None:
    for database in list(_open_databases.values()):
        database._end_unclosed()


# Before logging's own, which was registered earlier, and while threads, modules and SQLite are still there.
atexit.register(_end_all_unclosed)


def _lost(overlay: Overlay) -> str:
    """Says how many writes are lost with what was not committed."""
    cleared = " and a clear()" if overlay.cleared else ""
    return f"{len(overlay.operations)} writes{cleared} that were not committed are lost"
