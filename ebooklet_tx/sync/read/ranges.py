"""Ranges: reading many places of the remote's objects in few requests.

Owns no state. The invariant: what is yielded are the bytes that the store gave for a group; whoever asked
holds each value to its digest.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise

from ebooklet_tx.errors import Error, OfflineError, PreconditionFailedError
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.sync.session import Session

JOIN_GAP_BYTES = 64 * 1024
"""Ranges of one pack that lie closer than this are fetched as one."""

MAX_RANGE_BYTES = 16 * 2**20
"""Joined ranges are no longer than this: so much of each request is in memory."""


def fetch_ranges(
    session: Session, wanted: Sequence[RemoteValue]
) -> Iterator[tuple[list[RemoteValue], bytes | Error]]:
    """Yields groups of places that lie near each other, with all bytes from the first to the last.

    Some groups are fetched at once, and no more of them wait in memory. One that can't be had comes with the
    error that says why. Once the store can't be reached, the rest comes with that error and is not asked for.
    """
    groups = deque(joined(wanted))
    threads = max(1, min(session.remote.threads, len(groups)))
    unreachable: OfflineError | None = None
    with ThreadPoolExecutor(max_workers=threads) as pool:
        running: deque[tuple[list[RemoteValue], Future[bytes | Error]]] = deque()
        try:
            while groups or running:
                while groups and len(running) < threads and unreachable is None:
                    running.append((groups[0], pool.submit(_fetch, session, groups.popleft())))
                if running:
                    group, future = running.popleft()
                    outcome = future.result()
                    if isinstance(outcome, OfflineError):
                        unreachable = outcome
                    yield group, outcome
                elif unreachable is not None:
                    yield groups.popleft(), unreachable
        finally:
            for _, future in running:
                future.cancel()


def sound_values(group: Sequence[RemoteValue], data: bytes | Error) -> Iterator[tuple[RemoteValue, bytes | None]]:
    """Cuts the values of a group out of what was fetched; None for one that does not have its digest."""
    if isinstance(data, Error):
        yield from ((item, None) for item in group)
        return
    start = group[0].offset_bytes
    for item in group:
        at = item.offset_bytes - start
        value = data[at : at + item.length_bytes]
        yield item, value if digest_of(value) == item.digest else None


def joined(wanted: Sequence[RemoteValue]) -> list[list[RemoteValue]]:
    """Groups places that are near each other in the same object."""
    if not wanted:
        return []
    places = sorted(wanted, key=lambda item: (item.ref.name, item.offset_bytes))
    groups = [[places[0]]]
    for last, item in pairwise(places):
        end = last.offset_bytes + last.length_bytes
        span = item.offset_bytes + item.length_bytes - groups[-1][0].offset_bytes
        near = item.ref.name == last.ref.name and item.offset_bytes - end <= JOIN_GAP_BYTES
        if near and span <= MAX_RANGE_BYTES:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def read_range(session: Session, ref: ObjectRef, offset_bytes: int, length_bytes: int) -> bytes:
    """Reads a range of an object, also when the store has it under another ETag.

    A database that was copied to another store has other ETags there. The caller holds what it gets to the
    digests of the values, which tells everything else.
    """
    remote = session.remote
    name = remote.names.object(ref.name)
    try:
        return remote.store.get_range(name, offset_bytes, length_bytes, if_match=remote.etag_to_match(ref))
    except PreconditionFailedError:
        data = remote.store.get_range(name, offset_bytes, length_bytes)
        remote.note_other_etag(ref)
        return data


def _fetch(session: Session, group: Sequence[RemoteValue]) -> bytes | Error:
    start = group[0].offset_bytes
    try:
        return read_range(session, group[0].ref, start, group[-1].offset_bytes + group[-1].length_bytes - start)
    except Error as error:
        return error
