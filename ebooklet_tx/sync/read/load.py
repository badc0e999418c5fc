"""Loading: bringing values to this machine, many or all of them, without handing them out.

Owns no state. The invariant: what is kept has the digest that the index has for it, and memory goes by the
ranges in flight, never by the size of the database or of a value.

A database is loaded in the order in which its values lie in the packs, so that each pack is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ebooklet_tx.errors import Error, OfflineError
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.entries import find_entries
from ebooklet_tx.local.journal.remote_values import other_keys_page, values_in_objects, values_to_fetch
from ebooklet_tx.records import METADATA_KEY
from ebooklet_tx.sync.read.fetch import alone, fetch_many
from ebooklet_tx.sync.read.large_values import bring_large
from ebooklet_tx.sync.read.ranges import fetch_ranges, sound_values
from ebooklet_tx.sync.session import Session

PAGE_KEYS = 4000
BATCH_KEYS = 64_000
"""About as many places are in memory at a time; a pack's own are never divided."""

LARGE_VALUE_BYTES = 64 * 2**20
"""A value above this is loaded without being held in memory."""


def load_all(session: Session) -> Iterator[tuple[str, Error]]:
    """Brings every value here, and holds those that are here to their digests; yields what can't be had."""
    after: str | None = ""
    yield from load_some(session, [METADATA_KEY])
    while after is not None:
        page = other_keys_page(session.journal, after, PAGE_KEYS)
        yield from load_some(session, page)
        after = page[-1] if page else None
    for first, last in _batches(values_to_fetch(session.journal)):
        yield from _load_objects(session, first, last)


def load_some(session: Session, keys: Sequence[str]) -> Iterator[tuple[str, Error]]:
    """Brings the values of some keys here; yields those that can't be had, with the reason."""
    with session.mutex:
        entries = find_entries(session.journal, keys)
    large = {key for key, entry in entries.items() if entry.length_bytes > LARGE_VALUE_BYTES}
    for key, value in fetch_many(session, [key for key in keys if key not in large]):
        if isinstance(value, Error):
            yield key, value
    yield from _load_large(session, sorted(large))


def _load_large(session: Session, keys: Sequence[str]) -> Iterator[tuple[str, Error]]:
    for key in keys:
        try:
            bring_large(session, key)
        except Error as error:
            yield key, error


def _batches(counts: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Yields (first, last) of the objects whose values are looked up together."""
    first, size = None, 0
    for number, count in counts:
        first = number if first is None else first
        size += count
        if size >= BATCH_KEYS:
            yield first, number
            first, size = None, 0
    if first is not None:
        yield first, counts[-1][0]


def _load_objects(session: Session, first: int, last: int) -> Iterator[tuple[str, Error]]:
    with session.mutex:
        epoch = session.local.index_epoch()
        values = values_in_objects(session.journal, first, last)
    wanted = [value for value in values if value.length_bytes <= LARGE_VALUE_BYTES]
    for group, data in fetch_ranges(session, wanted):
        failed = []
        sound = []
        for item, value in sound_values(group, data):
            if value is None:
                failed.append(item.key)
            else:
                sound.append(Fetched(item.key, item.timestamp_us, item.digest, value))
        with session.mutex:
            session.local.keep_now(sound, epoch)
        for key in failed:
            outcome = alone(session, key) if not isinstance(data, OfflineError) else data
            if isinstance(outcome, Error):
                yield key, outcome
    yield from _load_large(session, [value.key for value in values if value.length_bytes > LARGE_VALUE_BYTES])
