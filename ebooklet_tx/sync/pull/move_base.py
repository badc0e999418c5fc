"""Moving a journal's base to another commit: what has to be known of it, and the one transaction that does it.

The invariants, which the model of the index was checked for: what is known of a key is exact for the base, before
and after. The base of an operation is what its key had when it was written, found out before the commit that
tells it is left; where that can't be told any more, the operation is a conflict unless the remote shows that
nothing changed.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.html_tables import counted
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.inline_values import keep_inline_values, keys_with_inline_base
from ebooklet_tx.local.journal.intents import Intent, apply_intent, drop_intents, lose_intent
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.known import (
    apply_rows,
    drop_done,
    drop_unchanged,
    forget_known,
    forget_known_since,
    held_keys,
    holds_any,
    infer_nothing,
    keys_with_unknown_base,
    lose_bases,
    set_bases,
    stamp_of,
)
from ebooklet_tx.local.journal.uploads import drop_uploads
from ebooklet_tx.records import ObjectRef
from ebooklet_tx.sync.base_index import side_of, sides_of
from ebooklet_tx.sync.commit.swap_rules import Fate, fate_of

_log = logging.getLogger("ebooklet_tx")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What became of pushes whose answers never came."""

    applied: tuple[Intent, ...] = ()
    dropped: tuple[Intent, ...] = ()
    lost: tuple[Intent, ...] = ()


@dataclass(slots=True)
class Move:
    """Everything that a move of the base needs, found out before the journal is changed.

    Attributes:
        left: The commit that is left; None where there was none.
        reached: The commit that is reached.
        root: The root that was read.
        outcomes: What became of unresolved pushes.
        standing: Number and id of the commit on which the journal stands after its own operations.
        leads: Whether the history of the reached commit has that one.
        full: Whether every key becomes unknown, because the rows do not tell the difference.
        stamp: The last transaction of the journal that this takes into account.
        unknown: Keys of operations whose base was not known.
        found: What those among them had whose base is needed now.
        changed: What later commits say of held keys.
    """

    left: str | None
    reached: str
    root: ObjectRef
    outcomes: Outcomes
    standing: tuple[int, str | None]
    leads: bool
    full: bool
    stamp: int
    unknown: frozenset[str] = frozenset()
    found: dict[str, LocatedRow] | None = field(default_factory=dict)
    changed: dict[str, LocatedRow] = field(default_factory=dict)


class JournalHoldings:
    """The keys of which a journal knows the remote side, or has an operation."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def any_in(self, lo: str, hi: str | None) -> bool:
        with self._journal.reading() as raw:
            return holds_any(raw, lo, hi)

    def of(self, keys: Sequence[str]) -> set[str]:
        with self._journal.reading() as raw:
            return held_keys(raw, keys)


def plan_move(
    journal: Journal, base: Base, old: CommitIndex | None, new: CommitIndex, intents: Sequence[Intent]
) -> Move:
    """Finds out what a move of the base takes; reads the remote's index, and changes nothing.

    Args:
        journal: The journal; nobody but this session writes its operations meanwhile, or they count as late.
        base: What it stands on.
        old: The index of that commit.
        new: The index of the commit to reach.
        intents: Pushes whose outcome is not known.

    Raises:
        ObjectMissingError: A part of the new index is gone.
        RemoteIntegrityError: A part of an index is damaged.
        OfflineError: The store can't be reached.
    """
    manifest = new.manifest
    outcomes = outcomes_of(intents, new)
    standing: tuple[int, str | None] = (base.seq, base.commit_id)
    if own := _with_operations(outcomes.applied):
        standing = own[-1].seq, own[-1].commit_id
    leads = leads_on(standing, _commit_at(new, standing[0]) if standing[0] else None)
    if standing[0] and not leads:
        _log.warning("the remote's history does not lead on from commit %d", standing[0])
    with journal.reading() as raw:
        stamp = stamp_of(raw) - 1
        unknown = frozenset(keys_with_unknown_base(raw, base.commit_id))
        inline = frozenset(keys_with_inline_base(raw))
    move = Move(
        base.commit_id,
        manifest.commit_id,
        new.ref,
        outcomes,
        standing,
        leads,
        full=not tells_difference(standing[0], leads=leads, floor_seq=manifest.tombstone_floor),
        stamp=stamp,
        unknown=unknown,
    )
    if not move.full:
        move.changed = new.changes_since(standing[0], JournalHoldings(journal))
    needed = unknown if move.full else unknown & move.changed.keys()
    # Of the others the value alone is wanted, to settle conflicts: it goes with the commit that is left.
    move.found = _looked_up(old, needed | (inline if move.full else inline & move.changed.keys()))
    return move


def leads_on(standing: tuple[int, str | None], found: str | None) -> bool:
    """Whether the commits of a root lead on from one.

    Args:
        standing: Number and id of the commit; 0 where there is none.
        found: The commit that the root's history has at that number.
    """
    return standing[0] > 0 and found == standing[1]


def tells_difference(seq: int, *, leads: bool, floor_seq: int) -> bool:
    """Whether the rows of later commits are the whole difference: below the floor tombstones may be gone."""
    return leads and seq >= floor_seq


def outcomes_of(intents: Sequence[Intent], new: CommitIndex) -> Outcomes:
    """Tells from the history which pushes took place; of one that is only late nothing is told."""
    by_fate: dict[Fate, list[Intent]] = {fate: [] for fate in Fate}
    for intent in intents:
        fate = fate_of(
            intent.commit_id,
            intent.seq,
            intent.base_etag,
            found=_commit_at(new, intent.seq),
            root_seq=new.manifest.seq,
            root_etag=new.ref.etag,
        )
        by_fate[fate].append(intent)
    return Outcomes(*(tuple(by_fate[fate]) for fate in (Fate.APPLIED, Fate.DROPPED, Fate.LOST)))


def _with_operations(intents: Sequence[Intent]) -> list[Intent]:
    """Leaves out commits without operations: what a compaction has moved is read as another's rows are."""
    return [intent for intent in intents if intent.last_number or intent.replaces]


