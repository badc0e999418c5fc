"""A store that answers nothing: what an offline session has in place of a remote.

Owns no state. The invariant: nothing is ever sent, and every request says so.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from ebooklet_tx.errors import OfflineError
from ebooklet_tx.stores.object_store import Blob, ByteSource, StoredObject, UploadState


class OfflineStore:
    """Answers every request with `OfflineError`."""

    def __init__(self, location: str) -> None:
        self._location = location

    @property
    def location(self) -> str:
        """Names the store for messages."""
        return self._location

    @property
    def writable(self) -> bool:
        """False: nothing can be written."""
        return False

    def get(self, key: str, *, if_none_match: str | None = None, max_bytes: int | None = None) -> Blob | None:
        """Raises OfflineError."""
        self._refuse("get", key)

    def get_range(self, key: str, offset_bytes: int, length_bytes: int, *, if_match: str | None = None) -> bytes:
        """Raises OfflineError."""
        self._refuse("get", key)

    def head(self, key: str) -> StoredObject:
        """Raises OfflineError."""
        self._refuse("head", key)

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Raises OfflineError."""
        self._refuse("put", key)

    def put_parts(
        self,
        key: str,
        source: ByteSource,
        *,
        part_bytes: int,
        resume: UploadState | None = None,
        on_part: Callable[[UploadState], None] | None = None,
    ) -> str:
        """Raises OfflineError."""
        self._refuse("put", key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Raises OfflineError."""
        self._refuse("list", prefix)

    def delete(self, key: str) -> None:
        """Raises OfflineError."""
        self._refuse("delete", key)

    def copy(self, source_key: str, target_key: str) -> str:
        """Raises OfflineError."""
        self._refuse("copy", source_key)

    def close(self) -> None:
        """Has nothing to close."""

    def _refuse(self, operation: str, key: str) -> NoReturn:
        raise OfflineError(
            f"can't {operation} {key!r} at {self._location}: this session was opened offline, so only what is "
            "on this machine can be had; open it again without offline"
        )
