"""Raising a root's fence without a local copy, for a writer that takes a lock and replaces what lies there.

The invariant: a fence only rises, and by a commit, so that every other writer's next compare-and-swap fails and
makes it read the root.
"""

from __future__ import annotations

from dataclasses import replace

from ebooklet_tx.errors import OfflineError, PreconditionFailedError, RemoteIntegrityError, TransientStoreError
from ebooklet_tx.formats.root import encode_root
from ebooklet_tx.index.history import HistoryReader, extended
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, read_root_or_none

MAX_TRIES = 50
_FIRST_WAIT_SECONDS = 0.05
_LONGEST_WAIT_SECONDS = 2.0


def fence_off(remote: Remote) -> None:
    """Commits a root that says the same with a higher fence, so that no earlier holder of a lock can commit.

    The caller holds the lock. Where there is no root, or a damaged one, no writer can commit on top of it by
    compare-and-swap as if it were sound, and there is nothing to fence.

    Raises:
        OfflineError: The store keeps failing, or other writers commit all the time; the fence may be as it was.
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
    """Tries to write the next root; False when it was not, or may not have been, written."""
    advertised = remote.mode.advertised(fetched.manifest.commits)
    if advertised is not None and advertised.swaps is not remote.mode.swaps:
        raise OfflineError(
            f"another writer changed meanwhile how commits are made on {remote.root_place}; the fence is as it "
            "was; try again"
        )
    data, commit_id = _next_root(remote, fetched)
    try:
        remote.store.put(
            remote.names.root,
            data,
            if_match=fetched.etag if remote.mode.swaps else None,
            metadata={"commit-id": commit_id},
        )
    except PreconditionFailedError:
        return False
    except TransientStoreError:
        # It may have arrived all the same. A fence that is raised twice does no harm.
        return False
    if remote.mode.swaps:
        return True
    there = read_root_or_none(remote)
    return there is not None and there.manifest.commit_id == commit_id


def _next_root(remote: Remote, fetched: FetchedRoot) -> tuple[bytes, str]:
    """Returns the bytes of a root that says the same with a higher fence, and its commit's id."""
    # A lock is seldom taken over.
    from ebooklet_tx.sync.commit.builder import Changes, new_record

    old = fetched.manifest
    record = new_record(old.seq + 1, Changes())

    def put(name: str, data: bytes) -> ObjectRef:
        return ObjectRef(name, remote.store.put(remote.names.object(name), data), len(data))

    reader = HistoryReader(remote.store, remote.names)
    history = extended(old, record, reader, new_name=remote.names.new_history, put=put)
    manifest = replace(
        old,
        seq=record.seq,
        commit_id=record.commit_id,
        parent=old.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=old.fence + 1,
        recent=history.recent,
        records=history.records,
        histories=history.histories,
    )
    return encode_root(manifest, fetched.root.tail), record.commit_id


__all__ = ["fence_off"]
