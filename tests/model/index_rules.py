"""The rules of the index, each with what takes its place when it is switched off.

The invariant: a rule is a decision of the package, and switching it off replaces that decision where the package
makes it, so that a world runs with all the others as they are.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn
from unittest import mock

from ebooklet_tx.formats.fork import ChangedRow
from ebooklet_tx.formats.index_records import BlockRef, IndexEntry, Run
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.index.building import IndexLimits, NewIndex, add_rows, encode_tail
from ebooklet_tx.index.lookup import LocatedRow, lookup_in
from ebooklet_tx.index.merging import Merged, MergeRules, merge_runs
from ebooklet_tx.index.reader import IndexReader, intersection
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.local.journal import intents, known
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.known import keys_with_unknown_base, learn
from ebooklet_tx.local.journal.merged import MergedRow
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance import compact
from ebooklet_tx.records import IndexRow, RemoteSide
from ebooklet_tx.sync.base_index import Answer, BaseIndex
from ebooklet_tx.sync.commit.builder import Below
from ebooklet_tx.sync.commit.swap_rules import Fate, fate_of
from ebooklet_tx.sync.forks import merge
from ebooklet_tx.sync.pull.move_base import Move, apply_move
from ebooklet_tx.sync.root_object import read_root_or_none

Replacements = Mapping[str, Any]


@contextlib.contextmanager
def without(rule: str) -> Iterator[None]:
    """Switches a rule off."""
    with contextlib.ExitStack() as patches:
        for target, value in OFF[rule].items():
            patches.enter_context(mock.patch(f"ebooklet_tx.{target}", value))
        yield


def _nothing(*_: Any, **__: Any) -> None:
    pass


def _no_keys(*_: Any, **__: Any) -> list[str]:
    return []


def _said(statement: str, words: str, others: str) -> str:
    """Returns a statement that says something else."""
    assert statement.count(words) == 1, f"{words!r} in {statement}"
    return statement.replace(words, others)


# -- merging and building ------------------------------------------------------------------------


def _floor_stays(
    runs: Sequence[Run], floor_seq: int, reader: IndexReader, writer: RunWriter, rules: MergeRules
) -> Merged:
    return replace(merge_runs(runs, floor_seq, reader, writer, rules), floor_seq=floor_seq)


def _over_a_run(
    runs: Sequence[Run], floor_seq: int, reader: IndexReader, writer: RunWriter, rules: MergeRules
) -> Merged:
    if len(runs) < 3:
        return merge_runs(runs, floor_seq, reader, writer, rules)
    joined = merge_runs((runs[0], runs[2]), floor_seq, reader, writer, replace(rules, max_runs=1))
    return Merged((runs[1], *joined.runs, *runs[3:]), joined.floor_seq)


def _leaving_the_tail(
    tail: Iterable[LocatedRow],
    runs: Sequence[Run],
    rows: Iterable[LocatedRow],
    floor_seq: int,
    reader: IndexReader,
    writer: RunWriter,
    rules: MergeRules,
    limits: IndexLimits,
) -> NewIndex:
    below, new = list(tail), list(rows)
    made = add_rows(below, runs, new, floor_seq, reader, writer, rules, limits)
    if made.runs == tuple(runs):
        return made
    flushed = add_rows((), runs, new, floor_seq, reader, writer, rules, replace(limits, tail_rows=0))
    return replace(flushed, tail=encode_tail(below))


def _drop_any(row: IndexRow, horizon_seq: int, is_below: object) -> bool:
    return row.digest is None and row.seq <= horizon_seq


def _floor_of_replaced(replaced: Manifest | None, seq: int) -> int:
    return 0 if replaced is None else replaced.tombstone_floor


def _whole_slots(
    self: IndexReader, entry: IndexEntry, lo: str = "", hi: str | None = None
) -> Iterator[tuple[str, str | None, BlockRef]]:
    (directory,) = self.directories([entry])
    for ref in directory.blocks:
        begin, end = intersection(ref.fence, ref.next_fence, lo, hi)
        if end is None or begin < end:
            yield begin, end, ref


def _without_floor(runs: tuple[Run, ...], tail: bytes, floor_seq: int) -> NewIndex:
    return NewIndex(runs, tail, 0)


def _seq_below(self: Below) -> int:
    return 0 if self.manifest is None else self.manifest.seq


def _one_row(entry: IndexEntry, *_: object) -> int:
    return 1


def _as_of_before(row: Any, place: Any, seq: int) -> IndexRow:
    return _NEW_ROW(row, place, seq - 1)


_NEW_ROW = compact._new_row


# -- looking up ----------------------------------------------------------------------------------


def _without_tail(tail: object, *rest: Any) -> dict[str, LocatedRow]:
    return lookup_in(None, *rest)


def _at_the_newest(local: LocalStore, index: BaseIndex, pull: object, keys: Collection[str]) -> Answer:
    base, fetched = read_base(local.journal), read_root_or_none(index._remote)
    return Answer(base.commit_id, {} if fetched is None else index.of_root(fetched).lookup(keys))


def _learn_at_any(raw: sqlite3.Connection, found: Mapping[str, RemoteSide | None], *, commit_id: object) -> bool:
    facts = dict(raw.execute("SELECT name, value FROM meta WHERE name = 'base_commit_id'"))
    return learn(raw, found, commit_id=facts.get("base_commit_id"))


def _stuck(local: object, pull: object, base: object, error: Exception) -> NoReturn:
    raise error


# -- pulling -------------------------------------------------------------------------------------


def _leads_anyhow(standing: tuple[int, str | None], found: object) -> bool:
    return standing[0] > 0


def _whatever_the_floor(seq: int, *, leads: bool, floor_seq: int) -> bool:
    return leads


def _nothing_is_late(raw: sqlite3.Connection, move: Move) -> None:
    move.unknown |= set(keys_with_unknown_base(raw, move.left))
    apply_move(raw, move)


def _only_the_root_itself(
    commit_id: str, seq: int, base_etag: str | None, *, found: str | None, root_seq: int, root_etag: str | None
) -> Fate:
    seen = found if root_seq == seq else "another"
    return fate_of(commit_id, seq, base_etag, found=seen, root_seq=root_seq, root_etag=root_etag)


def _lost_is_dropped(*said: Any, **seen: Any) -> Fate:
    fate = fate_of(*said, **seen)
    return Fate.DROPPED if fate is Fate.LOST else fate


def _false(*_: Any, **__: Any) -> bool:
    return False


def _true(*_: Any, **__: Any) -> bool:
    return True


_JOINED = ("index.building.merge_runs", "sync.commit.builder.merge_runs")
_OWN_BASE = """
  base_seq = :seq, base_timestamp_us = v.timestamp_us, base_digest = v.digest, base_object = v.object,
  base_offset_bytes = v.offset_bytes, base_length_bytes = v.length_bytes,"""

_merged_row = merge._merged_row


def _as_if_new(item: ChangedRow) -> MergedRow:
    return _merged_row(item)._replace(base=None)


OFF: dict[str, Replacements] = {
    # The shape of the index.
    "a flush takes the tail along": {"sync.commit.builder.add_rows": _leaving_the_tail},
    "only neighbouring runs are joined": dict.fromkeys(_JOINED, _over_a_run),
    "a range ends inside no slot of the lower run": {"index.merging._Slots.holds_inside": _false},
    "rows outside of the slot do not count": {"index.reader.IndexReader.slots": _whole_slots},
    "an entry that is left without rows goes": {"index.merging._rows_at_most": _one_row},
    "a tombstone stays where a run below may have its key": {"index.merging.may_drop": _drop_any},
    "the floor rises to a tombstone that is dropped": dict.fromkeys(_JOINED, _floor_stays),
    "the floor of a replacement is its own commit": {"sync.commit.builder.first_floor": _floor_of_replaced},
    "the floor of a restoration is its own commit": {"sync.commit.builder.NewIndex": _without_floor},
    "a restoration has a higher number than what it restores": {
        "sync.commit.builder.Below.seq": property(_seq_below)
    },
    "a row that is moved has the number of the commit that moves it": {
        "maintenance.compact._new_row": _as_of_before
    },
    # Lookups.
    "a lookup reads the tail": {"index.commit_index.lookup_in": _without_tail},
    "a lookup reads the base": {"sync.read.reader.look_up": _at_the_newest},
    "an answer is noted only at its base": {"sync.look_up.learn": _learn_at_any},
    "from a base that is gone a reader moves on": {
        "sync.look_up.move_on": _stuck,
        "sync.read.reader.move_on": _stuck,
    },
    "an iteration goes on at the base that there is": {"sync.read.visible_keys.holds_for": _true},
    # Pending operations.
    "a base that is not known is looked up before it is left": {
        "sync.pull.move_base.keys_with_unknown_base": _no_keys
    },
    "what was written beside a pull counts as late": {"sync.pull.pull.apply_move": _nothing_is_late},
    "what was learned beside a pull is forgotten": {"sync.pull.move_base.forget_known_since": _nothing},
    "a base says what is there only at its own commit": {
        "local.journal.known._NOT_KNOWN_KEYS": _said(known._NOT_KNOWN_KEYS, "base_at IS ?", "(base_at IS ? OR 1)")
    },
    "a lost base is inferred only above the floor": {
        "local.journal.known._BASE_INFERRED": _said(
            known._BASE_INFERRED, "AND base_seq >= ?", "AND (base_seq >= ? OR 1)"
        )
    },
    "nothing is inferred where commits do not lead on": {"sync.pull.move_base.infer_nothing": _nothing},
    "what the remote has is known before it is pushed over": {
        "sync.read.reader.know_pending": _nothing,
        "sync.commit.push.knows_pending": _true,
    },
    # Pulls.
    "the history says whether commits lead on": {"sync.pull.move_base.leads_on": _leads_anyhow},
    "below the floor everything is unknown": {"sync.pull.move_base.tells_difference": _whatever_the_floor},
    "a base that has moved is read anew": {"sync.pull.pull.has_moved": _false},
    # Pushes whose answer did not come.
    "what was sent is kept when its key is written again": {
        "local.journal.operations.save_pushed": _nothing,
        "local.journal.pending.conflicts.save_pushed": _nothing,
        "local.journal.pending.resolutions.save_pushed": _nothing,
    },
    "what was sent is the base of what was written since": {
        "local.journal.intents._APPLY_VERSION": _said(intents._APPLY_VERSION, _OWN_BASE, "")
    },
    "the history tells what became of a push": {"sync.pull.move_base.fate_of": _only_the_root_itself},
    "where the history is cut a base is lost": {"sync.pull.move_base.fate_of": _lost_is_dropped},
    # Collecting.
    "a snapshot protects what it names": {
        "maintenance.inventory.named_by_snapshot": lambda *_: set(),
    },
    "a fork protects what it reads and has sent": {
        "maintenance.inventory.read_forks": lambda *_, **__: {},
        "maintenance.collect.read_forks": lambda *_, **__: {},
    },
    # Forks.
    "a push protects the packs of forks anew, or refuses": {"sync.commit.push.renew": _nothing},
    "a row of a receipt has what its key was at the fork's base": {"sync.forks.merge._merged_row": _as_if_new},
    "where a fork's value lies is kept while an operation needs it": {
        "local.journal.uploads.packs_of_forks": lambda _: set(),
    },
}
