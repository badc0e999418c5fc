"""Compact: packs that are mostly dead, or many and small, are written anew; `collect` deletes the old ones.

Owns nothing of its own on disk: new packs are uploads in the journal as those of a push are, and the commit
is an ordinary one, with an intent and a compare-and-swap. The invariant: a commit of a compaction changes
the places of values and nothing else; it names only keys that have no operation to be pushed, each with
the digest and timestamp that the base commit gives it, and only values that were held to that digest.
So a reader sees the same database before and after, and another writer's change in between wins.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

from ebooklet_tx.check_reports import CompactReport
from ebooklet_tx.errors import (
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteIntegrityError,
)
from ebooklet_tx.local.journal import Entry
from ebooklet_tx.records import digest_of
from ebooklet_tx.remote.pack import PACK_BYTES, PACK_HEADER_BYTES, RECORD_HEAD_BYTES, PackBuilder, record_bytes
from ebooklet_tx.sync.building import build
from ebooklet_tx.sync.inline_values import prune_inline_values
from ebooklet_tx.sync.packing import (
    PACKS_IN_FLIGHT,
    PackedValue,
    known_places,
    renew_old_uploads,
    send_packs,
    settle_uploads,
)
from ebooklet_tx.sync.pull import pull
from ebooklet_tx.sync.push import MAX_ROUNDS, check_fence, crowded, stand_firm, wait_a_little
from ebooklet_tx.sync.ranges import JOIN_GAP_BYTES
from ebooklet_tx.sync.session import Session, read_base
from ebooklet_tx.sync.swapping import finish, swap, write_intent

LIVE_SHARE = 0.5
KEYS_PER_COMMIT = 100_000
"""How many keys' rows are moved by one commit; memory goes by this and by a few packs."""

PACKS_PER_COMMIT = 500

SMALL_PACK_BYTES = 4 * 2**20
MANY_SMALL_PACKS = 16
"""So many packs below that size are joined, live or not: reading many keys takes a request for each pack."""

_PACKS = f"""
SELECT o.id, o.name, o.size_bytes, sum(p.record_bytes) + {PACK_HEADER_BYTES}, sum(p.keys), max(p.pending)
  FROM (SELECT remote_object AS object, count(*) AS keys, max(pending) AS pending,
               min({RECORD_HEAD_BYTES} + length(CAST(key AS BLOB))) + max(remote_length_bytes) AS record_bytes
          FROM entry WHERE remote_object IS NOT NULL AND remote_digest IS NOT NULL
         GROUP BY remote_object, remote_offset_bytes) AS p
  JOIN remote_object AS o ON o.id = p.object
 GROUP BY p.object ORDER BY o.name
"""
_GONE = (ObjectMissingError, NotFoundInRangeError, PreconditionFailedError, RemoteIntegrityError)


@dataclass(frozen=True, slots=True)
class _Pack:
    """A pack as the journal knows it; `pending` is not 0 if a key in it has an operation to be pushed."""

    number: int
    name: str
    size_bytes: int
    live_bytes: int
    key_count: int
    pending: int

    @property
    def live_share(self) -> float:
        return self.live_bytes / max(1, self.size_bytes)


@dataclass(slots=True)
class _Outcome:
    """What was done so far."""

    commits: int = 0
    packs: int = 0
    moved_keys: int = 0
    moved_bytes: int = 0
    freed_bytes: int = 0
    kept: set[str] = field(default_factory=set)
    unreadable: set[str] = field(default_factory=set)


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
        _begin(session)
        with session.mutex:
            replacing = bool(session.journal.get_meta("replace_remote"))
        outcome = _Outcome()
        resumed = 0
        if not replacing:
            resumed = settle_uploads(session)
            pull(session)
            while due := _due_packs(session, live_share, packs, outcome):
                _rewrite(session, due, outcome)
        with session.mutex:
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


def _begin(session: Session) -> None:
    if session.lock is not None:
        session.lock.check()
    with session.mutex:
        if session.in_transaction:
            raise InvalidArgumentError("compact() can't take place inside a transaction; call it outside")
        session.local.commit()