def _commit_at(index: CommitIndex, seq: int) -> str | None:
    """Returns the commit of a number; None where a lost part of the history leaves it untold."""
    try:
        return index.commit_at(seq)
    except (ObjectMissingError, RemoteIntegrityError) as error:
        _log.warning(
            "which commit had the number %d can't be told, as a part of the history is gone or damaged: %s; "
            "`verify --repair PATH` on the machine that wrote that part may write it back",
            seq,
            error,
        )
        return None


def _looked_up(old: CommitIndex | None, keys: frozenset[str] | set[str]) -> dict[str, LocatedRow] | None:
    """Returns what the commit that is left says of keys; None where its index is gone."""
    if old is None or not keys:
        return {}
    try:
        return old.lookup(keys)
    except ObjectMissingError as error:
        _log.warning("the base of %s can't be looked up any more: %s", counted(len(keys), "change"), error)
        return None


def late_keys(raw: sqlite3.Connection, move: Move) -> set[str]:
    """Returns the keys that were written blindly since a move was planned: their bases were not looked up."""
    return set(keys_with_unknown_base(raw, move.left)) - move.unknown


def apply_move(raw: sqlite3.Connection, move: Move) -> None:
    """Carries a move out within a transaction, all but the facts of the new base.

    Args:
        raw: The connection of the transaction; the base is still the one that the move was planned for.
        move: What was found out.
    """
    late = late_keys(raw, move)
    if stamp_of(raw) - 1 != move.stamp:
        forget_known_since(raw, move.stamp)
    _settle_bases(raw, move, late)
    for intent in _with_operations(move.outcomes.applied):
        is_root = intent.commit_id == move.reached
        apply_intent(raw, intent, root=move.root if is_root else None)
    for intent in move.outcomes.lost:
        lose_intent(raw, intent)
    ended = (*move.outcomes.applied, *move.outcomes.dropped, *move.outcomes.lost)
    drop_intents(raw, [intent.commit_id for intent in ended])
    if ended and move.leads:
        # Another history does not tell that a push did not take place: others may have made it anew from it.
        drop_unchanged(raw, [intent.commit_id for intent in move.outcomes.applied])
    if move.outcomes.applied:
        drop_uploads(raw)
    if not move.leads:
        infer_nothing(raw)
    if move.full:
        forget_known(raw)
    else:
        sides = {key: side_of(item) for key, item in move.changed.items()}
        apply_rows(raw, sides, left=move.standing[1], reached=move.reached, late=late)
    drop_done(raw)


def _settle_bases(raw: sqlite3.Connection, move: Move, late: set[str]) -> None:
    """Records the bases of operations before the commit that tells them is left."""
    seq = move.standing[0] if move.leads else None
    needed = move.unknown if move.full else move.unknown & move.changed.keys()
    if move.found is None:
        lose_bases(raw, needed, seq=seq)
    else:
        set_bases(raw, sides_of(move.found, needed))
        rows = [item.row for item in move.found.values()]
        keep_inline_values(raw, [(row.digest, row.value) for row in rows if row.digest and row.value is not None])
    # What was written since the plan was made: the remote shows later whether it has changed.
    lose_bases(raw, late, seq=seq)


__all__ = [
    "JournalHoldings",
    "Move",
    "Outcomes",
    "apply_move",
    "late_keys",
    "leads_on",
    "outcomes_of",
    "plan_move",
    "tells_difference",
]
