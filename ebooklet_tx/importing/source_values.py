"""Values of a remote that ebooklet wrote, fetched side by side.

The invariant: a value is handed out only if it is the one that the index means: in a group under its own key,
time and length, and with its digest where ebooklet left one. Otherwise an error takes its place. What is held in
memory is bounded, but for one value that is larger by itself.
"""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    ObjectTooLargeError,
    OfflineError,
    RemoteAccessError,
    RemoteIntegrityError,
)
from ebooklet_tx.importing.source_root import Place
from ebooklet_tx.limits import MAX_TIMESTAMP_US, MAX_VALUE_BYTES
from ebooklet_tx.stores.object_store import Blob
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.read.near_ranges import near_ranges, span_of
from ebooklet_tx.sync.read.ranges import MAX_RANGE_BYTES, parts_of_range
from ebooklet_tx.sync.remote import Remote

EXPECTED_BYTES = 2**20
"""What an object of one value is taken for, as no index tells its length; a longer one is read again, alone."""

_BEFORE_VALUE_BYTES = 2 + 7 + 4
"""What a group has before a value beside its key: lengths of key and value, and the time."""


class SourceValue(NamedTuple):
    """What was found at a place.

    Attributes:
        place: The place.
        timestamp_us: The value's own time, which is another than the index's where a push of ebooklet's was cut
            short.
        value: The encoded value, or why it can't be had.
    """

    place: Place
    timestamp_us: int
    value: bytes | Error


def in_order_of_place(places: Iterable[Place]) -> list[Place]:
    """Returns places in the order in which they are fetched by the fewest requests."""
    return sorted(places, key=lambda place: (-1 if place.group is None else place.group, place.offset_bytes))


def fetch_values(
    remote: Remote, groups: Mapping[int, str], places: Sequence[Place]
) -> Generator[SourceValue, None, None]:
    """Yields the values at some places, in the order given.

    Args:
        remote: The source.
        groups: The names of its group objects by number.
        places: Where the values lie, as `in_order_of_place` orders them.

    Raises:
        OfflineError: The source can't be reached.
        RemoteAccessError: It refuses all that it is asked for.
    """
    alone = [place for place in places if place.group is None]
    for values in (_fetch_objects(remote, alone), _fetch_members(remote, groups, places[len(alone) :])):
        with closing(values):
            yield from values


# -- one object a key ----------------------------------------------------------------------------


def _fetch_objects(remote: Remote, places: Sequence[Place]) -> Generator[SourceValue, None, None]:
    def fetch(place: Place) -> Blob | Error:
        return _get(remote, place, EXPECTED_BYTES)

    objects = side_by_side(places, fetch, size_bytes=lambda _: 2 * EXPECTED_BYTES, threads=remote.threads)
    with closing(objects):
        for place, outcome in objects:
            if isinstance(outcome, ObjectTooLargeError):
                outcome = _get(remote, place, MAX_VALUE_BYTES)
            yield _checked_object(place, outcome)


def _get(remote: Remote, place: Place, most_bytes: int) -> Blob | Error:
    try:
        blob = remote.store.get(f"{remote.names.root}/{place.key}", max_bytes=most_bytes)
    except OfflineError:
        raise
    except RemoteAccessError as error:
        _check_reachable(remote)
        return error
    except (Error, InvalidArgumentError) as error:
        return error
    # Without a condition a store answers with the object or raises.
    return blob or Blob(b"", "")


def _check_reachable(remote: Remote) -> None:
    """Raises where all is refused: a store may refuse what is not there, as it does to those who may not list."""
    remote.store.head(remote.names.root)


def _checked_object(place: Place, outcome: Blob | Error) -> SourceValue:
    if isinstance(outcome, Error):
        return SourceValue(place, place.timestamp_us, outcome)
    stamp = _own_stamp(outcome, place.timestamp_us)
    digest = outcome.metadata.get("content-md5")
    if digest and hashlib.md5(outcome.data, usedforsecurity=False).hexdigest() != digest:
        problem = "it does not have the MD5 that ebooklet noted with it"
        return SourceValue(place, stamp, _damaged(place.key, problem))
    return SourceValue(place, stamp, outcome.data)


def _own_stamp(blob: Blob, otherwise: int) -> int:
    text = blob.metadata.get("timestamp", "")
    stamp = int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else otherwise
    return stamp if stamp <= MAX_TIMESTAMP_US else otherwise


# -- groups --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Member:
    """A value in a group object, with what stands before it there."""

    place: Place
    head_bytes: int
    offset_bytes: int
    length_bytes: int


def _fetch_members(
    remote: Remote, groups: Mapping[int, str], places: Sequence[Place]
) -> Generator[SourceValue, None, None]:
    def fetch(run: Sequence[_Member]) -> bytes | Error:
        name = groups.get(run[0].place.group or 0)
        if name is None:
            return RemoteIntegrityError(f"ebooklet's root does not name its group {run[0].place.group}")
        return _get_range(remote, f"{remote.names.root}/{name}", *span_of(run))

    runs = side_by_side(_runs(places), fetch, size_bytes=lambda run: 2 * span_of(run)[1], threads=remote.threads)
    with closing(runs):
        for run, data in runs:
            start, _ = span_of(run)
            for member in run:
                yield _checked_member(member, data, start)


def _runs(places: Sequence[Place]) -> Iterator[list[_Member]]:
    for _, in_group in groupby(places, key=lambda place: place.group):
        members = []
        for place in in_group:
            # Where the index is wrong, there may be no room for the head.
            head = min(_BEFORE_VALUE_BYTES + len(place.key.encode()), place.offset_bytes)
            members.append(_Member(place, head, place.offset_bytes - head, head + (place.length_bytes or 0)))
        yield from near_ranges(sorted(members, key=lambda member: member.offset_bytes), MAX_RANGE_BYTES)


def _get_range(remote: Remote, name: str, offset: int, length: int) -> bytes | Error:
    try:
        return b"".join(remote.store.get_range(name, *part) for part in parts_of_range(offset, length))
    except OfflineError:
        raise
    except RemoteAccessError as error:
        _check_reachable(remote)
        return error
    except Error as error:
        return error


def _checked_member(member: _Member, data: bytes | Error, start: int) -> SourceValue:
    place = member.place
    if isinstance(data, Error):
        return SourceValue(place, place.timestamp_us, data)
    begin = member.offset_bytes - start
    end = begin + member.length_bytes
    key = place.key.encode()
    length = place.length_bytes or 0
    expected = (
        len(key).to_bytes(2, "big") + key + place.timestamp_us.to_bytes(7, "little") + length.to_bytes(4, "big")
    )
    if data[begin : begin + member.head_bytes] != expected:
        problem = "its group holds something else where ebooklet's index says that it lies"
        return SourceValue(place, place.timestamp_us, _damaged(place.key, problem))
    return SourceValue(place, place.timestamp_us, data[begin + member.head_bytes : end])


def _damaged(key: str, problem: str) -> RemoteIntegrityError:
    return RemoteIntegrityError(f"the value of {key!r} is damaged in the source: {problem}", key=key)


__all__ = ["SourceValue", "fetch_values", "in_order_of_place"]