# -- what is due -------------------------------------------------------------------------------


def _due_packs(session: Session, live_share: float, named: Collection[str], outcome: _Outcome) -> list[_Pack]:
    """Returns as many of the packs that are due as one commit takes, those first of which least is live."""
    with session.mutex, session.journal.reading() as raw:
        known = [_Pack(*row) for row in raw.execute(_PACKS).fetchall()]
    small = {
        pack.name for pack in known if pack.size_bytes < SMALL_PACK_BYTES and not pack.pending
    } - outcome.kept
    joined = small if len(small) >= MANY_SMALL_PACKS else set()
    due = []
    for pack in known:
        wanted = pack.name in named or pack.name in joined or pack.live_share < live_share
        if not wanted or pack.name in outcome.kept:
            continue
        if pack.pending or pack.size_bytes > PACK_BYTES:
            outcome.kept.add(pack.name)
        else:
            due.append(pack)
    due.sort(key=lambda pack: (pack.live_share, pack.name))
    chosen: list[_Pack] = []
    keys = 0
    for pack in due[:PACKS_PER_COMMIT]:
        keys += pack.key_count
        if chosen and keys > KEYS_PER_COMMIT:
            break
        chosen.append(pack)
    return chosen


def _rows_in(session: Session, packs: Iterable[_Pack], *, only_clean: bool = True) -> list[Entry]:
    """Returns the live rows in some packs, from front to back of each; needs the mutex."""
    numbers = ", ".join(str(pack.number) for pack in packs)
    where = f"remote_object IN ({numbers}) AND remote_digest IS NOT NULL"
    entries = session.journal.entries(f"{where} AND pending = 0" if only_clean else where)
    return sorted(entries, key=lambda entry: (entry.remote_object or 0, entry.remote_offset_bytes or 0))


# -- one commit --------------------------------------------------------------------------------


def _rewrite(session: Session, packs: Sequence[_Pack], outcome: _Outcome) -> None:
    """Brings the live values of some packs into new ones and commits that."""
    with session.mutex:
        rows = _rows_in(session, packs)
    _send_values(session, packs, rows, outcome)
    while renew_old_uploads(session):
        _send_values(session, packs, rows, outcome)
    moved = _commit(session, packs)
    with session.mutex:
        left = {entry.remote_object for entry in _rows_in(session, packs, only_clean=False)}
    if moved:
        outcome.commits += 1
        outcome.moved_keys += len(moved)
        outcome.moved_bytes += sum({entry.digest: entry.length_bytes for entry in moved}.values())
    for pack in packs:
        if pack.number in left:
            outcome.kept.add(pack.name)
        else:
            outcome.packs += 1
            outcome.freed_bytes += pack.size_bytes


def _commit(session: Session, packs: Sequence[_Pack]) -> list[Entry]:
    """Commits the new places, on whatever base it takes; returns the entries that were moved.

    In each round the journal is asked anew which rows still lie in the old packs: a key that another writer
    has changed meanwhile does not, and one that was changed here is left to the next push.
    """
    try:
        for number in range(MAX_ROUNDS):
            if number:
                stand_firm(session)
            with session.mutex:
                base = read_base(session.journal)
                places = known_places(session)
                # Without the old place: `build` takes the new one.
                entries = [
                    entry._replace(remote_object=None)
                    for entry in _rows_in(session, packs)
                    if entry.remote_digest in places
                ]
            if not entries:
                return []
            check_fence(session, base)
            if base.etag is None:
                # The commit is known, the object that holds it is not: an answer was lost. Read it.
                pull(session)
                continue
            commit = build(session, base, None, entries, places)
            # Of no pending entry: nothing here can be undone before the swap.
            write_intent(session, commit, base.etag, [])
            outcome = swap(session, commit, base.etag)
            if outcome.applied:
                if outcome.etag is not None:
                    finish(session, commit, outcome.etag)
                return entries
            wait_a_little(session, number)
        raise crowded(session)
    finally:
        turn, session.turn = session.turn, None
        if turn is not None:
            turn.release()


# -- the values --------------------------------------------------------------------------------


