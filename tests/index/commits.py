"""A remote's index in memory, made by the package's own functions, beside a dict for each commit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ebooklet_tx.formats.block import Block, decode_block
from ebooklet_tx.formats.index_records import IndexEntry, Run, Sizes
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.index.building import IndexLimits, add_rows
from ebooklet_tx.index.lookup import LocatedRow, tail_rows
from ebooklet_tx.index.merging import MergeRules
from ebooklet_tx.index.pieces import NoCache, PieceReader
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.records import IndexRow, ObjectRef, digest_of
from tests.memory_store import MemoryStore

TINY = Sizes(block_rows=2, object_blocks=2)
TINY_LIMITS = IndexLimits(tail_bytes=2**20, tail_rows=2, run_list_bytes=200)
ROOT = ObjectRef("", "root", 0)


@dataclass
class IndexOfCommits:
    """The index of a remote as each commit leaves it.

    Attributes:
        runs: Newest first.
        tail: The rows that ride in the root.
        floor_seq: The tombstone floor.
        seq: The last commit.
        states: What each commit's database holds: value by key.
        rows_of: The rows that each commit wrote.
    """

    sizes: Sizes = TINY
    limits: IndexLimits = TINY_LIMITS
    store: MemoryStore = field(default_factory=MemoryStore)
    runs: tuple[Run, ...] = ()
    tail: Block | None = None
    floor_seq: int = 0
    seq: int = 0
    states: list[dict[str, bytes]] = field(default_factory=lambda: [{}])
    numbers: itertools.count[int] = field(default_factory=itertools.count)
    written_bytes: int = 0

    @property
    def names(self) -> ObjectNames:
        return ObjectNames("db")

    def reader(self) -> IndexReader:
        return IndexReader(PieceReader(self.store, self.names, NoCache(), threads=1))

    def put(self, name: str, data: bytes) -> ObjectRef:
        self.written_bytes += len(data)
        return ObjectRef(name, self.store.put(self.names.object(name), data), len(data))

    def writer(self) -> RunWriter:
        def new_name() -> str:
            return f"index/{next(self.numbers):032x}"

        return RunWriter(new_name, new_name, self.put, sizes=self.sizes, threads=1)

    def tail_rows(self) -> Iterable[LocatedRow]:
        return [] if self.tail is None else tail_rows(self.tail, ROOT)

    def commit(self, changes: Mapping[str, bytes | None], rules: MergeRules) -> None:
        """Adds a commit that sets keys, or deletes them with None."""
        self.seq += 1
        rows = [row_of(key, self.seq, value) for key, value in sorted(changes.items())]
        made = add_rows(
            self.tail_rows(), self.runs, rows, self.floor_seq, self.reader(), self.writer(), rules, self.limits
        )
        self.runs, self.floor_seq = made.runs, made.floor_seq
        self.tail = decode_block(made.tail, name="the tail") if made.tail else None
        state = dict(self.states[-1])
        for key, value in changes.items():
            if value is None:
                state.pop(key, None)
            else:
                state[key] = value
        self.states.append(state)

    def entries(self) -> list[list[IndexEntry]]:
        reader = self.reader()
        return [reader.all_entries(run) for run in self.runs]


def row_of(key: str, seq: int, value: bytes | None) -> LocatedRow:
    """Returns a row that says what a commit wrote, its value inline."""
    if value is None:
        return LocatedRow(IndexRow(key, seq, seq, None), ROOT)
    row = IndexRow(key, seq, seq, digest_of(value), None, None, len(value), value)
    return LocatedRow(row, ROOT)
