"""What is written to a database: single keys, many keys, and transactions.

The invariant: a write waits in memory, with others, until a commit makes all of them durable together; a write
that depends on what was read is made only if nothing changed in between.
"""

from __future__ import annotations

import contextlib
from collections.abc import (
    Iterator,
    MutableMapping,
)
from typing import Any, Self

from ebooklet_tx.database.reading import ReadableDatabase
from ebooklet_tx.database.updates import operations_of, pop_first
from ebooklet_tx.errors import SessionClosedError
from ebooklet_tx.keys import check_key, text_of
from ebooklet_tx.local.bounded_copies import check_local_bytes
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.inline_values import prune_inline_values
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.read.visible_keys import holds_for, keys_set_here
from ebooklet_tx.timestamps import Timestamp, now_us, timestamp_us
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.serializers import checked_value, encode_metadata

_MISSING = object()


class WritableDatabase(ReadableDatabase, MutableMapping[str, Any]):
    """The writing half of a database."""

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

        Examples:
            >>> db.set("c", 3, timestamp="2026-01-31T12:00:00+00:00")
            >>> db["c"]
            3
        """
        self._writing()
        check_key(key)
        encoded = self._serializer.dumps(key, value) if encode_value else checked_value(key, value)
        self._put({key: (encoded, timestamp_us(timestamp))})

    @at_edge
    def set_timestamp(self, key: str, timestamp: Timestamp) -> None:
        """Gives a key another timestamp and leaves its value as it is.

        Raises:
            KeyError: There is no such key.

        Examples:
            >>> db.set_timestamp("a", 1_700_000_000_000_000)
            >>> db.get_timestamp("a", include_value=True)
            (1700000000000000, 1)
        """
        self._writing()
        stamp = timestamp_us(timestamp)
        while True:
            before = self._state_of(text_of(key))
            found = self._read_user(key)
            if found is None:
                raise KeyError(key)
            if self._put_if(key, before, (found[1], stamp)):
                return

    @at_edge
    def set_metadata(self, data: Any, timestamp: Timestamp = None) -> None:
        """Sets the database's metadata, anything that is JSON; it is pushed as a key is.

        Examples:
            >>> db.set_metadata({"unit": "m3/s"})
            >>> db.get_metadata()
            {'unit': 'm3/s'}
        """
        self._writing()
        self._put({METADATA_KEY: (encode_metadata(data), timestamp_us(timestamp))})

    @at_edge
    def update(self, other: Any = (), /, **more: Any) -> None:
        """Sets many keys; when one of them can't be set, none is.

        Examples:
            >>> db.update({"b": 20}, c=30)
            >>> dict(db)
            {'a': 1, 'b': 20, 'c': 30}
        """
        self._writing()
        # What makes the pairs may write itself, or take long: they are as new as the last of them.
        pairs = other if hasattr(other, "keys") else list(other)
        self._put(dict(operations_of(self._serializer, pairs, more)))

    @at_edge
    def __ior__(self, other: Any) -> Self:
        self.update(other)
        return self

    @at_edge
    def __delitem__(self, key: str) -> None:
        if self._delete_copy(self._writing().local, text_of(key)):
            return
        while True:
            before = self._state_of(text_of(key))
            if self._timestamp_of(text_of(key)) is None:
                raise KeyError(key)
            if self._put_if(key, before, (None, timestamp_us(None))):
                return

    @at_edge
    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns a key's value; sets it to `default` first where there is none, in one step for all threads.

        Examples:
            >>> db.setdefault("a", 5), db.setdefault("c", 5)
            (1, 5)
        """
        self._writing()
        check_key(key)
        while True:
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

        Examples:
            >>> db.pop("a"), db.pop("a", None)
            (1, None)
        """
        self._writing()
        while True:
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

        Examples:
            >>> db.popitem()
            ('a', 1)
        """
        self._writing()
        return pop_first(self)

    @at_edge
    def clear(self) -> None:
        """Deletes every key, in one step for all threads; the next push deletes them in the remote.

        The metadata stays.

        Examples:
            >>> db.clear()
            >>> len(db)
            0
        """
        session = self._writing()
        base = read_base(session.journal)
        # Without the mutex, as the index may have to be asked.
        keys = dict.fromkeys(self)
        with session.mutex:
            self._usable()
            while not holds_for(base, now := read_base(session.journal)):
                # Another thread has moved on. It waits now: it may push faster than all keys are read.
                base, keys = now, dict.fromkeys(self)
            # Other threads may have set some since.
            keys.update(dict.fromkeys(keys_set_here(session.local)))
            self._put(dict.fromkeys(keys, (None, timestamp_us(None))))

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Self]:
        """A block whose writes are committed together at its end, or not at all.

        When the block raises, everything written in it is dropped. Other threads wait meanwhile. What
        was written before the block is committed first.

        Examples:
            >>> try:
            ...     with db.transaction():
            ...         db["a"] = 100
            ...         raise RuntimeError("half way")
            ... except RuntimeError:
            ...     print(db["a"])
            1
        """
        with self._outside_transaction("a transaction") as session:
            session.local.commit()
            # Twice, as an interrupt can come in the middle of the first end as well.
            try:
                try:
                    self._in_transaction = session.in_transaction = True
                    yield self
                    if self._in_child:
                        self._usable()
                    # Another thread that closes the session waits for the block, and what it wrote is kept.
                    if not self._in_transaction:
                        raise SessionClosedError(
                            f"{session.local.path} was closed inside a transaction, of which nothing is kept; "
                            "end the block before the session",
                            path=session.local.path,
                        )
                    session.local.commit()
                finally:
                    self._end_transaction()
            finally:
                self._end_transaction()

    @at_edge
    def sync(self, force_shutdown: bool = False) -> None:
        """Makes everything written so far durable on this machine, in the Booklet file itself.

        A copy of that file that is taken now opens with plain booklet, and shows every value that is here. A
        session that only reads has nothing to make durable: it moves what it has fetched into the file, where no
        writer keeps it.

        Args:
            force_shutdown: No effect: nothing is left running that could be shut down.

        Examples:
            >>> db["c"] = 3
            >>> db.sync()  # From here on "c" survives a power loss.
        """
        if not self.writable:
            self._usable().local.write_fetched()
            return
        with self._outside_transaction("sync") as session:
            session.local.commit(fold=True)

    @at_edge
    def prune(self, timestamp: Timestamp = None, reindex: bool = False, *, max_bytes: int | None = None) -> int:
        """Rewrites the local file without dead bytes.

        Args:
            reindex: No effect: the Booklet's index is always rebuilt.
            timestamp: Local copies of pushed values older than this are dropped too; they are
                fetched again when they are read. Values that were not pushed always stay.
            max_bytes: Local copies of pushed values are dropped too, those first that were read longest ago,
                until the file is no larger than this. With `timestamp`, those older than that go in any case.

        Returns:
            How many items were removed from the file: values that were replaced or deleted, and local copies.

        Examples:
            >>> del db["a"]
            >>> db.prune()
            1
        """
        if max_bytes is not None:
            check_local_bytes(max_bytes, least_bytes=0, name="max_bytes")
        keep = "1" if timestamp is None else f"local_timestamp_us >= {timestamp_us(timestamp)}"
        with self._outside_transaction("prune") as session:
            prune_inline_values(session.journal)
            pruned = session.local.prune(keep) if timestamp is not None or max_bytes is None else 0
            return pruned if max_bytes is None else pruned + session.local.prune_to(max_bytes)

    def _delete_copy(self, local: LocalStore, key: str) -> bool:
        """Deletes a key whose value is in the local file; False, and nothing done, where it is not there."""
        with local.mutex:
            overlay = local.overlay
            if not key or key in overlay.operations or not local.has_copy(key):
                return False
            overlay.put(key, None, now_us())
            if overlay.waiting_bytes > self._buffer_size:
                self._commit_when_full(local)
        return True

    def _state_of(self, key: str) -> object:
        """Returns what differs from before when a key was written."""
        session = self._usable()
        with session.mutex:
            overlay = session.local.overlay
            if key in overlay.operations:
                return overlay.operations[key]
            entry = session.local.entry(key)
            if entry is None or not entry.is_decided:
                # What the index of the base says: it changes with the base alone.
                return "index", read_base(session.journal).commit_id
        return None if entry.digest is None else (entry.digest, entry.timestamp_us)

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
            self._commit_when_full(session.local)
        return True

    def _put(self, operations: dict[str, tuple[bytes | None, int]]) -> None:
        session = self._usable()
        with session.mutex:
            # Another thread may have closed it meanwhile.
            self._usable()
            session.local.overlay.put_all(operations)
            self._commit_when_full(session.local)

    def _commit_when_full(self, local: LocalStore) -> None:
        if local.overlay.waiting_bytes > self._buffer_size and not self._in_transaction:
            local.commit()


__all__ = ["WritableDatabase"]
