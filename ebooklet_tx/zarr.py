"""A zarr v3 store on a database, a worker's part or a fork: what zarr writes is pending until it is pushed.

The invariant: the store adds nothing of its own. A zarr key is a key of the database, its value the bytes as zarr
wrote them; so what is read was checked against its digest, and one push is one commit of a whole dataset.

Needs the extra `zarr`.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, KeysView
from itertools import islice
from typing import Any, NoReturn, Protocol, TypeAlias

from ebooklet_tx.database.forking import Fork, Part
from ebooklet_tx.errors import InvalidArgumentError, InvalidTypeError, MissingPackageError
from ebooklet_tx.values.serializers import same_serializer

try:
    from zarr.abc.store import (
        ByteRequest,
        OffsetByteRequest,
        RangeByteRequest,
        SuffixByteRequest,
    )
    from zarr.abc.store import Store as ZarrStore
    from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype
except ImportError as error:
    raise MissingPackageError(
        'ebooklet_tx.zarr uses zarr, version 3, which is not installed; pip install "ebooklet-tx[zarr]"'
    ) from error

KEYS_AT_ONCE = 1000
"""A listing is handed to zarr so many keys at a time."""

KeyRange: TypeAlias = "tuple[str, ByteRequest | None]"


class ByteMapping(Protocol):
    """What a store asks of the database below it: a mapping of str to bytes, with keys by prefix."""

    @property
    def value_serializer(self) -> str | None: ...

    @property
    def writable(self) -> bool: ...

    def __contains__(self, key: object, /) -> bool: ...

    def __setitem__(self, key: str, value: Any, /) -> None: ...

    def get(self, key: str, /) -> Any: ...

    def setdefault(self, key: str, default: Any, /) -> Any: ...

    def pop(self, key: str, default: Any, /) -> Any: ...

    def keys(self, prefix: str) -> KeysView[str]: ...

    def get_items(self, keys: Iterable[str]) -> Iterable[tuple[str, Any]]: ...


_parts: dict[tuple[int, str], Part] = {}
"""What the stores on forks read, by process and fork; the last few, which stores that were pickled find again."""

_MAX_PARTS = 8

_parts_mutex = threading.Lock()

_databases: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
"""The databases of the stores of this process, for stores that were pickled here, as Dask's threads do."""


