"""Reading the values in packs to hold each to its digest.

The invariant: memory holds a few ranges at a time, however large a pack or a value is; a value that can't be read
with others is read alone before it counts as damaged.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future
from dataclasses import dataclass

from ebooklet_tx.errors import NotFoundInRangeError, ObjectMissingError
from ebooklet_tx.local.merged_index import LivePlace
from ebooklet_tx.maintenance.merged_root import MergedRoot
from ebooklet_tx.progress import Phase
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.read.near_ranges import near_ranges, span_of
from ebooklet_tx.sync.remote import Remote

READ_BYTES = 4 * 2**20
"""How many bytes are read at a time; several at once."""

READERS = 8


@dataclass(frozen=True, slots=True)
class Checked:
    """What the reading of one range of a pack has shown: which places are damaged, and how."""

    name: str
    values: int
    read_bytes: int
    damaged: list[tuple[LivePlace, str]]


def check_values(
    remote: Remote, names: list[str], index: MergedRoot, phase: Phase
) -> Generator[Checked, None, None]:
    """Reads the live values of some packs, some ranges at a time, and yields what each range has shown."""
    running: deque[Future[Checked]] = deque()
    readers = max(1, min(remote.threads, READERS))

    def check(name: str, group: list[LivePlace]) -> Checked:
        with phase.moving(span_of(group)[1]) as moved, metered(moved):
            checked = _check_range(remote, name, group)
            phase.advance(checked.values, sum(place.length_bytes for place in group))
            return checked

    with Workers(readers, phase) as workers:
        for name in names:
            for group in near_ranges(index.places(name), READ_BYTES):
                running.append(workers.submit(check, name, group))
                if len(running) >= 2 * readers:
                    yield workers.result(running.popleft())
        while running:
            yield workers.result(running.popleft())


def _check_range(remote: Remote, name: str, places: list[LivePlace]) -> Checked:
    """Reads places that lie together and holds each to its digest; alone where they can't be read so."""
    start, length = span_of(places)
    if len(places) == 1 and length > READ_BYTES:
        return _check_large(remote, name, places[0])
    try:
        data = remote.store.get_range(remote.names.object(name), start, length)
    except (ObjectMissingError, NotFoundInRangeError) as error:
        if len(places) == 1:
            return Checked(name, 1, 0, [(places[0], _unreadable(error))])
        parts = [_check_range(remote, name, [place]) for place in places]
        damaged = [found for part in parts for found in part.damaged]
        return Checked(name, len(places), sum(part.read_bytes for part in parts), damaged)
    damaged = []
    for place in places:
        at = place.offset_bytes - start
        value = memoryview(data)[at : at + place.length_bytes]
        if hashlib.blake2b(value, digest_size=16).digest() != place.digest:
            damaged.append((place, _altered(place)))
    return Checked(name, len(places), len(data), damaged)


def _check_large(remote: Remote, name: str, place: LivePlace) -> Checked:
    """Reads one value in pieces."""
    digest = hashlib.blake2b(digest_size=16)
    done = 0
    while done < place.length_bytes:
        length = min(READ_BYTES, place.length_bytes - done)
        try:
            digest.update(remote.store.get_range(remote.names.object(name), place.offset_bytes + done, length))
        except (ObjectMissingError, NotFoundInRangeError) as error:
            return Checked(name, 1, done, [(place, _unreadable(error))])
        done += length
    damaged = [] if digest.digest() == place.digest else [(place, _altered(place))]
    return Checked(name, 1, done, damaged)


def _altered(place: LivePlace) -> str:
    return (
        f"the {place.length_bytes} bytes at byte {place.offset_bytes} are not the value that the index says: "
        "the digest differs"
    )


def _unreadable(error: Exception) -> str:
    return f"a value can't be read: {error}"


__all__ = ["Checked", "check_values"]
