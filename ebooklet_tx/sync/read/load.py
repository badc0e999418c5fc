"""Loading: bringing values to this machine, many or all of them, without handing them out.

The invariant: what is kept has the digest that the index has for it, and memory goes by the bytes in flight,
never by the size of the database or of a value.

A database is loaded in the order in which its values lie in the packs, so that each pack is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebooklet_tx.errors import Error, OfflineError
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.remote_values import (
    RemoteValue,
    other_keys_page,
    values_in_objects,
    values_to_fetch,
)
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.read.fetch import fetch_many, read_alone
from ebooklet_tx.sync.read.large_values import bring_large
from ebooklet_tx.sync.read.ranges import fetch_ranges, sound_values
from ebooklet_tx.sync.read.reader import Reader

PAGE_KEYS = 4000
BATCH_KEYS = 64_000
"""About as many places are in memory at a time; a pack's own are never divided."""

LARGE_VALUE_BYTES = 64 * 2**20
"""A value above this is loaded without being held in memory."""


def load_all(reader: Reader) -> Iterator[tuple[str, Error]]:
    """Brings every value here, and holds those that are here to their digests; yields what can't be had."""
    journal = reader.local.journal
    yield from load_some(reader, [METADATA_KEY])
    page = other_keys_page(journal, "", PAGE_KEYS)
    while page:
        yield from load_some(reader, page)
        page = other_keys_page(journal, page[-1], PAGE_KEYS)
    for first, last in object_batches(values_to_fetch(journal)):
        yield from _load_objects(reader, first, last)


def load_some(reader: Reader, keys: Sequence[str]) -> Iterator[tuple[str, Error]]:
    """Brings the values of some keys here; yields those that can't be had, with the reason."""
    entries = reader.entries(keys)
    large = {key for key, entry in entries.items() if entry.length_bytes > LARGE_VALUE_BYTES}
    for key, value in fetch_many(reader, [key for key in keys if key not in large]):
        if isinstance(value, Error):
            yield key, value
    yield from _load_large(reader, sorted(large))


def _load_large(reader: Reader, keys: Sequence[str]) -> Iterator[tuple[str, Error]]:
    for key in keys:
        try:
            bring_large(reader, key)
        except Error as error:
            yield key, error


def object_batches(counts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields (first, last) of the objects whose values are looked up together.

    Args:
        counts: Numbers of objects, in order, and how many values each holds.
    """
    first, size = None, 0
    for number, count in counts:
        first = number if first is None else first
        size += count
        if size >= BATCH_KEYS:
            yield first, number
            first, size = None, 0
    if first is not None:
        yield first, counts[-1][0]


def _load_objects(reader: Reader, first: int, last: int) -> Iterator[tuple[str, Error]]:
    journal = reader.local.journal
    with journal.reading():
        epoch = reader.local.index_epoch()
        values = values_in_objects(journal, first, last)
    small = [value for value in values if value.length_bytes <= LARGE_VALUE_BYTES]
    for group, data in fetch_ranges(reader.remote, small):
        yield from _load_group(reader, group, data, epoch)
    yield from _load_large(reader, [value.key for value in values if value.length_bytes > LARGE_VALUE_BYTES])


def _load_group(
    reader: Reader, group: Sequence[RemoteValue], data: bytes | Error, epoch: int
) -> Iterator[tuple[str, Error]]:
    # A function of its own, so that its values are let go before the next group comes.
    failed = []
    sound = []
    for item, value in sound_values(group, data):
        if value is None:
            failed.append(item.key)
        else:
            sound.append(Fetched(item.key, item.timestamp_us, item.digest, value))
    with reader.local.mutex:
        reader.local.keep_now(sound, epoch)
    for key in failed:
        outcome = data if isinstance(data, OfflineError) else read_alone(reader, key)
        if isinstance(outcome, Error):
            yield key, outcome
