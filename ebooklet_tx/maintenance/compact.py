"""Compact: packs that are mostly dead, or many and small, are written anew; `collect` deletes the old ones.

Owns nothing of its own on disk: new packs are uploads in the journal as those of a push are, and the commit
is an ordinary one, with an intent and a compare-and-swap. The invariant: a commit of a compaction changes
the places of values and nothing else; it names only keys that have no operation to be pushed, each with
the digest and timestamp that the base commit gives it, and only values that were held to that digest.
So a reader sees the same database before and after, and another writer's change in between wins.

It ends: packs that are there at its beginning are taken once each. What is written from them is taken once
more at most, where other writers made it hollow meanwhile, or where it is still small; what is written from
that, never. And a pack that was just written is as small as its live values let it be, so that there is
nothing to gain by writing it again: each record has the shortest of the keys that share its value.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.pack import PACK_BYTES
from ebooklet_tx.formats.root import decode_root
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.inline_values import prune_inline_values
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.remote_objects import packs_with_pending_keys, pending_keys_among
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.uploads import Place, arrived_places
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.check_reports import CompactReport
from ebooklet_tx.maintenance.merged_root import MergedRoot
from ebooklet_tx.maintenance.repacking import read_values, under_shortest_keys, values_to_read
from ebooklet_tx.records import IndexRow, ObjectRef
from ebooklet_tx.sync.base_index import side_of
from ebooklet_tx.sync.commit.builder import Changes
from ebooklet_tx.sync.commit.packing import (
    PackBatch,
    fill_packs,
    reconcile_uploads,
    renew_old_uploads,
    send_packs,
)
from ebooklet_tx.sync.commit.publish import below, commit_rows
from ebooklet_tx.sync.commit.push import MAX_ROUNDS, contention
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.session import Session

LIVE_SHARE = 0.5
KEYS_PER_COMMIT = 100_000
"""How many keys' rows are moved by one commit; memory goes by this and by a few packs."""

PACKS_PER_COMMIT = 500

SMALL_PACK_BYTES = 4 * 2**20
MANY_SMALL_PACKS = 16
"""So many packs below that size are joined, live or not: reading many keys takes a request for each pack."""


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack as the base's index has it; `pending` if a key in it has an operation to be pushed."""

    ref: ObjectRef
    live_bytes: int
    key_count: int
    pending: bool

    @property
    def name(self) -> str:
        return self.ref.name

    @property
    def size_bytes(self) -> int:
        return self.ref.size_bytes

    @property
    def live_share(self) -> float:
        return self.live_bytes / max(1, self.size_bytes)


@dataclass(slots=True)
class _Outcome:
    """What was done so far.

    Attributes:
        looks: How often the whole index was gone through.
        takeable: Names of the packs that may be written anew by this call.
        written: Those of them that this call wrote itself.
        kept: Names of packs that are due and stay.
    """

    commits: int = 0
    packs: int = 0
    moved_keys: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    looks: int = 0
    takeable: set[str] = field(default_factory=set)
    written: set[str] = field(default_factory=set)
    kept: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)
    merged: bool = False


def compact(session: Session, *, live_share: float = LIVE_SHARE, packs: Collection[str] = ()) -> CompactReport:
    """Writes packs of which little is live anew, and many small ones as few, and commits the new places.

    Can be killed anywhere and run again; what was sent is not sent again. Values that are not on this
    machine are read from the old packs, and are not kept here.

    Args:
        session: A session that writes; what is in its overlay is committed locally first.
        live_share: Packs of whose bytes a smaller share is live are written anew.
        packs: Names (`pack/<id>`) of packs to write anew whatever their share, as when one was found
            damaged and this machine has its values.

    Returns:
        What was done. Packs in which a key has a change still to be pushed are left as they are, and packs
        of one large value, which are never partly dead.

    Raises:
        InvalidArgumentError: A transaction is at work, or the share is none.
        LockLostError: Another writer took the lock over; no value was lost by it.
        OfflineError: The store keeps failing; run it again.
    """
    if not 0 <= live_share <= 1:
        raise InvalidArgumentError(f"live_share must be a number from 0 to 1, not {live_share!r}")
    with session.push_mutex:
        session.locks.check()
        with session.mutex:
            if session.in_transaction:
                raise InvalidArgumentError("compact() can't take place inside a transaction; call it outside")
            session.local.commit()
        replacing = is_replacing(session.journal)
        outcome = _Outcome()
        resumed = 0
        if not replacing:
            resumed = reconcile_uploads(session.journal, session.remote)
            pull(session)
            reader_of(session).know_pending()
            while _compact_due(session, live_share, packs, outcome):
                pass
            _merge_all_runs(session, outcome)
        pruned = prune_inline_values(session.journal)
        seq = read_base(session.journal).seq
    return CompactReport(
        seq=seq,
        commits=outcome.commits,
        packs=outcome.packs,
        moved_keys=outcome.moved_keys,
        moved_bytes=outcome.moved_bytes,
        freed_bytes=outcome.freed_bytes,
        resumed_packs=resumed,
        kept_packs=tuple(sorted(outcome.kept)),
        unreadable_keys=tuple(sorted(outcome.unreadable)),
        pruned_values=pruned,
    )


