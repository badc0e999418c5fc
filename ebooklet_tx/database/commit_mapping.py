"""Mappings without a local file: one commit of a remote, read key by key, and what a worker has changed in it.

The invariant: what such a mapping reads is one commit; nothing is written to a disk but, past a bound, the values
that a worker has set.
"""

from __future__ import annotations

import os
from collections.abc import ItemsView, Iterable, Iterator, KeysView, Mapping, MutableMapping, ValuesView
from typing import Any, Protocol

from ebooklet_tx.database.views import ItemsOf, KeysOf, ValuesOf
from ebooklet_tx.errors import Error, SessionClosedError
from ebooklet_tx.keys import is_text, several, text_of
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.tracebacks import at_edge
from ebooklet_tx.unshared import Unshared
from ebooklet_tx.values.serializers import Serializer, decode_metadata


class ItemSource(Protocol):
    """What a mapping reads from."""

    def read(self, key: str) -> tuple[int, bytes] | None:
        """Returns a key's timestamp and encoded value; None where there is none."""
        ...

    def read_many(self, keys: Iterable[str]) -> Iterator[tuple[str, tuple[int, bytes] | Error | None]]:
        """Yields the same of many keys, or the reason why a value can't be had."""
        ...

    def timestamp_of(self, key: str) -> int | None:
        """Returns when a key was set; None where it is not there."""
        ...

    def iter_keys(self, prefix: str = "") -> Iterator[str]:
        """Yields the keys with a prefix, in order."""
        ...

    def count(self) -> int:
        """Returns how many keys there are."""
        ...


class CommitMapping(Unshared, Mapping[str, Any]):
    """The reading half of a mapping without a local file."""

    def __init__(self, source: ItemSource, serializer: Serializer, what: str) -> None:
        self._source = source
        self._serializer = serializer
        self._what = what
        self._closed = False
        self._pid = os.getpid()

    def _usable(self) -> ItemSource:
        if self._closed:
            raise SessionClosedError(f"{self._what} is closed; open it again")
        if os.getpid() != self._pid:
            raise SessionClosedError(
                f"{self._what} was opened by the process {self._pid} that this one was forked from; open it "
                "again here"
            )
        return self._source

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    @property
    def writable(self) -> bool:
        """Whether it takes writes."""
        return isinstance(self, MutableMapping)

    @property
    def value_serializer(self) -> str | None:
        """How values are encoded: a name of Booklet's, `custom` for a class of the user's, None for bytes."""
        return self._serializer.name

    @at_edge
    def __getitem__(self, key: str) -> Any:
        found = self._read_user(key)
        if found is None:
            raise KeyError(key)
        return self._serializer.loads(key, found[1])

    @at_edge
    def get(self, key: str, default: Any = None) -> Any:
        """Returns the value of a key, or `default` when there is none.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.get("a"), part.get("z", 0)
            (1, 0)
        """
        found = self._read_user(key)
        return default if found is None else self._serializer.loads(key, found[1])

    @at_edge
    def __contains__(self, key: object) -> bool:
        if not isinstance(key, str) or not key or not is_text(key):
            return False
        return self._usable().timestamp_of(key) is not None

    @at_edge
    def __len__(self) -> int:
        return self._usable().count()

    def __iter__(self) -> Iterator[str]:
        return self._iter_keys("")

    @at_edge
    def _iter_keys(self, prefix: str) -> Iterator[str]:
        for key in self._usable().iter_keys(prefix):
            yield key
            self._usable()

    @at_edge
    def _iter_items(self) -> Iterator[tuple[str, Any]]:
        yield from self._found(self._usable().iter_keys())

    def _found(self, keys: Iterable[str]) -> Iterator[tuple[str, Any]]:
        for key, found in self._usable().read_many(keys):
            if isinstance(found, Error):
                raise found
            if found is not None:
                yield key, self._serializer.loads(key, found[1])
            self._usable()

    @at_edge
    def keys(self, prefix: str = "") -> KeysView[str]:
        """Returns a view of the keys in order, all of them or those with a prefix.

        Examples:
            >>> with db.fork().open() as part:
            ...     list(part.keys()), list(part.keys("b"))
            (['a', 'b'], ['b'])
        """
        self._usable()
        return KeysOf(self, text_of(prefix))

    @at_edge
    def items(self) -> ItemsView[str, Any]:
        """Returns a view of the pairs in order of key.

        Examples:
            >>> with db.fork().open() as part:
            ...     list(part.items())
            [('a', 1), ('b', 2)]
        """
        self._usable()
        return ItemsOf(self)

    @at_edge
    def values(self) -> ValuesView[Any]:
        """Returns a view of the values in order of key.

        Examples:
            >>> with db.fork().open() as part:
            ...     sum(part.values())
            3
        """
        self._usable()
        return ValuesOf(self)

    def get_items(self, keys: Iterable[str], default: Any = None) -> Iterator[tuple[str, Any]]:
        """Yields (key, value) for the keys given, in their order, with `default` for missing ones.

        Their values are fetched together.

        Examples:
            >>> with db.fork().open() as part:
            ...     dict(part.get_items(["b", "z"], default=0))
            {'b': 2, 'z': 0}
        """
        return self._items_of([text_of(key) for key in several(keys, "get_items")], default)

    @at_edge
    def _items_of(self, keys: list[str], default: Any) -> Iterator[tuple[str, Any]]:
        for key, found in self._usable().read_many(keys):
            if isinstance(found, Error):
                raise found
            is_there = found is not None and key
            yield key, self._serializer.loads(key, found[1]) if is_there and found else default

    @at_edge
    def get_timestamp(
        self, key: str, include_value: bool = False, decode_value: bool = True, default: Any = None
    ) -> Any:
        """Returns a key's timestamp in microseconds, or (timestamp, value); `default` when missing.

        Examples:
            >>> with db.fork().open() as part:
            ...     part.get_timestamp("a") == db.get_timestamp("a")
            True
        """
        if not include_value:
            text, source = text_of(key), self._usable()
            stamp = source.timestamp_of(text) if text else None
            return default if stamp is None else stamp
        found = self._read_user(key)
        if found is None:
            return default
        stamp, value = found
        return stamp, self._serializer.loads(key, value) if decode_value else value

    @at_edge
    def get_metadata(self, include_timestamp: bool = False) -> Any:
        """Returns the database's metadata, None when there is none; or (metadata, timestamp).

        Examples:
            >>> with db.fork().open() as part:
            ...     print(part.get_metadata())
            None
        """
        found = self._usable().read(METADATA_KEY)
        if found is None:
            return None
        data = decode_metadata(found[1])
        return (data, found[0]) if include_timestamp else data

    def _read_user(self, key: object) -> tuple[int, bytes] | None:
        """Reads a user's key: `""`, the metadata's, counts as missing."""
        text = text_of(key)
        source = self._usable()
        return source.read(text) if text else None


__all__ = ["CommitMapping", "ItemSource"]
