"""Reading the object in a root's place, which may be anybody's.

Owns no state. The invariant: whatever lies there, no more of it is taken into memory than a root can have.
"""

from __future__ import annotations

from ebooklet_tx.errors import ObjectTooLargeError
from ebooklet_tx.formats.root import too_large_root
from ebooklet_tx.limits import MAX_ROOT_BYTES
from ebooklet_tx.stores.object_store import Blob, ObjectStore


def get_root(store: ObjectStore, key: str, *, name: str, if_none_match: str | None = None) -> Blob | None:
    """Returns the bytes of a root, or of a copy of one; None when it still has the ETag given.

    Raises:
        ObjectMissingError: There is none.
        UnsupportedFormatError: It is too long, and begins like something else.
        RemoteIntegrityError: It is too long.
    """
    try:
        return store.get(key, if_none_match=if_none_match, max_bytes=MAX_ROOT_BYTES)
    except ObjectTooLargeError as error:
        raise too_large_root(error.start, name=name) from error


__all__ = ["get_root"]
