"""Reading many places of the remote's objects in few requests.

The invariant: what is yielded are the bytes that the store gave for a group of places; `sound_values` holds each
value in them to its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import groupby

from ebooklet_tx.errors import Error, OfflineError, PreconditionFailedError
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.progress import Phase
from ebooklet_tx.records import ObjectRef, digest_of
from ebooklet_tx.stores.bodies import gathering_in
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.stores.stopping import StoppedError, is_stopped
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.read.near_ranges import near_ranges, span_of
from ebooklet_tx.sync.remote import Remote

MAX_RANGE_BYTES = 8 * 2**20
"""No request reads more than this, so that some fit the bound; a larger value is read in parts."""


Arrived = list[tuple[list[RemoteValue], bytes | Error]]
"""Groups of values, with what has arrived of their bytes."""


def fetch_ranges(
    remote: Remote,
    wanted: Iterable[RemoteValue],
    *,
    phase: Phase | None = None,
    left: Callable[[Arrived], object] | None = None,
) -> Generator[tuple[list[RemoteValue], bytes | Error], None, None]:
    """Yields groups of values that lie near each other, with all bytes from the first to the last.

    Some groups are fetched at once, within the bound on bytes in flight. One that can't be had comes with the
    error that says why. Once the store can't be reached, the rest comes with that error and is not asked for.

    Args:
        remote: Where from.
        wanted: Where the values lie.
        phase: Counts the values and bytes that have arrived.
        left: Called where the iteration is ended early, with what had arrived by then: of some groups only the
            first bytes.
    """
    groups = joined(wanted)
    unreachable: list[OfflineError] = []

    def fetch(group: Sequence[RemoteValue]) -> bytes | Error:
        if unreachable:
            return unreachable[0]
        try:
            data = _fetch_counted(remote, group, phase)
        except OfflineError as error:
            unreachable.append(error)
            return error
        except Error as error:
            return error
        return data

    threads = min(remote.threads, len(groups))
    # Twice their length: a store puts the pieces of a body together, and holds both meanwhile.
    return side_by_side(
        groups,
        fetch,
        size_bytes=lambda group: 2 * span_of(group)[1],
        threads=threads,
        phase=phase,
        left=left,
    )


def _fetch_counted(remote: Remote, group: Sequence[RemoteValue], phase: Phase | None) -> bytes:
    """Reads the range of a group, counting what arrives; only the first bytes of it, where it is stopped."""
    ref, start, length = group[0].ref, *span_of(group)
    if phase is None:
        return read_range(remote, ref, start, length)
    pieces: list[bytes] = []
    with phase.moving(length) as moved, metered(moved), gathering_in(pieces):
        try:
            data = read_range(remote, ref, start, length)
        except (OfflineError, StoppedError):
            if not is_stopped():
                raise
            # A long value is read in parts, and comes back as a whole or not at all.
            return b"".join(pieces) if length <= MAX_RANGE_BYTES else b""
        phase.advance(len(group), sum(item.length_bytes for item in group))
        return data


def sound_values(group: Sequence[RemoteValue], data: bytes | Error) -> Iterator[tuple[RemoteValue, bytes | None]]:
    """Cuts the values of a group out of what was fetched; None for one that does not have its digest."""
    if isinstance(data, Error):
        yield from ((item, None) for item in group)
        return
    start, _ = span_of(group)
    for item in group:
        at = item.offset_bytes - start
        value = data[at : at + item.length_bytes]
        yield item, value if digest_of(value) == item.digest else None


def joined(wanted: Iterable[RemoteValue]) -> list[list[RemoteValue]]:
    """Groups values that lie near each other in the same object."""
    places = sorted(wanted, key=lambda item: (item.ref.name, item.offset_bytes))
    groups: list[list[RemoteValue]] = []
    for _, in_object in groupby(places, key=lambda item: item.ref.name):
        groups += near_ranges(in_object, MAX_RANGE_BYTES)
    return groups


def read_range(remote: Remote, ref: ObjectRef, offset_bytes: int, length_bytes: int) -> bytes:
    """Reads a range of an object, also when the store has it under another ETag; a long one in parts.

    A database that was copied to another store has other ETags there. The caller holds what it gets to the
    digests of the values, which tells everything else.
    """
    parts = list(read_parts(remote, ref, offset_bytes, length_bytes))
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_parts(remote: Remote, ref: ObjectRef, offset_bytes: int, length_bytes: int) -> Iterator[bytes]:
    """Reads a range of an object part by part."""
    for start, length in parts_of_range(offset_bytes, length_bytes):
        yield _read_part(remote, ref, start, length)


def parts_of_range(offset_bytes: int, length_bytes: int) -> list[tuple[int, int]]:
    """Divides a range into those (offset, length) that one request each reads; at least one, if empty."""
    end = offset_bytes + length_bytes
    starts = range(offset_bytes, end, MAX_RANGE_BYTES) or [offset_bytes]
    return [(start, min(MAX_RANGE_BYTES, end - start)) for start in starts]


def _read_part(remote: Remote, ref: ObjectRef, offset_bytes: int, length_bytes: int) -> bytes:
    name = remote.names.object(ref.name)
    try:
        return remote.store.get_range(name, offset_bytes, length_bytes, if_match=remote.etag_to_match(ref))
    except PreconditionFailedError:
        data = remote.store.get_range(name, offset_bytes, length_bytes)
        remote.note_other_etag(ref)
        return data
