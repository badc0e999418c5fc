"""Loading: bringing values to this machine, many or all of them, without handing them out.

The invariant: what is kept has the digest that the index has for it, and memory goes by the bytes in flight,
never by the size of the database or of a value.

A database is loaded in the order in which its values lie in the packs, so that each pack is read once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing
from itertools import groupby, pairwise
from typing import NamedTuple

from ebooklet_tx.errors import ContentionError, Error, ObjectMissingError, OfflineError
from ebooklet_tx.index.lookup import RowColumns, put_together
from ebooklet_tx.local.commit import FetchedColumns
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.entries import Entry, check_pending, find_entries, pending_page
from ebooklet_tx.sync.base_index import check_readable
from ebooklet_tx.sync.read.fetch import fetch_many, read_alone
from ebooklet_tx.sync.read.large_values import bring_large
from ebooklet_tx.sync.read.near_ranges import are_first, gap_to_join
from ebooklet_tx.sync.read.ranges import MAX_RANGE_BYTES, Range, cut_values, fetch_groups
from ebooklet_tx.sync.read.reader import Reader
from ebooklet_tx.sync.read.visible_keys import MAX_MOVES, holds_for

PAGE_KEYS = 4000
BATCH_KEYS = 200_000
"""As many places are in memory at a time. Where values were packed in another order than that of their keys,
each batch reads a share of every pack."""

KEPT = "loading again fetches the rest"
LARGE_VALUE_BYTES = 64 * 2**20
"""A value above this is loaded without being held in memory."""


def load_all(reader: Reader) -> Iterator[tuple[str, Error]]:
    """Brings every value here, and holds those that are here to their digests; yields what can't be had."""
    for values, commit_id in live_batches(reader):
        # In this order: what changes in between is not kept.
        epoch = reader.local.index_epoch()
        held = find_entries(reader.local.journal, values.keys)
        far = [number for number in range(len(values.keys)) if _is_far(values, number, held)]
        if len(far) < len(values.keys):
            distant = set(far)
            near = [key for number, key in enumerate(values.keys) if number not in distant]
            for start in range(0, len(near), PAGE_KEYS):
                yield from load_some(reader, near[start : start + PAGE_KEYS])
        # They take the place of a block of an earlier value.
        replacing = {key for key, there in held.items() if there.local_digest is not None}
        del held
        yield from _load_far(reader, values, far, replacing, commit_id, epoch)
    yield from _load_pending(reader)


def _is_far(values: RowColumns, number: int, held: dict[str, Entry]) -> bool:
    """Whether a value lies in a pack and nowhere on this machine."""
    if values.offsets_bytes[number] is None:
        return False
    entry = held.get(values.keys[number])
    return entry is None or (not entry.pending and entry.local_digest != values.digests[number])


def _load_pending(reader: Reader) -> Iterator[tuple[str, Error]]:
    """Holds what is pending to its digests; all of it is here."""
    check_pending(reader.local.journal)
    least = ""
    while page := pending_page(reader.local.journal, least, None, PAGE_KEYS):
        yield from load_some(reader, [key for key, _ in page])
        least = page[-1][0] + "\0"


def live_batches(reader: Reader) -> Iterator[tuple[RowColumns, str | None]]:
    """Yields the rows of all values of the base commit, in batches, each with the commit.

    Where the base has moved before a batch was dealt with, its keys come once more, with what they have then.
    """
    after: str | None = None
    for _ in range(MAX_MOVES):
        base = read_base(reader.local.journal)
        check_readable(reader.local.journal, base)
        view = reader.base_index.of_base(base)
        if view is None:
            return
        # As columns: hundreds of thousands of records would be gone through by each garbage collection.
        parts: list[RowColumns] = []
        count = 0
        try:
            for rows in view.scan_columns("" if after is None else after + "\0"):
                parts.append(rows.without_tombstones())
                count += len(parts[-1].keys)
                if count >= BATCH_KEYS:
                    yield put_together(parts), base.commit_id
                    if not holds_for(base, read_base(reader.local.journal)):
                        break
                    after, parts, count = rows.keys[-1], [], 0
            else:
                if count:
                    yield put_together(parts), base.commit_id
                if holds_for(base, read_base(reader.local.journal)):
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


class _Group(NamedTuple):
    """Values that one request reads: the numbers of their rows, and where they lie together."""

    numbers: list[int]
    range: Range


