"""Loading: bringing values to this machine, many or all of them, without handing them out.

The invariant: what is kept has the digest that the index has for it, and memory goes by the bytes in flight,
never by the size of the database or of a value.

A database is loaded in the order in which its values lie in the packs, so that each pack is read once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

from ebooklet_tx.errors import ContentionError, Error, ObjectMissingError, OfflineError
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import Entry, check_pending, find_entries, pending_page
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.sync.base_index import check_readable
from ebooklet_tx.sync.read.fetch import fetch_many, read_alone
from ebooklet_tx.sync.read.large_values import bring_large
from ebooklet_tx.sync.read.ranges import Arrived, fetch_ranges, sound_values
from ebooklet_tx.sync.read.reader import Reader, fetched_row
from ebooklet_tx.sync.read.visible_keys import MAX_MOVES

PAGE_KEYS = 4000
BATCH_KEYS = 200_000
"""As many places are in memory at a time. Where values were packed in another order than that of their keys,
each batch reads a share of every pack."""

KEPT = "loading again fetches the rest"
LARGE_VALUE_BYTES = 64 * 2**20
"""A value above this is loaded without being held in memory."""


def load_all(reader: Reader) -> Iterator[tuple[str, Error]]:
    """Brings every value here, and holds those that are here to their digests; yields what can't be had."""
    for rows, commit_id in live_batches(reader):
        keys = [item.row.key for item in rows]
        # In this order: what changes in between is not kept.
        epoch = reader.local.index_epoch()
        held = find_entries(reader.local.journal, keys)
        far = [item for item in rows if _is_far(held.get(item.row.key), item)]
        distant = {item.row.key for item in far}
        near = [key for key in keys if key not in distant]
        for start in range(0, len(near), PAGE_KEYS):
            yield from load_some(reader, near[start : start + PAGE_KEYS])
        yield from _load_rows(reader, far, held, commit_id, epoch)
    yield from _load_pending(reader)


def _is_far(held: Entry | None, item: LocatedRow) -> bool:
    """Whether a value lies in a pack and nowhere on this machine."""
    if item.row.offset_bytes is None:
        return False
    return held is None or (not held.pending and held.local_digest != item.row.digest)


def _load_pending(reader: Reader) -> Iterator[tuple[str, Error]]:
    """Holds what is pending to its digests; all of it is here."""
    check_pending(reader.local.journal)
    least = ""
    while page := pending_page(reader.local.journal, least, None, PAGE_KEYS):
        yield from load_some(reader, [key for key, _ in page])
        least = page[-1][0] + "\0"


def live_batches(reader: Reader) -> Iterator[tuple[list[LocatedRow], str | None]]:
    """Yields the rows of all values of the base commit, in batches, each with the commit."""
    after: str | None = None
    for _ in range(MAX_MOVES):
        base = read_base(reader.local.journal)
        check_readable(reader.local.journal, base)
        view = reader.base_index.of_base(base)
        if view is None:
            return
        batch: list[LocatedRow] = []
        try:
            for item in view.scan("" if after is None else after + "\0"):
                if item.row.digest is not None:
                    batch.append(item)
                if len(batch) >= BATCH_KEYS:
                    yield batch, base.commit_id
                    after, batch = batch[-1].row.key, []
            if batch:
                yield batch, base.commit_id
            return
        except ObjectMissingError as error:
            reader.move_on(base, error)
    raise ContentionError(
        f"the remote's index was replaced {MAX_MOVES} times while all of it was read; try again"
    )


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


def _load_rows(
    reader: Reader, rows: Sequence[LocatedRow], held: dict[str, Entry], commit_id: str | None, epoch: int
) -> Iterator[tuple[str, Error]]:
    """Brings values that lie in packs, pack by pack."""
    by_key = {item.row.key: item for item in rows}
    small: list[RemoteValue] = []
    large: list[RemoteValue] = []
    for item in rows:
        row = item.row
        place = item.ref, row.offset_bytes or 0, row.length_bytes or 0
        value = RemoteValue(row.key, row.digest or b"", row.timestamp_us, *place)
        (small if value.length_bytes <= LARGE_VALUE_BYTES else large).append(value)
    total_bytes = sum(value.length_bytes for value in (*small, *large))
    count = len(small) + len(large)

    def keep(arrived: Arrived) -> list[str]:
        """Keeps what has arrived; returns the keys of what has not, or is damaged."""
        failed, sound = [], []
        for group, data in arrived:
            for item, value in sound_values(group, data):
                if value is None:
                    failed.append(item.key)
                else:
                    there = held.get(item.key)
                    # It replaces the block of an earlier value.
                    replaces = there is not None and there.local_digest is not None
                    sound.append(fetched_row(by_key[item.key], value, commit_id, replaces=replaces))
        reader.local.keep_now(sound, epoch)
        phase.note_kept(len(sound), sum(len(item.value) for item in sound))
        return failed

    with reader.remote.reporter.phase("load", keys_total=count, bytes_total=total_bytes, kept=KEPT) as phase:
        with closing(fetch_ranges(reader.remote, small, phase=phase, left=keep)) as groups:
            for group, data in groups:
                failed = keep([(group, data)])
                error = data if isinstance(data, OfflineError) else None
                # They are let go before the next group comes.
                del data
                yield from _read_each_alone(reader, failed, error)
        for value in large:
            yield from _load_large(reader, [value.key])
            phase.advance(1, value.length_bytes)


def _read_each_alone(
    reader: Reader, keys: Sequence[str], offline: OfflineError | None
) -> Iterator[tuple[str, Error]]:
    """Reads values that could not be had with others; yields those that can't be had so either."""
    for key in keys:
        outcome = offline or read_alone(reader, key)
        if isinstance(outcome, Error):
            yield key, outcome