def _send_values(session: Session, packs: Sequence[_Pack], rows: Sequence[Entry], outcome: _Outcome) -> None:
    """Sends those values that no new pack has yet."""
    names = {pack.number: pack.name for pack in packs}
    arrived = known_places(session)
    by_pack: dict[str, dict[bytes, Entry]] = {}
    for entry in rows:
        digest = entry.remote_digest
        if digest is not None and digest not in arrived:
            by_pack.setdefault(names[entry.remote_object or 0], {}).setdefault(digest, entry)
    send_packs(session, _filled(session, _values(session, by_pack, outcome)))


def _filled(
    session: Session, values: Iterable[tuple[Entry, bytes]]
) -> Iterator[tuple[str, bytes, list[PackedValue]]]:
    """Fills packs with values in the order in which they come; equal values are packed once."""
    builder = PackBuilder()
    packed: dict[bytes, PackedValue] = {}
    for entry, value in values:
        digest = entry.remote_digest
        if digest is None or digest in packed:
            continue
        if packed and builder.size_bytes + record_bytes(entry.key, len(value)) > PACK_BYTES:
            yield session.remote.names.new_pack(), builder.finish(), list(packed.values())
            builder, packed = PackBuilder(), {}
        offset = builder.add(entry.key, entry.timestamp_us, value)
        packed[digest] = PackedValue(digest, offset, len(value))
    if packed:
        yield session.remote.names.new_pack(), builder.finish(), list(packed.values())


def _values(
    session: Session, by_pack: dict[str, dict[bytes, Entry]], outcome: _Outcome
) -> Iterator[tuple[Entry, bytes]]:
    """Yields the values pack by pack, some packs being read ahead; notes those that can't be had."""
    waiting = deque(by_pack.items())
    running: deque[Future[list[tuple[Entry, bytes | None]]]] = deque()
    with ThreadPoolExecutor(max_workers=max(1, min(PACKS_IN_FLIGHT, session.remote.threads))) as pool:
        while waiting or running:
            while waiting and len(running) < PACKS_IN_FLIGHT:
                name, wanted = waiting.popleft()
                running.append(pool.submit(_read_pack, session, name, list(wanted.values())))
            for entry, value in running.popleft().result():
                if value is None:
                    outcome.unreadable.add(entry.key)
                else:
                    yield entry, value


def _read_pack(session: Session, name: str, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | None]]:
    """Reads values of one pack, each held to its digest: from this machine, else by joined ranged reads."""
    found: list[tuple[Entry, bytes | None]] = []
    missing: list[Entry] = []
    for entry in entries:
        with session.mutex:
            value = session.local.read(entry)
        if value is None:
            missing.append(entry)
        else:
            found.append((entry, value))
    for group in _near(missing):
        found += _read_range(session, name, group)
    return found


def _near(entries: Sequence[Entry]) -> list[list[Entry]]:
    """Groups places of one pack, which come in order, that lie near each other."""
    groups: list[list[Entry]] = []
    end = 0
    for entry in entries:
        offset = entry.remote_offset_bytes or 0
        if groups and offset - end <= JOIN_GAP_BYTES:
            groups[-1].append(entry)
        else:
            groups.append([entry])
        end = max(end, offset + entry.length_bytes)
    return groups


def _read_range(session: Session, name: str, entries: Sequence[Entry]) -> list[tuple[Entry, bytes | None]]:
    """Reads values that lie near each other; alone where they can't be read together."""
    start = entries[0].remote_offset_bytes or 0
    end = max((entry.remote_offset_bytes or 0) + entry.length_bytes for entry in entries)
    try:
        data = session.remote.store.get_range(session.remote.names.object(name), start, end - start)
    except _GONE:
        if len(entries) == 1:
            return [(entries[0], None)]
        return [pair for entry in entries for pair in _read_range(session, name, [entry])]
    found: list[tuple[Entry, bytes | None]] = []
    for entry in entries:
        at = (entry.remote_offset_bytes or 0) - start
        value = data[at : at + entry.length_bytes]
        found.append((entry, value if digest_of(value) == entry.remote_digest else None))
    return found
