"""What belongs to a database in a store: what a root names, and what is ours by its name.

Owns no state. The invariant: an object is ours only if its whole name is one that this package gives; what
a person or another program put below `D.d/` is nobody's business here.
"""

from __future__ import annotations

import re

from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.formats.segment import iter_objects, merge_segments, read_segment
from ebooklet_tx.formats.segment_image import is_object_name
from ebooklet_tx.stores.object_store import StoredObject
from ebooklet_tx.sync.pull.segments import fetch_segment
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot

GARBAGE_NOTE = "garbage"
"""The relative name of the object in which the collector keeps what it has seen dead."""

_SNAPSHOT = re.compile(r"snapshot/[^/]+")


def own_name(names: ObjectNames, key: str) -> str | None:
    """Returns the relative name of an object of this database; None when the key is not one of ours."""
    if not key.startswith(names.prefix):
        return None
    relative = key[len(names.prefix) :]
    return relative if is_object_name(relative) or _SNAPSHOT.fullmatch(relative) else None


def list_own(remote: Remote) -> dict[str, StoredObject]:
    """Lists what is there of packs, index segments, snapshots and the collector's note, by relative name."""
    found = {}
    note = remote.names.object(GARBAGE_NOTE)
    for entry in remote.store.list(remote.names.prefix):
        relative = GARBAGE_NOTE if entry.key == note else own_name(remote.names, entry.key)
        if relative is not None:
            found[relative] = entry
    return found


def objects_in_use(remote: Remote, fetched: FetchedRoot) -> dict[str, int]:
    """Returns sizes in bytes of the objects that a reader of a root may need, by relative name.

    They are the index segments, and the packs in which values lie that are not deleted or overwritten.

    Raises:
        RemoteIntegrityError: A part of the index is missing or damaged.
    """
    manifest = fetched.manifest
    sizes = {segment.name: segment.size_bytes for segment in manifest.segments}
    images = [fetch_segment(remote, segment) for segment in manifest.segments]
    if fetched.root.tail:
        images.append(read_segment(fetched.root.tail, name=f"the tail of {remote.root_place}"))
    if images:
        # The merge keeps of each key what is newest, and of the objects those that such keys name.
        merged = merge_segments(images, drop_tombstones=True, keep_log=0)
        image = read_segment(merged, name=f"the merged index of {remote.root_place}")
        sizes.update((ref.name, ref.size_bytes) for ref in iter_objects(image))
    return sizes
