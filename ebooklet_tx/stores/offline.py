"""A store that answers nothing: what an offline session has in place of a remote."""

from __future__ import annotations

from typing import NoReturn

from ebooklet_tx.errors import OfflineError
from ebooklet_tx.stores.object_store import Blob, StoredObject
from ebooklet_tx.stores.unwritable import UnwritableStore


class OfflineStore(UnwritableStore):
    """Answers every request with `OfflineError`; nothing is ever sent."""

    def __init__(self, location: str) -> None:
        self._location = location

    @property
    def location(self) -> str:
        """Names the store for messages."""
        return self._location

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Refuses."""
        self._refuse("get", key)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Refuses."""
        self._refuse("get", key)

    def head(self, key: str) -> StoredObject:
        """Refuses."""
        self._refuse("head", key)

    def close(self) -> None:
        """Does nothing: there is no connection."""

    def _refuse(self, operation: str, key: str) -> NoReturn:
        raise OfflineError(
            f"can't {operation} {key!r} at {self._location}: this session was opened offline, so it has only "
            "what is on this machine; open it again without offline. load_index() and load_items() "
            "bring what an offline session needs, when called online",
            object_name=key or None,
            operation=operation,
        )
