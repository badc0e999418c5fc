"""Repacking: live values are read from the packs that hold them, to be put together into new ones.

The invariants: a value that is put into a new pack was held to its digest, and a new pack is as small as its
values let it be: equal ones are in it once, under the shortest of their keys.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import closing
from itertools import islice

from ebooklet_tx.errors import (
    Error,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.commit.packing import PackRecord
from ebooklet_tx.sync.read.ranges import fetch_ranges, read_range, sound_values
from ebooklet_tx.sync.remote import Remote

_KEYS_AT_ONCE = 500

_GONE = (ObjectMissingError, NotFoundInRangeError, PreconditionFailedError, RemoteIntegrityError)


def values_to_read(rows: Iterable[RemoteValue], arrived: Container[bytes]) -> list[RemoteValue]:
    """Returns one of the rows for each value of each pack that no new pack has yet.

    Args:
        rows: The live values in the packs, one for each key.
        arrived: The digests of the values that new packs have.
    """
    chosen: dict[tuple[str, bytes], RemoteValue] = {}
    for row in rows:
        if row.digest not in arrived:
            chosen.setdefault((row.ref.name, row.digest), row)
    return list(chosen.values())


def read_values(
    local: LocalStore, remote: Remote, wanted: Iterable[RemoteValue], unreadable: set[str]
) -> Iterator[tuple[bytes, bytes]]:
    """Yields (digest, value): those that are on this machine, then the others, by joined ranged reads.

    Args:
        local: This machine's half of the database.
        remote: The remote.
        wanted: Where the values lie.
        unreadable: Where the keys are noted whose values can't be had.
    """
    missing: list[RemoteValue] = []
    rows = iter(wanted)
    while some := list(islice(rows, _KEYS_AT_ONCE)):
        copies = local.read_copies({row.key: row.digest for row in some})
        for row, value in zip(some, copies, strict=True):
            if value is not None:
                yield row.digest, value
            else:
                missing.append(row)
    with closing(fetch_ranges(remote, missing)) as groups:
        for group, data in groups:
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


def under_shortest_keys(
    values: Iterable[tuple[bytes, bytes]], rows: Iterable[RemoteValue]
) -> Iterator[PackRecord]:
    """Yields values, equal ones once, each under the shortest of its keys: a record counts by that.

    Args:
        values: Digests and values.
        rows: All rows whose values are to lie in the new packs: a value may have several keys.
    """
    shortest = shortest_keys(rows)
    seen: set[bytes] = set()
    for digest, value in values:
        if digest not in seen:
            seen.add(digest)
            row = shortest[digest]
            yield digest, row.key, row.timestamp_us, digest, value


def shortest_keys(rows: Iterable[RemoteValue]) -> dict[bytes, RemoteValue]:
    """Returns for each digest the row with the shortest key."""
    shortest: dict[bytes, RemoteValue] = {}
    for row in rows:
        known = shortest.setdefault(row.digest, row)
        if known is not row and len(row.key.encode()) < len(known.key.encode()):
            shortest[row.digest] = row
    return shortest
