"""Values that lie in packs of the remote."""

from __future__ import annotations

from typing import NamedTuple

from ebooklet_tx.records import ObjectRef


class RemoteValue(NamedTuple):
    """A value in the remote: whose it is, its digest and time, and where it lies."""

    key: str
    digest: bytes
    timestamp_us: int
    ref: ObjectRef
    offset_bytes: int
    length_bytes: int

    @property
    def end_bytes(self) -> int:
        """Where it ends in its object."""
        return self.offset_bytes + self.length_bytes
