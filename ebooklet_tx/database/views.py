"""Views: a database's keys, items and values as sets and sequences that show later changes.

The invariant: a view asks the database anew at each iteration, and iterates in order of key.
"""

from __future__ import annotations

from collections.abc import ItemsView, Iterator, KeysView, ValuesView
from typing import Any, Protocol

from ebooklet_tx.unshared import Unshared


class Host(Protocol):
    """What a view asks of the database that made it."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[str]: ...

    def __contains__(self, key: object, /) -> bool: ...

    def __getitem__(self, key: str, /) -> Any: ...

    def _iter_keys(self, prefix: str) -> Iterator[str]: ...

    def _iter_items(self) -> Iterator[tuple[str, Any]]: ...


class KeysOf(Unshared, KeysView[str]):
    """The keys that begin with a prefix, in order; a view, so it shows later changes."""

    def __init__(self, database: Host, prefix: str) -> None:
        super().__init__(database)
        self._database = database
        self._prefix = prefix

    def __iter__(self) -> Iterator[str]:
        return self._database._iter_keys(self._prefix)

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and key.startswith(self._prefix) and key in self._database

    def __len__(self) -> int:
        if not self._prefix:
            return len(self._database)
        return sum(1 for _ in self)


class ItemsOf(Unshared, ItemsView[str, Any]):
    """Pairs in order of key; values are fetched many at a time."""

    def __init__(self, database: Host) -> None:
        super().__init__(database)
        self._database = database

    def __iter__(self) -> Iterator[tuple[str, Any]]:
        return self._database._iter_items()

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2 or item[0] not in self._database:
            return False
        try:
            found = self._database[item[0]]
        except KeyError:
            return False
        return bool(found is item[1] or found == item[1])


class ValuesOf(Unshared, ValuesView[Any]):
    """Values in order of key; they are fetched many at a time."""

    def __init__(self, database: Host) -> None:
        super().__init__(database)
        self._database = database

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._database._iter_items())

    def __contains__(self, value: object) -> bool:
        return any(value is found or value == found for found in self)
