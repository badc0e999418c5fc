"""The part of a store's interface that a store which can't be written to refuses: writes and listings."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn

from ebooklet_tx.stores.object_store import ByteSource, StoredObject, UploadState


class UnwritableStore(ABC):
    """Refuses every write and every listing, with the error that a subclass chooses."""

    @abstractmethod
    def _refuse(self, operation: str, key: str) -> NoReturn:
        """Raises the error that says why the store does not do this, and the way out."""

    @property
    def writable(self) -> bool:
        """False: the store takes no writes."""
        return False

    def put(
        self,
        key: str,
        data: bytes,
        *,
        if_match: str | None = None,
        if_absent: bool = False,
        metadata: Mapping[str, str] | None = None,
    ) -> str:
        """Refuses."""
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
        """Refuses."""
        self._refuse("put", key)

    def list(self, prefix: str) -> Iterator[StoredObject]:
        """Refuses."""
        self._refuse("list", prefix)

    def delete(self, key: str) -> None:
        """Refuses."""
        self._refuse("delete", key)

    def copy(self, source_key: str, target_key: str) -> str:
        """Refuses."""
        self._refuse("copy", source_key)
