"""Merging runs, a bounded range of keys at a time.

The invariants: a step joins neighbouring runs only, over a range that ends inside no slot of the lower one.
Entries of the lower run in the range are replaced, those of the upper run are clipped, and nothing else is
rewritten; an entry that is left without rows goes. A tombstone is dropped only behind the horizon and where no
slot of a run below the two holds its key, and the floor rises to its commit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from operator import attrgetter

from ebooklet_tx.formats.index_records import IndexEntry, Run
from ebooklet_tx.index.lookup import LocatedRow, entry_rows, newest
from ebooklet_tx.index.reader import IndexReader, intersection, meets, row_count
from ebooklet_tx.index.row_batches import BatchedRows, RowBatch, count_rows, draw
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.records import IndexRow

MAX_RUNS = 8
"""More runs than this are never left behind."""

RUN_RATIO = 8
"""A run has at least this many times the rows of the one above it, once merging has caught up."""


ROWS_HELD = 10_000
"""At most this many new rows are held in memory to find out whether they are merged at once."""


@dataclass(frozen=True, slots=True)
class MergeRules:
    """What bounds a merge.

    Attributes:
        budget_bytes: The most index bytes that are rewritten.
        horizon_seq: Tombstones of commits up to this one may be dropped.
        ratio: How many times the rows of the run above a run has at least.
        max_runs: The most runs that are left, whatever that costs.
    """

    budget_bytes: int
    horizon_seq: int
    ratio: int = RUN_RATIO
    max_runs: int = MAX_RUNS


@dataclass(frozen=True, slots=True)
class Merged:
    """What merging made of runs: the runs, the tombstone floor that they need at least, and what it rewrote."""

    runs: tuple[Run | tuple[IndexEntry, ...], ...]
    floor_seq: int
    rewritten_bytes: int = 0


def merge_runs(
    runs: Sequence[Run], floor_seq: int, reader: IndexReader, writer: RunWriter, rules: MergeRules
) -> Merged:
    """Merges runs, newest first, as far as the budget goes."""
    left_bytes = rules.budget_bytes
    current = list(runs)
    while (upper := _pair_to_merge([row_count(run) for run in current], rules)) is not None:
        forced = len(current) > rules.max_runs
        up, down = (reader.all_entries(current[upper + each]) for each in (0, 1))
        step = _range_to_merge(up, down, reader, None if forced else left_bytes)
        if step is None:
            break
        merge = _Merge(reader, writer, step, rules.horizon_seq, current[upper + 2 :])
        current[upper : upper + 2] = [run for run in merge.join(up, down) if run]
        floor_seq = max(floor_seq, merge.dropped_seq)
        left_bytes -= step.cost_bytes
    return Merged(tuple(current), floor_seq)


def write_upon(
    batches: Iterator[RowBatch],
    runs: Sequence[Run],
    floor_seq: int,
    reader: IndexReader,
    writer: RunWriter,
    rules: MergeRules,
) -> Merged:
    """Writes rows above runs, into the newest of these where they would be merged with it at once.

    Args:
        batches: The rows, in order of key, each with a higher seq than any below.
        runs: The runs below, newest first.
        floor_seq: The tombstone floor below.
        reader: Reads the runs.
        writer: Writes index objects.
        rules: How much is merged.
    """
    if runs:
        due = draw(batches, row_count(runs[0]) // rules.ratio) if _is_small(runs[0], rules) else []
        batches = chain(due, batches)
        if due and count_rows(due) * rules.ratio > row_count(runs[0]):
            down = reader.all_entries(runs[0])
            step = _Range("", None, sum(entry.size_bytes for entry in down))
            if step.cost_bytes <= rules.budget_bytes:
                merge = _Merge(reader, writer, step, rules.horizon_seq, runs[1:])
                rows = iter(BatchedRows(batches))
                above = tuple(run for run in (merge.put(rows, down), *runs[1:]) if run)
                return Merged(above, max(floor_seq, merge.dropped_seq), step.cost_bytes)
    entries = writer.entries(BatchedRows(batches))
    return Merged((entries, *runs) if entries else tuple(runs), floor_seq)


def _is_small(run: Run, rules: MergeRules) -> bool:
    """Whether as many rows as would be merged with a run may be held in memory."""
    return row_count(run) <= ROWS_HELD * rules.ratio


def _pair_to_merge(counts: Sequence[int], rules: MergeRules) -> int | None:
    """Returns the number of the upper run of the pair whose merge costs least, None where all is well."""
    too_many = len(counts) > rules.max_runs
    costs = [
        (above + below, number)
        for number, (above, below) in enumerate(pairwise(counts))
        if too_many or above * rules.ratio > below
    ]
    return min(costs)[1] if costs else None


# -- the range of a step -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Range:
    lo: str
    hi: str | None
    cost_bytes: int


def _range_to_merge(
    up: Sequence[IndexEntry], down: Sequence[IndexEntry], reader: IndexReader, most_bytes: int | None
) -> _Range | None:
    """Returns the first range with rows of the upper run that is affordable; None where none is."""
    chosen: _Range | None = None
    for lo, hi in _segments(up, down):
        mine = _bytes_in(up, reader, lo, hi)
        if not mine and chosen is None:
            continue
        cost = mine + sum(entry.size_bytes for entry in down if meets(entry.lo, entry.hi, lo, hi))
        spent = cost if chosen is None else chosen.cost_bytes + cost
        if most_bytes is not None and spent > most_bytes:
            return chosen
        chosen = _Range(lo if chosen is None else chosen.lo, hi, spent)
    return chosen


def _segments(up: Sequence[IndexEntry], down: Sequence[IndexEntry]) -> Iterator[tuple[str, str | None]]:
    """Yields the smallest ranges, in order, that end inside no slot of the lower run."""
    slots = _Slots(down)
    cuts = {entry.lo for entry in down} | {entry.lo for entry in up if not slots.holds_inside(entry.lo)}
    ordered: list[str | None] = [*sorted(cuts), None]
    for lo, hi in zip(["", *ordered], ordered, strict=False):
        if hi != "" and lo is not None:
            yield lo, hi


def _bytes_in(entries: Sequence[IndexEntry], reader: IndexReader, lo: str, hi: str | None) -> int:
    inside = [entry for entry in entries if meets(entry.lo, entry.hi, lo, hi)]
    return sum(ref.length_bytes for entry in inside for _, _, ref in reader.slots(entry, lo, hi))


class _Slots:
    """The slots of some entries, which may overlap."""

    def __init__(self, entries: Sequence[IndexEntry]) -> None:
        self._runs: list[list[IndexEntry]] = []
        for entry in sorted(entries, key=attrgetter("lo")):
            for run in self._runs:
                last = run[-1].hi
                if last is not None and last <= entry.lo:
                    run.append(entry)
                    break
            else:
                self._runs.append([entry])

    def hold(self, key: str) -> bool:
        """Whether a key lies in one of them."""
        return any(entry.holds(key) for entry in self._near(key))

    def holds_inside(self, key: str) -> bool:
        """Whether a key lies in one of them behind its beginning."""
        return any(entry.holds(key) and key != entry.lo for entry in self._near(key))

    def _near(self, key: str) -> Iterator[IndexEntry]:
        for run in self._runs:
            number = bisect_right(run, key, key=attrgetter("lo")) - 1
            if number >= 0:
                yield run[number]


def may_drop(row: IndexRow, horizon_seq: int, is_below: Callable[[str], bool]) -> bool:
    """Whether a row is a tombstone that nothing needs any more: it hides no row of a run below."""
    return row.digest is None and row.seq <= horizon_seq and not is_below(row.key)


# -- one step ----------------------------------------------------------------------------------


class _Merge:
    """One step: the rows of two neighbouring runs in a range become entries of the lower one."""

    def __init__(
        self, reader: IndexReader, writer: RunWriter, step: _Range, horizon_seq: int, lower: Sequence[Run]
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._lo = step.lo
        self._hi = step.hi
        self._horizon_seq = horizon_seq
        self._lower = lower
        self._below: _Slots | None = None
        self.dropped_seq = 0

    def join(
        self, up: Sequence[IndexEntry], down: Sequence[IndexEntry]
    ) -> tuple[tuple[IndexEntry, ...], tuple[IndexEntry, ...]]:
        """Returns the two runs as they are after the step."""
        rest = tuple(part for entry in up for part in self._rest(entry))
        return rest, self.put(self._rows_of(up), down)

    def put(self, rows: Iterator[LocatedRow], down: Sequence[IndexEntry]) -> tuple[IndexEntry, ...]:
        """Returns the lower run with rows of the range put into it, of which each has a higher seq."""
        merged = self._kept(newest([rows, self._rows_of(down)]))
        written = self._writer.entries(merged, lo=self._lo, hi=self._hi)
        lower = [entry for entry in down if not self._meets(entry)]
        return tuple(sorted((*lower, *written), key=attrgetter("lo")))

    def _rows_of(self, run: Sequence[IndexEntry]) -> Iterator[LocatedRow]:
        return entry_rows([entry for entry in run if self._meets(entry)], self._reader, self._lo, self._hi)

    def _meets(self, entry: IndexEntry) -> bool:
        return meets(entry.lo, entry.hi, self._lo, self._hi)

    def _kept(self, rows: Iterator[LocatedRow]) -> Iterator[LocatedRow]:
        for item in rows:
            row = item.row
            if row.digest is None and may_drop(row, self._horizon_seq, self._is_below):
                self.dropped_seq = max(self.dropped_seq, row.seq)
            else:
                yield item

    def _is_below(self, key: str) -> bool:
        if self._below is None:
            self._below = _Slots([entry for run in self._lower for entry in self._reader.all_entries(run)])
        return self._below.hold(key)

    def _rest(self, entry: IndexEntry) -> Iterator[IndexEntry]:
        """Yields what is left of an upper entry outside the range: clipped, not rewritten."""
        if not self._meets(entry):
            yield entry
            return
        parts: list[tuple[str, str | None]] = [(entry.lo, self._lo)]
        if self._hi is not None:
            parts.append((max(entry.lo, self._hi), entry.hi))
        for lo, hi in parts:
            if hi is not None and lo >= hi:
                continue
            rows = _rows_at_most(entry, self._reader, lo, hi)
            if rows:
                yield entry._replace(lo=lo, hi=hi)


def _rows_at_most(entry: IndexEntry, reader: IndexReader, lo: str, hi: str | None) -> int:
    """Returns an upper bound of the rows that an entry has in a range, 0 only where it has none."""
    count, certain = 0, False
    partial = []
    (directory,) = reader.directories([entry])
    least, most = intersection(entry.lo, entry.hi, lo, hi)
    for number, ref in enumerate(directory.blocks):
        begin, end = intersection(*directory.slot(number, entry.lo, entry.hi), lo, hi)
        if end is not None and begin >= end:
            continue
        count += ref.row_count
        # A block whose fences both lie in the range has all of its rows there.
        ends = ref.next_fence is not None and (most is None or ref.next_fence <= most)
        certain = certain or (least <= ref.fence and ends)
        partial.append(((begin, end), ref))
    if certain or not count:
        return count
    for ((begin, end), _), block in zip(
        partial, reader.blocks([(entry, ref) for _, ref in partial]), strict=True
    ):
        if any(True for _ in block.rows(begin, end)):
            return count
    return 0


__all__ = ["MAX_RUNS", "MergeRules", "Merged", "may_drop", "merge_runs", "write_upon"]
