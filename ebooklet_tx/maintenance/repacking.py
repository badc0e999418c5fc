"""Repacking: live values are read from the packs that hold them, to be put together into new ones.

The invariants: a value that is put into a new pack was held to its digest, and a new pack is as small as its
values let it be: equal ones are in it once, under the shortest of their keys.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

from ebooklet_tx.errors import (
    Error,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.sync.commit.packing import PendingValue
from ebooklet_tx.sync.read.ranges import fetch_ranges, read_range, sound_values
from ebooklet_tx.sync.remote import Remote

_GONE = (ObjectMissingError, NotFoundInRangeError, PreconditionFailedError, RemoteIntegrityError)


def values_to_read(
    rows: Iterable[Entry], packs: Mapping[int, ObjectRef], arrived: Container[bytes]
) -> list[tuple[Entry, ObjectRef]]:
    """Returns an entry for each value of each pack that no new pack has yet, with the pack.

    Args:
        rows: Entries whose values lie in the packs.
        packs: The packs by their numbers in the journal.
        arrived: The digests of the values that new packs have.
    """
    chosen: dict[tuple[int, bytes], tuple[Entry, ObjectRef]] = {}
    for entry in rows:
        number, digest = entry.remote_object, entry.remote_digest
        if number is not None and digest is not None and digest not in arrived:
            chosen.setdefault((number, digest), (entry, packs[number]))
    return list(chosen.values())


def read_values(
    local: LocalStore, remote: Remote, wanted: Iterable[tuple[Entry, ObjectRef]], unreadable: set[str]
) -> Iterator[tuple[bytes, bytes]]:
    """Yields (digest, value): those that are on this machine, then the others, by joined ranged reads.

    Args:
        local: This machine's half of the database.
        remote: The remote.
        wanted: Entries, each with the pack that its value lies in.
        unreadable: Where the keys are noted whose values can't be had.
    """
    missing: list[RemoteValue] = []
    for entry, ref in wanted:
        digest = entry.remote_digest or b""
        with local.mutex:
            value = local.read(entry)
        if value is not None:
            yield digest, value
        else:
            place = entry.remote_offset_bytes or 0, entry.length_bytes
            missing.append(RemoteValue(entry.key, digest, entry.timestamp_us, ref, *place))
    for group, data in fetch_ranges(remote, missing):
        for item, value in _values_of(remote, group, data):
            if value is None:
                unreadable.add(item.key)
            else:
                yield item.digest, value


def _values_of(
    remote: Remote, group: Sequence[RemoteValue], data: bytes | Error
) -> Iterator[tuple[RemoteValue, bytes | None]]:
    """Yields the values of a group; each is read alone where they can't be read together."""
    if isinstance(data, _GONE) and len(group) > 1:
        for item in group:
            yield from _values_of(remote, [item], _read_alone(remote, item))
    elif isinstance(data, Error) and not isinstance(data, _GONE):
        raise data
    else:
        yield from sound_values(group, data)


def _read_alone(remote: Remote, item: RemoteValue) -> bytes | Error:
    try:
        return read_range(remote, item.ref, item.offset_bytes, item.length_bytes)
    except _GONE as error:
        return error


def under_shortest_keys(values: Iterable[tuple[bytes, bytes]], rows: Iterable[Entry]) -> Iterator[PendingValue]:
    """Yields values, equal ones once, each under the shortest of its keys: `live_rows` counts a record by it.

    Args:
        values: Digests and values.
        rows: All entries whose values are to lie in the new packs: a value may have several keys.
    """
    shortest = shortest_keys(rows)
    seen: set[bytes] = set()
    for digest, value in values:
        if digest not in seen:
            seen.add(digest)
            entry = shortest[digest]
            yield PendingValue(entry.key, entry.timestamp_us, digest, value)


def shortest_keys(rows: Iterable[Entry]) -> dict[bytes, Entry]:
    """Returns for each digest the entry with the shortest key."""
    shortest: dict[bytes, Entry] = {}
    for entry in rows:
        digest = entry.remote_digest
        if digest is not None:
            known = shortest.setdefault(digest, entry)
            if known is not entry and len(entry.key.encode()) < len(known.key.encode()):
                shortest[digest] = entry
    return shortest
