"""Forks: a database handed to many workers, of which one commit comes back.

The invariants: a fork holds no credential, and no worker sees what another one writes. Nothing that a worker
sends is visible before the coordinator has merged its receipt and pushed.
"""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Self

from ebooklet_tx.connection import RemoteConn, parse_connection
from ebooklet_tx.database.commit_mapping import CommitMapping
from ebooklet_tx.database.updates import operations_of, pop_first
from ebooklet_tx.errors import (
    InvalidArgumentError,
    RemoteMissingError,
    SessionClosedError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.checks import is_plain_text, short
from ebooklet_tx.keys import check_key, text_of
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.connecting import remote_at
from ebooklet_tx.sync.forks.protection import read_fork
from ebooklet_tx.sync.forks.receipt import MAX_WORKER_CHARS, Receipt
from ebooklet_tx.sync.forks.spill import SPILL_BYTES
from ebooklet_tx.sync.forks.work import PartWork
from ebooklet_tx.timestamps import Timestamp, timestamp_us
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.values.pickle_policy import check_pickle, pickle_allowed
from ebooklet_tx.values.serializers import CUSTOM, Serializer, checked_value, resolve

FORK_FORMAT = 1

_MISSING = object()


@dataclass(frozen=True, slots=True)
class Fork:
    """A database at one commit, to be handed to workers: a small record, which may travel by pickle.

    It names the database and holds no credential. `open` gives a worker its part.

    Attributes:
        fork_id: Its id, 32 hex digits.
        uuid: The database's identity.
        base_seq: The number of the commit that the workers read.
        base_commit_id: That commit's id.
        address: Where the database lies, as `connect` takes it.
        value_serializer: How values are encoded.
        ttl_seconds: For how long after it was made the fork is protected from `collect`.
        format: The version of this record.

    Examples:
        >>> fork = db.fork()
        >>> with fork.open() as part:
        ...     part["c"] = part["a"] + part["b"]
        >>> bool(db.merge(part.receipt)), db["c"]
        (True, 3)
    """

    fork_id: str
    uuid: str
    base_seq: int
    base_commit_id: str
    address: Mapping[str, Any]
    value_serializer: str | None
    ttl_seconds: int
    format: int = FORK_FORMAT

    @at_edge
    def open(
        self,
        connection: RemoteConn | None = None,
        *,
        value_serializer: Any = None,
        worker: str | None = None,
        buffer_size: int = SPILL_BYTES,
        retry: RetryPolicy | None = None,
    ) -> Part:
        """Opens a worker's part: a mapping that reads the fork's base, and whose writes its receipt tells of.

        Costs one request. There is no local file: values that are set wait in memory, and past `buffer_size`
        bytes in a temporary file, until the with-block ends. A block that raises sends nothing.

        Args:
            connection: How this worker reaches the database, with credentials of its own; None for the fork's
                address, with those that boto3 finds.
            value_serializer: The class, where the database has one of its own.
            worker: A name of this worker for messages; None for its host and process.
            buffer_size: Bytes of values that wait in memory.
            retry: How failing requests are tried again; None for the connection's own.

        Raises:
            RemoteMissingError: The fork has expired, or the connection leads elsewhere.
            UnsupportedFormatError: A newer version made it.
            PickleRefusedError: The values are pickled, and pickle is refused.
            OfflineError: The store can't be reached.

        Examples:
            >>> with db.fork().open(worker="monday") as part:
            ...     part.set("c", 3, timestamp="2026-01-31T12:00:00+00:00")
            >>> part.receipt.worker, part.receipt.set_count
            ('monday', 1)
        """
        if type(self.format) is not int or self.format > FORK_FORMAT:
            raise UnsupportedFormatError(
                f"the fork is of format {self.format}; this version of ebooklet_tx opens up to {FORK_FORMAT}. "
                "Upgrade ebooklet_tx on this worker",
                operation="open",
            )
        if worker is not None and not (is_plain_text(worker) and 0 < len(worker) <= MAX_WORKER_CHARS):
            raise InvalidArgumentError(f"a worker's name must be short printable text, not {short(worker)}")
        place = parse_connection(dict(self.address) if connection is None else connection)
        serializer = _serializer_of(self.value_serializer, value_serializer)
        check_pickle(serializer.name, place.url, allowed=pickle_allowed(None))
        remote = remote_at(place, retry=retry, for_writing=True)
        try:
            there = read_fork(remote, self.fork_id)
            if there.note.uuid != self.uuid or there.root.manifest.commit_id != self.base_commit_id:
                raise RemoteMissingError(
                    f"the fork {self.fork_id} at {remote.root_place} is not the one that was handed out: make a "
                    "new one with fork()",
                    operation="open",
                )
            work = PartWork(remote, there, spill_bytes=buffer_size)
        except BaseException:
            remote.store.close()
            raise
        return Part(work, serializer, remote.store.close, worker or writer_name())


def _serializer_of(name: str | None, given: Any) -> Serializer:
    if name == CUSTOM:
        if given is None or isinstance(given, str):
            raise InvalidArgumentError(
                "the database was made with a serializer class of its own; pass that class as value_serializer",
                operation="open",
            )
        return resolve(given)
    serializer = resolve(name)
    if given is not None and resolve(given).name != serializer.name:
        raise InvalidArgumentError(
            f"value_serializer {short(given)} was given, but the values are of the serializer {name!r}; leave it "
            "out",
            operation="open",
        )
    return serializer


class Part(CommitMapping, MutableMapping[str, Any]):
    """A worker's part of a fork: the database at the fork's base, with what this worker has changed.

    Threads of one process may share it. Used by `with`; afterwards `receipt` is what to hand back.

    Examples:
        >>> with db.fork().open() as part:
        ...     part["a"] += 10
        ...     del part["b"]
        ...     print(dict(part))
        {'a': 11}
        >>> part.receipt.set_count, part.receipt.deleted_count, dict(db)
        (1, 1, {'a': 1, 'b': 2})
    """

    def __init__(self, work: PartWork, serializer: Serializer, close_store: Any, worker: str) -> None:
        super().__init__(work, serializer, f"the part of the fork {work.fork_id}")
        self._work = work
        self._close_store = close_store
        self._worker = worker
        self._receipt: Receipt | None = None

    @property
    def receipt(self) -> Receipt:
        """What to hand to `merge`, once the with-block has ended.

        Raises:
            SessionClosedError: The block has not ended, or has raised, so that nothing was sent.
        """
        if self._receipt is None:
            why = "its block has raised, so nothing was sent" if self._closed else "its block has not ended"
            raise SessionClosedError(f"{self._what} has no receipt: {why}")
        return self._receipt

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
            >>> with db.fork().open() as part:
            ...     part.set("c", 3, timestamp="2026-01-31T12:00:00+00:00")
            ...     part["c"]
            3
        """
        self._usable()
        check_key(key)
        encoded = self._serializer.dumps(key, value) if encode_value else checked_value(key, value)
        self._work.put(key, encoded, timestamp_us(timestamp))

    @at_edge
    def __delitem__(self, key: str) -> None:
        text = text_of(key)
        while True:
            self._usable()
            before = self._work.state_of(text)
            if not text or self._work.timestamp_of(text) is None:
                raise KeyError(key)
            if self._work.put_if(text, None, timestamp_us(None), after=before):
                return

    @at_edge
    def pop(self, key: str, default: Any = _MISSING) -> Any:
        """Deletes a key and returns its value, in one step for all threads.

        Raises:
            KeyError: There is no such key, and no default was given.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.pop("a"), part.pop("a", None)
            (1, None)
        """
        text = text_of(key)
        while True:
            before = self._work.state_of(text)
            found = self._read_user(text)
            if found is None:
                if default is _MISSING:
                    raise KeyError(key)
                return default
            value = self._serializer.loads(text, found[1])
            if self._work.put_if(text, None, timestamp_us(None), after=before):
                return value

    @at_edge
    def setdefault(self, key: str, default: Any = None) -> Any:
        """Returns a key's value; sets it to `default` first where there is none, in one step for all threads.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.setdefault("a", 5), part.setdefault("c", 5)
            (1, 5)
        """
        self._usable()
        check_key(key)
        while True:
            before = self._work.state_of(key)
            found = self._read_user(key)
            if found is not None:
                return self._serializer.loads(key, found[1])
            if self._work.put_if(key, self._serializer.dumps(key, default), timestamp_us(None), after=before):
                return default

    @at_edge
    def popitem(self) -> tuple[str, Any]:
        """Deletes the first key and returns it with its value, in one step for all threads.

        Raises:
            KeyError: There is none.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.popitem()
            ('a', 1)
        """
        return pop_first(self)

    @at_edge
    def update(self, other: Any = (), /, **more: Any) -> None:
        """Sets many keys, in one step for all threads; when one of them can't be set, none is.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.update({"b": 20}, c=30)
            ...     dict(part)
            {'a': 1, 'b': 20, 'c': 30}
        """
        self._usable()
        self._work.put_all(operations_of(self._serializer, other, more))

    @at_edge
    def clear(self) -> None:
        """Deletes every key, in one step for all threads.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.clear()
            ...     len(part)
            0
        """
        self._usable()
        self._work.delete_all(timestamp_us(None))

    @at_edge
    def discard(self) -> None:
        """Ends the part without sending anything; twice is no error.

        Examples:
            >>> part = db.fork().open()
            >>> part["c"] = 3
            >>> part.discard()
            >>> part.closed
            True
        """
        self._end()

    def __enter__(self) -> Self:
        self._usable()
        return self

    @at_edge
    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None and not self._closed:
                self._usable()
                self._receipt = self._work.send(self._worker)
        finally:
            self._end()

    def _end(self) -> None:
        self._closed = True
        self._work.close()
        self._close_store()

    def __repr__(self) -> str:
        state = "closed" if self._closed else "open"
        return f"<{self._what} of worker {self._worker!r}, {state}>"


__all__ = ["Fork", "Part"]
