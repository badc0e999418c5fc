"""The root that the writer in front is about to write, decoded while it does.

The invariant: it is taken for what lies in the remote only under the ETag that the writer got for these bytes.
"""

from __future__ import annotations

from dataclasses import replace

from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, told_root


class NextRoot:
    """A root that may come to be the newest."""

    def __init__(self, remote: Remote) -> None:
        self._remote = remote
        self._coming: FetchedRoot | None = None

    def prepare(self, data: bytes) -> None:
        """Decodes a root that is about to be written."""
        self._coming = told_root(self._remote, "", data)

    def written(self, handed: tuple[str, bytes] | None) -> FetchedRoot | None:
        """Returns a root that was written; None where nothing of it was told, or it can't be read.

        Args:
            handed: Its ETag and its bytes.
        """
        if handed is None:
            return None
        etag, data = handed
        if self._coming is not None and self._coming.data == data:
            return replace(self._coming, etag=etag)
        return told_root(self._remote, etag, data)


__all__ = ["NextRoot"]