# -- what is due -------------------------------------------------------------------------------


@contextmanager
def _merged_base(journal: Journal, remote: Remote) -> Iterator[MergedRoot]:
    """The live rows of the base commit.

    Raises:
        RemoteIntegrityError: A part of its index is damaged or missing.
    """
    base = read_base(journal)
    with MergedRoot() as index:
        if base.root:
            index.add_root(remote, decode_root(base.root, name=remote.root_place))
        for problem in index.problems:
            raise problem.error
        yield index


def _known_packs(journal: Journal, index: MergedRoot) -> list[_Pack]:
    pending = packs_with_pending_keys(journal)
    return [
        _Pack(pack.ref, pack.live_bytes, pack.key_count, pending=pack.ref.name in pending)
        for pack in index.packs()
    ]


def _compact_due(session: Session, live_share: float, named: Collection[str], outcome: _Outcome) -> bool:
    """Writes the packs anew that are due at the base, by as many commits as that takes; False where none is due.

    The index is gone through once, however many commits there are: which values are live is asked again by each.
    """
    with _merged_base(session.journal, session.remote) as index:
        known = _known_packs(session.journal, index)
        if not outcome.looks:
            outcome.takeable = {pack.name for pack in known}
        outcome.looks += 1
        is_any_due = False
        while due := _due_packs(known, live_share, named, outcome):
            _rewrite(session, due, [row for pack in due for row in index.values_in(pack.ref)], outcome)
            taken = {pack.name for pack in due}
            known = [pack for pack in known if pack.name not in taken]
            is_any_due = True
    return is_any_due


def _due_packs(
    known: Iterable[_Pack], live_share: float, named: Collection[str], outcome: _Outcome
) -> list[_Pack]:
    """Returns as many of the packs that are due as one commit takes, those first of which least is live."""
    due: list[_Pack] = []
    small: list[_Pack] = []
    small_packs = 0
    for pack in known:
        takeable = pack.name in outcome.takeable and pack.name not in outcome.kept
        is_small = pack.size_bytes < SMALL_PACK_BYTES and not pack.pending and pack.name not in outcome.kept
        small_packs += is_small
        if takeable and (pack.name in named or pack.live_share < live_share):
            if pack.pending or pack.size_bytes > PACK_BYTES:
                outcome.kept.add(pack.name)
            else:
                due.append(pack)
        elif takeable and is_small:
            small.append(pack)
    due.sort(key=lambda pack: (pack.live_share, pack.name))
    chosen = _as_many_as_fit(due, [])
    if small_packs >= MANY_SMALL_PACKS:
        small.sort(key=lambda pack: (pack.key_count, pack.name))
        joined = _as_many_as_fit(small, chosen)
        # One alone would be as small as before.
        chosen = joined if len(joined) > 1 else chosen
    return chosen


def _as_many_as_fit(packs: Iterable[_Pack], chosen: Sequence[_Pack]) -> list[_Pack]:
    """Returns the chosen packs and behind them as many others as one commit takes, of all at least one."""
    fitting = list(chosen)
    keys = sum(pack.key_count for pack in fitting)
    for pack in packs:
        keys += pack.key_count
        if fitting and (keys > KEYS_PER_COMMIT or len(fitting) >= PACKS_PER_COMMIT):
            break
        fitting.append(pack)
    return fitting


# -- one commit --------------------------------------------------------------------------------


def _rewrite(session: Session, packs: Sequence[_Pack], rows: Sequence[RemoteValue], outcome: _Outcome) -> None:
    """Brings the live values of some packs into new ones and commits that."""
    local, remote, journal = session.local, session.remote, session.journal
    pending = pending_keys_among(journal, [row.key for row in rows])
    clean = [row for row in rows if row.key not in pending]
    _send_values(local, remote, clean, outcome.unreadable)
    while renew_old_uploads(journal, remote):
        _send_values(local, remote, clean, outcome.unreadable)
    _note_taken(journal, packs, outcome)
    moved = _commit(session, clean)
    gone = {row.key for row in moved}
    left = {row.ref.name for row in rows if row.key not in gone}
    if moved:
        outcome.commits += 1
        outcome.moved_keys += len(moved)
        outcome.moved_bytes += sum({row.digest: row.length_bytes for row in moved}.values())
    for pack in packs:
        if pack.name in left and _is_still_used(reader_of(session), pack, rows):
            outcome.kept.add(pack.name)
        else:
            outcome.packs += 1
            outcome.freed_bytes += pack.size_bytes