def _load_far(
    reader: Reader,
    values: RowColumns,
    far: Sequence[int],
    replacing: Collection[str],
    commit_id: str | None,
    epoch: int,
) -> Iterator[tuple[str, Error]]:
    """Brings values that lie in packs, pack by pack.

    Args:
        reader: Where from and where to.
        values: The rows of values.
        far: The numbers of those that are to be brought.
        replacing: Keys that have a block in the file.
        commit_id: The commit that the rows are of.
        epoch: The index epoch at which they were not here.
    """
    lengths = values.lengths_bytes
    small = [number for number in far if (lengths[number] or 0) <= LARGE_VALUE_BYTES]
    large = [] if len(small) == len(far) else sorted(set(far).difference(small))
    total_bytes = sum(lengths[number] or 0 for number in far)

    def keep(arrived: Sequence[tuple[_Group, bytes | Error]]) -> list[str]:
        """Keeps what has arrived; returns the keys of what has not, or is damaged."""
        failed: list[str] = []
        for group, data in arrived:
            rows, found, damaged = _cut(values, group, data)
            failed += damaged
            reader.local.keep_now(FetchedColumns(rows, found, replacing, commit_id), epoch)
            phase.note_kept(len(found), sum(map(len, found)))
        return failed

    with reader.remote.reporter.phase("load", keys_total=len(far), bytes_total=total_bytes, kept=KEPT) as phase:
        groups = list(_groups(values, small))
        with closing(fetch_groups(reader.remote, groups, _range_of, phase=phase, left=keep)) as fetched:
            for group, data in fetched:
                failed = keep([(group, data)])
                error = data if isinstance(data, OfflineError) else None
                # They are let go before the next group comes.
                del data
                yield from _read_each_alone(reader, failed, error)
        for number in large:
            yield from _load_large(reader, [values.keys[number]])
            phase.advance(1, lengths[number] or 0)


def _range_of(group: _Group) -> Range:
    return group.range


def _groups(values: RowColumns, numbers: Sequence[int]) -> Iterator[_Group]:
    """Groups values of rows that lie near each other in the same object."""
    refs, offsets, lengths = values.refs, values.offsets_bytes, values.lengths_bytes
    by_object: dict[str, list[int]] = {}
    for name, some in groupby(numbers, key=lambda number: refs[number].name):
        by_object.setdefault(name, []).extend(some)
    objects = [by_object[name] for name in sorted(by_object)]
    for members in objects:
        members.sort(key=lambda number: offsets[number] or 0)

    def extents(members: Sequence[int]) -> Iterator[tuple[int, int]]:
        return ((offsets[number] or 0, lengths[number] or 0) for number in members)

    gap_bytes = gap_to_join(map(extents, objects))
    for members in objects:
        firsts = [at for at, first in enumerate(are_first(extents(members), MAX_RANGE_BYTES, gap_bytes)) if first]
        for begin, end in pairwise([*firsts, len(members)]):
            group = members[begin:end]
            start = offsets[group[0]] or 0
            span = max(offset + length for offset, length in extents(group)) - start
            value_bytes = sum(lengths[number] or 0 for number in group)
            yield _Group(group, Range(refs[group[0]], start, span, len(group), value_bytes))


def _cut(values: RowColumns, group: _Group, data: bytes | Error) -> tuple[RowColumns, Sequence[bytes], list[str]]:
    """Returns the rows and values of a group that came sound, and the keys of all others."""
    rows = values.picked(group.numbers)
    if isinstance(data, Error):
        return rows.picked(()), (), list(rows.keys)
    extents = zip(rows.offsets_bytes, rows.lengths_bytes, strict=True)
    cut = cut_values([(offset or 0, length or 0) for offset, length in extents], rows.digests, data)
    sound = [value for value in cut if value is not None]
    if len(sound) == len(cut):
        return rows, sound, []
    numbers = [number for number, value in enumerate(cut) if value is not None]
    damaged = [key for key, value in zip(rows.keys, cut, strict=True) if value is None]
    return rows.picked(numbers), sound, damaged


def _read_each_alone(
    reader: Reader, keys: Sequence[str], offline: OfflineError | None
) -> Iterator[tuple[str, Error]]:
    """Reads values that could not be had with others; yields those that can't be had so either."""
    for key in keys:
        outcome = offline or read_alone(reader, key)
        if isinstance(outcome, Error):
            yield key, outcome
