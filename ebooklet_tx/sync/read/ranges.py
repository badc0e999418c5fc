"""Reading many places of the remote's objects in few requests.

The invariant: what is yielded are the bytes that the store gave for a group of places; `sound_values` holds each
value in them to its digest.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, TypeVar

from ebooklet_tx.errors import Error, OfflineError, PreconditionFailedError
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.progress import Phase
from ebooklet_tx.records import ObjectRef, digests_of
from ebooklet_tx.stores.bodies import gathering_in
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.stores.stopping import StoppedError, is_stopped
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.read.near_ranges import gap_to_join, near_ranges, span_of
from ebooklet_tx.sync.remote import Remote

MAX_RANGE_BYTES = 8 * 2**20
"""No request reads more than this, so that some fit the bound; a larger value is read in parts."""


Arrived = list[tuple[list[RemoteValue], bytes | Error]]
"""Groups of values, with what has arrived of their bytes."""

Group = TypeVar("Group")


class Range(NamedTuple):
    """What one request reads for a group of values.

    Attributes:
        ref: The object.
        offset_bytes: Where the first of them begins.
        length_bytes: How many bytes there are up to the furthest end.
        value_count: How many values they are.
        value_bytes: How many bytes they have together.
    """

    ref: ObjectRef
    offset_bytes: int
    length_bytes: int
    value_count: int
    value_bytes: int


def fetch_ranges(
    remote: Remote,
    wanted: Iterable[RemoteValue],
    *,
    phase: Phase | None = None,
    left: Callable[[Arrived], object] | None = None,
) -> Generator[tuple[list[RemoteValue], bytes | Error], None, None]:
    """Yields groups of values that lie near each other, with all bytes from the first to the last.

    Otherwise as `fetch_groups`.
    """
    return fetch_groups(remote, joined(wanted), _range_of, phase=phase, left=left)


def fetch_groups(
    remote: Remote,
    groups: Sequence[Group],
    range_of: Callable[[Group], Range],
    *,
    phase: Phase | None = None,
    left: Callable[[list[tuple[Group, bytes | Error]]], object] | None = None,
) -> Generator[tuple[Group, bytes | Error], None, None]:
    """Yields groups of values with the bytes of their ranges.

    Some groups are fetched at once, within the bound on bytes in flight. One that can't be had comes with the
    error that says why. Once the store can't be reached, the rest comes with that error and is not asked for.

    Args:
        remote: Where from.
        groups: The groups.
        range_of: Tells what to read for a group.
        phase: Counts the values and bytes that have arrived.
        left: Called where the iteration is ended early, with what had arrived by then: of some groups only the
            first bytes.
    """
    unreachable: list[OfflineError] = []

    def fetch(group: Group) -> bytes | Error:
        if unreachable:
            return unreachable[0]
        try:
            data = _fetch_counted(remote, range_of(group), phase)
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
        size_bytes=lambda group: 2 * range_of(group).length_bytes,
        threads=threads,
        phase=phase,
        left=left,
    )


def _range_of(group: Sequence[RemoteValue]) -> Range:
    return Range(group[0].ref, *span_of(group), len(group), sum([item.length_bytes for item in group]))


def _fetch_counted(remote: Remote, wanted: Range, phase: Phase | None) -> bytes:
    """Reads the range of a group, counting what arrives; only the first bytes of it, where it is stopped."""
    ref, start, length = wanted.ref, wanted.offset_bytes, wanted.length_bytes
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
        phase.advance(wanted.value_count, wanted.value_bytes)
        return data


def sound_values(group: Sequence[RemoteValue], data: bytes | Error) -> Iterator[tuple[RemoteValue, bytes | None]]:
    """Cuts the values of a group out of what was fetched; None for one that does not have its digest."""
    if isinstance(data, Error):
        return zip(group, [None] * len(group), strict=True)
    places = [(item.offset_bytes, item.length_bytes) for item in group]
    return zip(group, cut_values(places, [item.digest for item in group], data), strict=True)


def cut_values(
    places: Sequence[tuple[int, int]], digests: Sequence[bytes | None], data: bytes
) -> Sequence[bytes | None]:
    """Cuts values out of the bytes of an object that begin with the first of them; None for a damaged one.

    Args:
        places: Their offsets and lengths.
        digests: Their digests.
        data: The bytes.
    """
    first = places[0][0]
    values = [data[at - first : at - first + length] for at, length in places]
    found = digests_of(values)
    if found == list(digests):
        return values
    return [
        value if there == digest else None for value, there, digest in zip(values, found, digests, strict=True)
    ]


def joined(wanted: Iterable[RemoteValue]) -> list[list[RemoteValue]]:
    """Groups values that lie near each other in the same object."""
    by_object: dict[str, list[RemoteValue]] = {}
    for name, some in groupby(wanted, key=attrgetter("ref.name")):
        by_object.setdefault(name, []).extend(some)
    objects = [by_object[name] for name in sorted(by_object)]
    for values in objects:
        values.sort(key=attrgetter("offset_bytes"))
    gap_bytes = gap_to_join(((item.offset_bytes, item.length_bytes) for item in values) for values in objects)
    return [group for values in objects for group in near_ranges(values, MAX_RANGE_BYTES, gap_bytes)]


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
