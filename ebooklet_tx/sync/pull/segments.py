"""Fetching the index segments that a root names.

The invariant: what this returns has the digest that its root gives, and was checked against the limits of the
format, before anything reads it as a database.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.segment import iter_log, merge_segments, read_segment
from ebooklet_tx.formats.segment_image import count_rows
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.index_images import MAX_IMAGES
from ebooklet_tx.records import SegmentRef
from ebooklet_tx.sync.pull.pull_rules import is_rewound, leads_on_from, needs_whole_index
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot

_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True)
class IndexUpdate:
    """What a root's index has beyond a base, fetched and checked.

    Attributes:
        images: Segments, oldest first, at most `MAX_IMAGES`.
        whole: Whether they are the whole index.
        commits: Ids of commits that they name.
        rows: How many rows they have.
    """

    images: list[bytes]
    whole: bool
    commits: frozenset[str]
    rows: int


def fetch_update(remote: Remote, fetched: FetchedRoot, base: Base) -> IndexUpdate:
    """Fetches what a root's index has beyond a base, or all of it where it does not lead on from there.

    Raises:
        RemoteIntegrityError: A segment is missing or damaged.
    """
    manifest = fetched.manifest
    seq, commit_id = manifest.seq, manifest.commit_id
    whole = needs_whole_index(base, seq, commit_id, tombstone_floor=manifest.tombstone_floor)
    if base.seq and is_rewound(base, seq, commit_id):
        _log.warning("the remote went from commit %d back to %d; its index is read anew", base.seq, seq)
    images = fetch_images(remote, fetched, 0 if whole else base.seq)
    log = log_of(images)
    if not whole and not leads_on_from(base, manifest, log):
        _log.warning("the remote's history does not lead on from commit %d; its index is read anew", base.seq)
        whole = True
        images = fetch_images(remote, fetched, 0)
        log = log_of(images)
    return IndexUpdate(images, whole, frozenset(log.values()), sum(count_rows(image) for image in images))


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


__all__ = ["IndexUpdate", "fetch_images", "fetch_segment", "fetch_update", "log_of"]