def _is_still_used(reader: Reader, pack: _Pack, rows: Sequence[RemoteValue]) -> bool:
    """Whether a value that lay in a pack lies there still, at the base that there is now."""
    keys = [row.key for row in rows if row.ref.name == pack.name]
    found = reader.look_up(keys).rows
    return any(item.row.object_name == pack.name for item in found.values())


def _send_values(local: LocalStore, remote: Remote, rows: Sequence[RemoteValue], unreadable: set[str]) -> None:
    """Sends those values that no new pack has yet."""
    journal = local.journal
    wanted = values_to_read(rows, arrived_places(journal))
    values = under_shortest_keys(read_values(local, remote, wanted, unreadable), rows)
    batches = (PackBatch.of([value]) for value in values)
    packs = fill_packs(batches, remote.names.new_pack, pack_bytes=PACK_BYTES)
    totals = {"keys_total": len(wanted), "bytes_total": sum(row.length_bytes for row in wanted)}
    kept = "compacting again goes on from there"
    with remote.reporter.phase("repack", **totals, kept=kept) as phase, closing(packs):
        send_packs(journal, remote, packs, phase)


def _note_taken(journal: Journal, packs: Sequence[_Pack], outcome: _Outcome) -> None:
    """Notes that packs were taken; what was written from them may be taken if none of them was written here."""
    names = {pack.name for pack in packs}
    outcome.takeable -= names
    if outcome.written.isdisjoint(names):
        fresh = {place.ref.name for place in arrived_places(journal).values()}
        outcome.written |= fresh
        outcome.takeable |= fresh


def _commit(session: Session, rows: Sequence[RemoteValue]) -> list[RemoteValue]:
    """Commits the new places, on whatever base it takes; returns the rows that were moved.

    In each round the index is asked anew which values still lie in the old packs: a key that another writer
    has changed meanwhile does not, and one that was changed here is left to the next push.
    """
    try:
        for number in range(MAX_ROUNDS):
            if number and session.locks.recheck():
                pull(session)
            base = read_base(session.journal)
            moved = _to_move(session.journal, reader_of(session), rows)
            if not moved:
                return []
            session.locks.check_fence(base.fence)
            if base.etag is None:
                # The commit is known, the object that holds it is not: an answer was lost. Read it.
                pull(session)
                continue
            seq = base.seq + 1
            new = [LocatedRow(_new_row(row, place, seq), place.ref) for row, place in moved]
            sides = {item.row.key: side_of(item) for item in new}
            changes = Changes(row_count=len(new))
            if commit_rows(session, below(session.index, base), base.etag, new, changes, moved=sides) is not None:
                return [row for row, _ in moved]
            backoff(session.remote.policy, number)
        raise contention(session.remote)
    finally:
        session.locks.release_turn()


def _to_move(journal: Journal, reader: Reader, rows: Sequence[RemoteValue]) -> list[tuple[RemoteValue, Place]]:
    """Returns, in order of key, the rows that lie where they lay and have arrived elsewhere, and where.

    Their timestamps are those of the base that there is now.
    """
    places = arrived_places(journal)
    wanted = [row for row in rows if row.digest in places]
    pending = pending_keys_among(journal, [row.key for row in wanted])
    found = reader.look_up([row.key for row in wanted]).rows
    moved = []
    for row in sorted(wanted):
        item = found.get(row.key)
        is_there = item is not None and (item.row.object_name, item.row.offset_bytes, item.row.digest) == (
            row.ref.name,
            row.offset_bytes,
            row.digest,
        )
        if item is not None and is_there and row.key not in pending:
            # Another writer may have given the value where it lies another timestamp.
            moved.append((row._replace(timestamp_us=item.row.timestamp_us), places[row.digest]))
    return moved


def _new_row(row: RemoteValue, place: Place, seq: int) -> IndexRow:
    at = place.ref.name, place.offset_bytes, place.length_bytes
    return IndexRow(row.key, seq, row.timestamp_us, row.digest, *at)


def _merge_all_runs(session: Session, outcome: _Outcome) -> None:
    """Finishes the merging that pushes have left, by a commit that changes no key."""
    try:
        for number in range(MAX_ROUNDS):
            if number and session.locks.recheck():
                pull(session)
            base = read_base(session.journal)
            on = below(session.index, base)
            if on.index is None or len(on.index.manifest.runs) < 2:
                return
            session.locks.check_fence(base.fence)
            if commit_rows(session, on, base.etag, (), Changes(), merge_all=True) is not None:
                outcome.commits += 1
                return
            backoff(session.remote.policy, number)
        raise contention(session.remote)
    finally:
        session.locks.release_turn()
