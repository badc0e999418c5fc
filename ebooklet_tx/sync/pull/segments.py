"""Fetching the index segments that a root names.

The invariant: what this returns has the digest that its root gives, and was checked against the limits of the
format, before anything reads it as a database.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.segment import iter_log, merge_segments, read_segment
from ebooklet_tx.local.journal.index_images import MAX_IMAGES
from ebooklet_tx.records import SegmentRef
from ebooklet_tx.sync.root_object import FetchedRoot
from ebooklet_tx.sync.session import Remote


def fetch_images(remote: Remote, fetched: FetchedRoot, known_seq: int) -> list[bytes]:
    """Fetches and checks the segments that hold commits after a known one, and the tail.

    Returns:
        Their images, oldest first, at most `MAX_IMAGES`.

    Raises:
        RemoteIntegrityError: One is missing or damaged.
    """
    manifest = fetched.manifest
    needed = [segment for segment in manifest.segments if segment.last_seq > known_seq]
    if len(needed) > 1:
        with ThreadPoolExecutor(max_workers=min(remote.threads, len(needed))) as pool:
            images = list(pool.map(lambda segment: fetch_segment(remote, segment), needed))
    else:
        images = [fetch_segment(remote, segment) for segment in needed]
    if fetched.root.tail:
        images.append(read_segment(fetched.root.tail, name=f"the tail of {remote.root_place}"))
    return _few_enough(images)


def log_of(images: Sequence[bytes]) -> dict[int, str]:
    """Returns the commit ids that the logs of some segments name, by seq."""
    return {record.seq: record.commit_id for image in images for record in iter_log(image)}


def fetch_segment(remote: Remote, segment: SegmentRef) -> bytes:
    """Fetches an index segment that a root names, and returns its image, checked.

    Raises:
        RemoteIntegrityError: It is missing or damaged.
    """
    key = remote.names.object(segment.name)
    try:
        blob = remote.store.get(key, max_bytes=segment.size_bytes)
    except ObjectMissingError as error:
        raise RemoteIntegrityError(
            f"the index segment {key!r} at {remote.store.location} is missing although the root names it; "
            "pull again, and if it stays missing restore it from a backup or push(force_push=True) from a "
            "complete copy"
        ) from error
    if blob is None or hashlib.blake2b(blob.data, digest_size=16).hexdigest() != segment.digest:
        raise RemoteIntegrityError(
            f"the index segment {key!r} at {remote.store.location} is not what the root says: its digest "
            "differs; restore it from a backup or push(force_push=True) from a complete copy"
        )
    return read_segment(blob.data, name=f"{key!r} at {remote.store.location}")


def _few_enough(images: Sequence[bytes]) -> list[bytes]:
    """Merges the oldest images until as many are left as can be attached at once."""
    images = list(images)
    while len(images) > MAX_IMAGES:
        merged = merge_segments(images[:2], drop_tombstones=False)
        images[:2] = [read_segment(merged, name="a merge of index segments")]
    return images


__all__ = ["fetch_images", "fetch_segment", "log_of"]