class Store(ZarrStore):
    """A zarr store on a database whose values are bytes.

    What zarr writes is pending in the database, as any other write: durable on this machine with `sync` or
    `close`, published by `push`, dropped by `discard`. The store never pushes or closes the database. On a
    worker's part of a fork, what zarr writes is in the part's receipt.

    On a fork itself the store is read-only, and travels to other processes by pickle: each reads the fork's
    commit, with credentials of its own. So Dask's workers read the same state, whatever is pushed meanwhile.

    Values that are not on this machine are fetched when zarr asks for them, as many at once as zarr's setting
    `async.concurrency` says. A range of a value that is not here fetches the whole value, because that is what
    its digest covers; shards of some megabytes suit that well.

    Threads may share it. A store on an open database belongs to the process that opened it.

    Args:
        database: An open database with `value_serializer="bytes"` (or None), a worker's part, or a fork.
        read_only: Whether the store refuses writes; None for whether the database does.

    Raises:
        InvalidArgumentError: The database has another serializer, or is read-only and writes are asked for.

    Examples:
        >>> import zarr
        >>> from ebooklet_tx.zarr import Store
        >>> with ebooklet_tx.open(remote + "-grid", "grid.blt", "c", value_serializer="bytes") as grid:
        ...     depth = zarr.create_array(Store(grid), name="depth", shape=(4, 4), chunks=(2, 2), dtype="i4")
        ...     depth[:] = 7
        ...     print(sorted(grid), bool(grid.changes().push()))
        ['depth/c/0/0', 'depth/c/0/1', 'depth/c/1/0', 'depth/c/1/1', 'depth/zarr.json', 'zarr.json'] True
    """

    supports_writes: bool = True
    supports_deletes: bool = True
    supports_listing: bool = True

    def __init__(self, database: ByteMapping | Fork, *, read_only: bool | None = None) -> None:
        self._fork = database if isinstance(database, Fork) else None
        if self._fork is not None and read_only is False:
            raise InvalidArgumentError(
                "a store on a fork is for reading; a worker that writes opens its part, with fork.open(), and "
                "makes a Store of that"
            )
        if isinstance(database, Fork):
            database, read_only = _part_of(database), True
        if not same_serializer(database.value_serializer, None):
            raise InvalidArgumentError(
                f"zarr's values are bytes, and this database has the serializer {database.value_serializer!r}; "
                'make one for zarr, opened with value_serializer="bytes"',
            )
        if read_only is False and not database.writable:
            raise InvalidArgumentError(
                "the database is open for reading, so the store can't be written to; open it with the flag 'w'",
            )
        super().__init__(read_only=not database.writable if read_only is None else read_only)
        self._database = database
        self._token = secrets.token_hex(16)
        _databases[self._token] = database

    def with_read_only(self, read_only: bool = False) -> Store:
        """Returns a store on the same database that refuses writes, or does not."""
        return type(self)(self._fork or self._database, read_only=read_only)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Store) and self._database is other._database and self.read_only == other.read_only
        )

    def __repr__(self) -> str:
        return f"Store({self._database!r}{', read_only=True' if self.read_only else ''})"

    def __reduce__(self) -> tuple[Callable[..., Store], tuple[Any, ...]]:
        if self._fork is not None:
            return Store, (self._fork,)
        return _again, (self._token, self.read_only)

    # -- reading ---------------------------------------------------------------------------------

    def get_sync(
        self, key: str, *, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns a value, or a range of it; None where there is none."""
        return _part(self._database.get(key), byte_range, prototype or default_buffer_prototype())

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """Returns a value, or a range of it; None where there is none."""
        await self._ensure_open()
        return await asyncio.to_thread(self.get_sync, key, prototype=prototype, byte_range=byte_range)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[KeyRange]
    ) -> list[Buffer | None]:
        """Returns ranges of values, in order; those that are not on this machine are fetched together."""
        await self._ensure_open()
        wanted = list(key_ranges)

        def read() -> list[Buffer | None]:
            found = dict(self._database.get_items(dict.fromkeys(key for key, _ in wanted)))
            return [_part(found[key], byte_range, prototype) for key, byte_range in wanted]

        return await asyncio.to_thread(read)

    async def exists(self, key: str) -> bool:
        """Whether there is such a key; no value is read."""
        return await asyncio.to_thread(self._database.__contains__, key)

    # -- writing ---------------------------------------------------------------------------------

    def set_sync(self, key: str, value: Buffer) -> None:
        """Sets a value; it is pending in the database."""
        self._check_writable()
        self._database[key] = _bytes_of(value)

    async def set(self, key: str, value: Buffer) -> None:
        """Sets a value; it is pending in the database."""
        self._check_writable()
        await self._ensure_open()
        await asyncio.to_thread(self.set_sync, key, value)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        """Sets a value where there is none, in one step for all threads."""
        self._check_writable()
        await self._ensure_open()
        await asyncio.to_thread(self._database.setdefault, key, _bytes_of(value))

    def delete_sync(self, key: str) -> None:
        """Deletes a key; one that is not there is no error."""
        self._check_writable()
        if key in self._database:
            self._database.pop(key, None)

    async def delete(self, key: str) -> None:
        """Deletes a key; one that is not there is no error."""
        self._check_writable()
        await asyncio.to_thread(self.delete_sync, key)

    async def delete_dir(self, prefix: str) -> None:
        """Deletes every key below a path."""
        self._check_writable()
        path = _folder(prefix)

        def delete() -> None:
            for key in list(self._database.keys(path)):
                self.delete_sync(key)

        await asyncio.to_thread(delete)

    # -- listing ---------------------------------------------------------------------------------

    async def list(self) -> AsyncIterator[str]:
        """Yields every key, in order."""
        async for key in self.list_prefix(""):
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Yields the keys that begin with a text, in order."""
        keys = iter(self._database.keys(prefix))
        while page := await asyncio.to_thread(_next, keys):
            for key in page:
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Yields what lies directly in a path: keys, and the first part of the names of those further down."""
        path = _folder(prefix)
        # "a-b" lies between "a" and "a/b".
        seen: set[str] = set()
        async for key in self.list_prefix(path):
            child = key[len(path) :].partition("/")[0]
            if child not in seen:
                seen.add(child)
                yield child


class _Elsewhere:
    """Stands for a database of another process: whatever is asked of it raises what there is to do.

    A store is made all the same, as an error of unpickling would end a worker of Dask instead of its task.
    """

    value_serializer: str | None = None
    writable = True

    def _refuse(self, *_: object) -> NoReturn:
        raise InvalidTypeError(
            "a zarr store was sent to another process, or its database is gone: a database belongs to the "
            "process that opened it. For reading hand out Store(db.fork()); a worker that writes opens a part of "
            "the fork, and makes a Store of that"
        )

    __contains__ = __setitem__ = get = setdefault = pop = keys = get_items = _refuse


def _again(token: str, read_only: bool) -> Store:
    """Returns a store that was pickled, in this process or another."""
    return Store(_databases.get(token, _Elsewhere()), read_only=read_only)


def _part_of(fork: Fork) -> Part:
    """Returns this process's part of a fork, for reading."""
    key = os.getpid(), fork.fork_id
    with _parts_mutex:
        if key not in _parts:
            _parts[key] = fork.open()
        part = _parts[key]
        while len(_parts) > _MAX_PARTS:
            # Stores that still use it keep it.
            del _parts[next(iter(_parts))]
        return part


def _bytes_of(value: Buffer) -> bytes:
    if not isinstance(value, Buffer):
        raise InvalidTypeError(
            f"zarr's stores take a Buffer, not {type(value).__name__}; Buffer.from_bytes makes one"
        )
    return value.to_bytes()


def _part(value: bytes | None, byte_range: ByteRequest | None, prototype: BufferPrototype) -> Buffer | None:
    """Returns a range of a value as zarr wants it."""
    if byte_range is None:
        begin, end = 0, None
    elif isinstance(byte_range, RangeByteRequest):
        begin, end = byte_range.start, byte_range.end
    elif isinstance(byte_range, OffsetByteRequest):
        begin, end = byte_range.offset, None
    elif isinstance(byte_range, SuffixByteRequest):
        begin, end = max(0, len(value or b"") - byte_range.suffix), None
    else:
        raise InvalidArgumentError(f"Unexpected byte_range, got {byte_range!r}")
    return None if value is None else prototype.buffer.from_bytes(value[begin:end])


def _folder(prefix: str) -> str:
    path = prefix.strip("/")
    return path and path + "/"


def _next(keys: Iterator[str]) -> list[str]:
    return list(islice(keys, KEYS_AT_ONCE))


__all__ = ["Store"]
