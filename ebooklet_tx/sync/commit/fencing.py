"""Raising a root's fence without a local copy, for a writer that takes a lock and replaces what lies there.

Owns no state. The invariant: a fence only rises, and by a commit, so that every other writer's next
compare-and-swap fails and makes it look.
"""

from __future__ import annotations

import secrets
from dataclasses import replace

from ebooklet_tx.errors import OfflineError, PreconditionFailedError, RemoteIntegrityError, TransientStoreError
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.formats.segment import build_segment, merge_segments, read_segment
from ebooklet_tx.records import CommitRecord
from ebooklet_tx.sync.commit.commit_way import said_here
from ebooklet_tx.sync.root_object import FetchedRoot, read_root_or_none
from ebooklet_tx.sync.session import Remote, writer_name
from ebooklet_tx.timestamps import now_us

MAX_TRIES = 50
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0


def fence_off(remote: Remote) -> None:
    """Commits a root that says the same with a higher fence, so that no earlier holder of a lock can commit.

    The caller holds the lock. Where no root lies, or one that is damaged, nobody can commit on top of it by
    compare-and-swap as if it were sound, and there is nothing to fence.

    Raises:
        OfflineError: The store keeps failing, or others commit all the time; the fence may be as it was.
    """
    for number in range(MAX_TRIES):
        try:
            fetched = read_root_or_none(remote)
            if fetched is None or _raise(remote, fetched):
                return
        except RemoteIntegrityError:
            return
        bound_seconds = min(_LONGEST_WAIT_SECONDS, _FIRST_WAIT_SECONDS * 2**number, remote.policy.cap_seconds)
        remote.policy.sleep(remote.policy.random() * bound_seconds)
    raise OfflineError(
        f"the fence of {remote.root_place} could not be raised: other writers' commits came first {MAX_TRIES} "
        "times; try again"
    )


def _raise(remote: Remote, fetched: FetchedRoot) -> bool:
    """Tries to put the next root; False when it was not, or may not have been, put."""
    said = said_here(remote, fetched.manifest.commits)
    if said is not None and said.swaps is not remote.conditional:
        raise OfflineError(
            f"another writer changed meanwhile how commits are made on {remote.root_place}; the fence is as it "
            "was; try again"
        )
    data, commit_id = _next_root(remote, fetched)
    try:
        remote.store.put(
            remote.names.root,
            data,
            if_match=fetched.etag if remote.conditional else None,
            metadata={"commit-id": commit_id},
        )
    except PreconditionFailedError:
        return False
    except TransientStoreError:
        # It may have arrived all the same. A fence that is raised twice does no harm.
        return False
    if remote.conditional:
        return True
    there = read_root_or_none(remote)
    return there is not None and there.manifest.commit_id == commit_id


def _next_root(remote: Remote, fetched: FetchedRoot) -> tuple[bytes, str]:
    old = fetched.manifest
    record = CommitRecord(
        seq=old.seq + 1,
        commit_id=secrets.token_hex(16),
        committed_at_us=now_us(),
        writer=writer_name(),
        set_count=0,
        deleted_count=0,
        value_bytes=0,
    )
    tail = build_segment([], {}, [record])
    if fetched.root.tail:
        name = f"the tail of {remote.root_place}"
        images = [read_segment(fetched.root.tail, name=name), read_segment(tail, name="a new log record")]
        tail = merge_segments(images, drop_tombstones=False)
    manifest = replace(
        old,
        seq=record.seq,
        commit_id=record.commit_id,
        parent=old.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=old.fence + 1,
    )
    return encode_root(manifest, tail), record.commit_id


__all__ = ["fence_off"]
