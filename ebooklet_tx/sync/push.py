"""Push: pending operations become one commit of the remote, in one atomic step.

Owns the journal's `intent` table. The invariant: the compare-and-swap of the root is the commit.
Before it nothing that was uploaded is named by a root; after it everything is. The intent, written
before the swap, holds the commit's rows, so that whoever learns that the swap took place can make
them the base, whatever has happened to the process or the answer.
"""

from __future__ import annotations

import hashlib
import heapq
import secrets
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ebooklet_tx.errors import (
    OfflineError,
    PreconditionFailedError,
    RemoteMissingError,
    TransientStoreError,
)
from ebooklet_tx.local.journal import PENDING_SET, Entry, driver, now_us
from ebooklet_tx.records import METADATA_KEY, CommitRecord, IndexRow, ObjectRef, SegmentRef
from ebooklet_tx.remote.root import ROOT_TAIL_LIMIT_BYTES, Manifest, encode_root, plan_segments
from ebooklet_tx.remote.segment import build_segment, merge_segments, read_segment
from ebooklet_tx.sync.conflicts import ConflictError, find_conflicts
from ebooklet_tx.sync.packing import (
    Place,
    forget_uploads,
    place_values,
    read_pending,
    settle_uploads,
    upload_refs,
)
from ebooklet_tx.sync.pull import (
    FetchedRoot,
    is_logged,
    pull,
    read_intents,
    read_root_or_none,
    replacement_applied,
    take_in_root,
)
from ebooklet_tx.sync.resolve import Resolver, check_choice, drop_agreeing, resolve_all
from ebooklet_tx.sync.session import Base, Session, base_facts, object_ref, read_base, writer_name
from ebooklet_tx.sync.swap_rules import RootSeen, Verdict, fenced_off, judge
from ebooklet_tx.sync.take_in import take_in

INLINE_VALUE_BYTES = 4 * 1024
"""A value up to this size may ride in the index instead of a pack."""

INLINE_TOTAL_BYTES = 32 * 1024
"""A push whose values together are up to this size sends no pack."""

TOMBSTONES_WORTH_DROPPING = 1000
KEPT_LOG_ROWS = 10_000
MAX_ROUNDS = 200
CROWD_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did; true when the remote changed.

    Attributes:
        updated: Whether the remote changed.
        failures: Always empty: a push takes place entirely or raises.
        commit_id: The commit's id, None when there was nothing to push.
        seq: The commit on which the local database stands now.
        set_count: How many keys were set.
        deleted_count: How many keys were deleted.
        resumed_packs: How many packs an earlier, interrupted push had already sent.
        value_bytes: Encoded bytes of the values that were set.
    """

    updated: bool
    failures: dict[str, str] = field(default_factory=dict)
    commit_id: str | None = None
    seq: int = 0
    set_count: int = 0
    deleted_count: int = 0
    resumed_packs: int = 0
    value_bytes: int = 0

    def __bool__(self) -> bool:
        return self.updated


@dataclass(frozen=True, slots=True)
class _Commit:
    """One commit, ready to be swapped in: the root's bytes and what to record once it is there."""

    manifest: Manifest
    root: bytes
    tail: bytes
    image_blob: bytes
    record: CommitRecord


def push(session: Session, *, force: bool = False, on_conflict: str | Resolver = "raise") -> PushResult:
    """Publishes every pending operation as one commit.

    Args:
        session: The session; what is in its overlay is committed locally first.
        force: Put our side on top of conflicts, and write the whole database anew if the remote
            is gone.
        on_conflict: What to do about keys that another writer changed too.

    Returns:
        What was done; false when there was nothing to push.

    Raises:
        ConflictError: Another writer changed some of the same keys; nothing was pushed.
        LockLostError: Another writer took the lock over; every operation is pending.
        OfflineError: The store keeps failing; every operation is pending, and whether this commit
            took place is settled by the next push, pull or recover.
        RemoteMissingError: The remote that this database came from is gone.
    """
    check_choice(on_conflict)
    with session.push_mutex:
        if session.lock is not None:
            session.lock.check()
        with session.mutex:
            session.local.commit()
            unresolved = bool(read_intents(session.journal))
        resumed = settle_uploads(session)
        settled: list[str] = []
        if force:
            settled = _start_over_if_gone(session)
            on_conflict = "ours"
        elif unresolved:
            settled = pull(session).applied
        result = _rounds(session, resumed, on_conflict)
        # A push that had succeeded unseen counts as this one's success.
        return replace(result, updated=True, commit_id=settled[-1]) if settled and not result else result


def raise_fence(session: Session) -> None:
    """Commits a root with a higher fence, so that the commits of a lock's last holder must fail.

    A remote that does not exist has no root to fence, and no commit to protect.
    """
    with session.push_mutex:
        for number in range(MAX_ROUNDS):
            pull(session)
            with session.mutex:
                base = read_base(session.journal)
            note_fence(session, base.fence)
            if base.seq == 0:
                return
            if _one_round(session, resumed=0, fence=base.fence + 1) is not None:
                session.fence = base.fence + 1
                if session.lock is not None:
                    session.lock.fence_raised()
                return
            _wait_a_little(session, number)
    raise _crowded(session)


def note_fence(session: Session, fence: int) -> None:
    """Notes the fence of a root that was read, and makes sure that the lock was still held after that.

    In this order alone a holder that stood still between the two can't take its successor's fence, which
    is to keep it out, for its own.

    Raises:
        LockLostError: Another writer has the lock.
    """
    if session.lock is not None:
        session.lock.renew()
        session.fence = fence


def _rounds(session: Session, resumed: int, on_conflict: str | Resolver) -> PushResult:
    """Tries again on another base until the commit is in, settling conflicts as they come up."""
    try:
        for number in range(MAX_ROUNDS):
            if number:
                _stand_firm(session)
            if on_conflict != "raise":
                resolve_all(session, on_conflict)
            if not callable(on_conflict):
                drop_agreeing(session)
            try:
                result = _one_round(session, resumed=resumed)
            except ConflictError:
                # What a pull in another thread brought since is settled in the next round.
                if on_conflict == "raise":
                    raise
                continue
            if result is not None:
                return result
            _wait_a_little(session, number)
        raise _crowded(session)
    finally:
        turn, session.turn = session.turn, None
        if turn is not None:
            turn.release()


def _stand_firm(session: Session) -> None:
    """Before another round: a lock has to be held still, and where commits take turns ours is kept.

    A turn that began with a base of before the queue is spent on finding that out. With as many writers as
    there are in the queue, only the first of them would get a commit in; so the next is kept for the whole
    round, once all packs have been sent.
    """
    if session.lock is not None:
        # Somebody else commits although we hold the lock: do we still?
        session.lock.check()
    elif session.commit_lock is not None and session.turn is None:
        turn = session.commit_lock()
        turn.acquire(session.commit_timeout_seconds)
        session.turn = turn
        pull(session)


def _wait_a_little(session: Session, number: int) -> None:
    """Lets the writers that collided go apart: up to a growing bound, at random."""
    policy = session.remote.policy
    bound_seconds = min(policy.cap_seconds, CROWD_SECONDS * 2 ** min(number, 6), policy.base_seconds * 10)
    policy.sleep(policy.random() * bound_seconds)


def _crowded(session: Session) -> OfflineError:
    return OfflineError(
        f"{MAX_ROUNDS} commits of other writers came first at {session.remote.root_place}; every operation "
        "is pending, push again when there is less traffic"
    )


def _one_round(session: Session, *, resumed: int, fence: int | None = None) -> PushResult | None:
    """One attempt on one base; None when another writer's commit came first.

    With a fence, the commit is made whether there is anything to push or not, and of nothing else.
    """
    with session.mutex:
        conflicts = [] if fence is not None else find_conflicts(session)
        if conflicts:
            raise ConflictError(conflicts, session.remote.root_place)
        replacing = fence is None and bool(session.journal.get_meta("replace_remote"))
        base = read_base(session.journal)
        entries = [] if fence is not None else session.journal.pending_entries()
    _check_fence(session, base)
    if fence is not None:
        base = replace(base, fence=fence)
    elif not entries and not replacing and base.seq:
        return PushResult(False, seq=base.seq)
    if base.seq and base.etag is None and not replacing:
        # The commit is known, the object that holds it is not: an answer was lost. Read it.
        pull(session)
        return None
    replaced = read_root_or_none(session.remote) if replacing else None
    if replacing or not base.seq:
        # No fence was noted of a root that is replaced, or that was not there.
        note_fence(session, replaced.manifest.fence if replaced is not None else 0)
    places = _place(session, entries)
    commit = _build(session, base, replaced, entries, places)
    base_etag = replaced.etag if replaced is not None else base.etag
    if not _write_intent(session, commit, base_etag, entries):
        return None
    outcome = _swap(session, commit, base_etag)
    if not outcome.applied:
        return None
    if outcome.etag is not None:
        _finish(session, commit, outcome.etag)
    if fence is None:
        forget_uploads(session)
    return PushResult(
        True,
        commit_id=commit.manifest.commit_id,
        seq=commit.manifest.seq,
        set_count=commit.record.set_count,
        deleted_count=commit.record.deleted_count,
        resumed_packs=resumed,
        value_bytes=commit.record.value_bytes,
    )


def _check_fence(session: Session, base: Base) -> None:
    """Raises when the root shows that somebody else took the lock over."""
    if session.lock is not None and fenced_off(base.fence, session.fence):
        session.lock.lose("the root carries a higher fence")
        session.lock.check()


def _start_over_if_gone(session: Session) -> list[str]:
    """Pulls, or makes everything pending where the remote is gone.

    Returns:
        Ids of unresolved pushes that turned out to have succeeded.
    """
    applied: list[str] = []
    try:
        applied = pull(session).applied
    except RemoteMissingError:
        with session.mutex:
            _forget_remote(session)
    return applied


def _forget_remote(session: Session) -> None:
    """Makes everything that is local pending, because the remote holds none of it any more."""
    with session.journal.transaction() as connection:
        raw = driver(connection)
        raw.execute(
            "UPDATE entry SET pending = 1, pending_digest = remote_digest, "
            "pending_timestamp_us = remote_timestamp_us, pending_length_bytes = remote_length_bytes "
            "WHERE pending = 0 AND remote_digest IS NOT NULL"
        )
        raw.execute("UPDATE entry SET pending = 0 WHERE pending = 2")
        columns = ("seq", "timestamp_us", "digest", "object", "offset_bytes", "length_bytes")
        raw.execute(
            "UPDATE entry SET " + ", ".join(f"remote_{name} = NULL, base_{name} = NULL" for name in columns)
        )
        raw.execute("DELETE FROM entry WHERE local_digest IS NULL AND pending = 0")
        raw.execute("DELETE FROM meta WHERE name GLOB 'base_*'")
        raw.execute("DELETE FROM intent")
        # Numbers of commits begin anew.
        raw.execute("DELETE FROM commit_log")


# -- values ------------------------------------------------------------------------------------


def _place(session: Session, entries: Sequence[Entry]) -> dict[bytes, Place]:
    """Sends the values that need a pack; those of a small push ride in the index."""
    values = [entry for entry in entries if entry.pending == PENDING_SET and not _is_remote(entry)]
    total = sum(entry.length_bytes for entry in values)
    inline = total <= INLINE_TOTAL_BYTES and all(e.length_bytes <= INLINE_VALUE_BYTES for e in values)
    return {} if inline or not values else place_values(session, values)


def _is_remote(entry: Entry) -> bool:
    """True when the remote already holds the value, and only its timestamp is new."""
    return entry.remote_digest is not None and entry.remote_digest == entry.digest


def _rows(
    session: Session, entries: Iterable[Entry], places: dict[bytes, Place], seq: int
) -> Iterator[tuple[IndexRow, ObjectRef | None]]:
    """Yields what the commit says of each key, with the object it lies in unless a pack is new."""
    for entry in entries:
        digest = entry.digest
        stamp = entry.timestamp_us
        if digest is None:
            yield IndexRow(entry.key, seq, stamp, None), None
        elif _is_remote(entry) and entry.remote_object is not None:
            ref = object_ref(session.journal, entry.remote_object)
            yield (
                IndexRow(
                    entry.key,
                    seq,
                    stamp,
                    digest,
                    ref.name,
                    entry.remote_offset_bytes,
                    entry.remote_length_bytes,
                ),
                ref,
            )
        elif digest in places:
            place = places[digest]
            yield (
                IndexRow(
                    entry.key, seq, stamp, digest, place.object_name, place.offset_bytes, place.length_bytes
                ),
                None,
            )
        else:
            value = read_pending(session, entry)
            yield IndexRow(entry.key, seq, stamp, digest, None, None, len(value), value), None


# -- the commit --------------------------------------------------------------------------------


def _build(
    session: Session,
    base: Base,
    replaced: FetchedRoot | None,
    entries: Sequence[Entry],
    places: dict[bytes, Place],
) -> _Commit:
    """Makes the root of a commit on top of a base, uploading an index segment if the tail is full."""
    refs = upload_refs(session)
    seq = (replaced.manifest.seq if replaced is not None else base.seq) + 1
    record = _record(entries, seq)
    with session.mutex:
        rows = []
        for row, ref in _rows(session, entries, places, seq):
            rows.append(row)
            if ref is not None:
                refs[ref.name] = ref
    image_blob = build_segment(rows, refs, [record])
    image = read_segment(image_blob, name="a new index segment")
    if replaced is not None:
        base = Base(
            seq=replaced.manifest.seq,
            commit_id=replaced.manifest.commit_id,
            fence=replaced.manifest.fence,
        )
    tail = image_blob
    if base.tail:
        old = read_segment(base.tail, name=f"the tail of {session.remote.root_place}")
        tail = merge_segments([old, image], drop_tombstones=False)
    segments, floor = base.segments, base.tombstone_floor
    if len(tail) > ROOT_TAIL_LIMIT_BYTES:
        segments, floor = _write_segment(session, base, rows, refs, record, len(tail))
        tail = b""
    manifest = Manifest(
        uuid=session.local.file.header.uuid.hex(),
        type=session.type,
        seq=seq,
        commit_id=record.commit_id,
        parent=base.commit_id,
        committed_at_us=record.committed_at_us,
        writer=record.writer,
        fence=base.fence,
        value_serializer=session.serializer_name,
        key_count=base.key_count + _key_change(entries),
        tombstone_floor=floor,
        n_buckets=session.local.file.header.n_buckets,
        segments=segments,
    )
    return _Commit(manifest, encode_root(manifest, tail), tail, image_blob, record)


def _record(entries: Sequence[Entry], seq: int) -> CommitRecord:
    sets = [entry for entry in entries if entry.pending == PENDING_SET]
    return CommitRecord(
        seq=seq,
        commit_id=secrets.token_hex(16),
        committed_at_us=now_us(),
        writer=writer_name(),
        set_count=len(sets),
        deleted_count=len(entries) - len(sets),
        value_bytes=sum(entry.length_bytes for entry in sets),
    )


def _key_change(entries: Sequence[Entry]) -> int:
    return sum(
        (entry.pending == PENDING_SET) - (entry.remote_digest is not None)
        for entry in entries
        if entry.key != METADATA_KEY
    )


def _write_segment(
    session: Session,
    base: Base,
    rows: Sequence[IndexRow],
    refs: dict[str, ObjectRef],
    record: CommitRecord,
    new_bytes: int,
) -> tuple[tuple[SegmentRef, ...], int]:
    """Writes tail, new rows and the newest small segments out as one segment.

    The rows of the older segments come from the journal, which has them all; nothing is read back.
    """
    count = plan_segments(base.segments, new_bytes)
    kept = base.segments[: len(base.segments) - count]
    first_seq = kept[-1].last_seq + 1 if kept else 1
    with session.mutex:
        tombstones = _tombstones_to_drop(session, first_seq) if not kept else 0
        older = _older_rows(session, first_seq, {row.key for row in rows}, refs, drop=tombstones > 0)
        log = _older_log(session, first_seq)
        blob = build_segment(_in_key_order(older, rows), refs, [*log, record])
    name = session.remote.names.new_segment()
    etag = session.remote.store.put(session.remote.names.object(name), blob)
    digest = hashlib.blake2b(blob, digest_size=16).hexdigest()
    segment = SegmentRef(name, etag, len(blob), digest, first_seq, record.seq)
    return (*kept, segment), record.seq if tombstones else base.tombstone_floor


def _tombstones_to_drop(session: Session, first_seq: int) -> int:
    """Counts tombstones, and says 0 where they are too few to make others read everything anew."""
    with session.journal.reading() as raw:
        gone, alive = raw.execute(
            "SELECT coalesce(sum(remote_digest IS NULL), 0), coalesce(sum(remote_digest IS NOT NULL), 0) "
            "FROM entry WHERE remote_seq >= ?",
            (first_seq,),
        ).fetchone()
    return int(gone) if gone > max(TOMBSTONES_WORTH_DROPPING, alive // 4) else 0


def _older_rows(
    session: Session, first_seq: int, replaced: set[str], refs: dict[str, ObjectRef], *, drop: bool
) -> Iterator[IndexRow]:
    with session.journal.reading() as raw:
        known: dict[int, str] = {}
        for number, name, etag, size in raw.execute("SELECT id, name, etag, size_bytes FROM remote_object"):
            known[number] = name
            refs[name] = ObjectRef(name, etag, size)
        cursor = raw.execute(
            "SELECT e.key, e.remote_seq, e.remote_timestamp_us, e.remote_digest, e.remote_object, "
            "e.remote_offset_bytes, e.remote_length_bytes, "
            "CASE WHEN e.remote_object IS NULL THEN i.value END "
            "FROM entry AS e LEFT JOIN inline_value AS i ON i.digest = e.remote_digest "
            "WHERE e.remote_seq >= ? ORDER BY e.key",
            (first_seq,),
        )
        for key, seq, stamp, digest, number, offset, length, value in cursor:
            if key in replaced or (drop and digest is None):
                continue
            if digest is None:
                yield IndexRow(key, seq, stamp, None)
            elif number is None:
                yield IndexRow(key, seq, stamp, digest, None, None, len(value), value)
            else:
                yield IndexRow(key, seq, stamp, digest, known[number], offset, length)


def _in_key_order(older: Iterable[IndexRow], rows: Sequence[IndexRow]) -> Iterator[IndexRow]:
    yield from heapq.merge(older, sorted(rows, key=_key_of), key=_key_of)


def _key_of(row: IndexRow) -> str:
    return row.key


def _older_log(session: Session, first_seq: int) -> list[CommitRecord]:
    with session.journal.reading() as raw:
        rows = raw.execute(
            "SELECT seq, commit_id, committed_at_us, writer, set_count, deleted_count, value_bytes "
            "FROM commit_log WHERE seq >= ? ORDER BY seq DESC LIMIT ?",
            (first_seq, KEPT_LOG_ROWS - 1),
        ).fetchall()
    return [CommitRecord(*row) for row in reversed(rows)]


# -- the swap ----------------------------------------------------------------------------------


def _write_intent(session: Session, commit: _Commit, base_etag: str | None, entries: Sequence[Entry]) -> bool:
    """Notes what is about to be swapped in; False when the commit says what is not wanted any more.

    Until the intent stands, an operation that is undone leaves nothing behind, and the commit would
    bring it back. What is undone later stays pending, on top of the commit.
    """
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        wanted = {key for (key,) in raw.execute("SELECT key FROM entry WHERE pending != 0")}
        if not all(entry.key in wanted for entry in entries):
            return False
        raw.execute(
            "INSERT INTO intent(commit_id, seq, base_etag, image, begun_at_us) VALUES (?, ?, ?, ?, ?)",
            (commit.manifest.commit_id, commit.manifest.seq, base_etag, commit.image_blob, now_us()),
        )
    return True


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a swap; no ETag when others have already committed on top of it."""

    applied: bool
    etag: str | None = None


def _swap(session: Session, commit: _Commit, base_etag: str | None) -> _Outcome:
    """Puts the root if the old one is still there.

    Whatever is not a plain success is read back before it means anything: an answer may be lost,
    and a store may report a loser's or a winner's write in any way it likes.
    """
    if not session.remote.conditional:
        return _swap_in_turn(session, commit, base_etag)
    remote = session.remote
    outcome = _Outcome(applied=False)
    for attempt in remote.policy.attempts_for("push", location=remote.store.location, key=remote.names.root):
        with attempt:
            try:
                outcome = _Outcome(
                    applied=True,
                    etag=remote.store.put(
                        remote.names.root,
                        commit.root,
                        if_match=base_etag,
                        if_absent=base_etag is None,
                        metadata=_metadata(commit),
                    ),
                )
            except (PreconditionFailedError, TransientStoreError) as error:
                outcome = _read_back(session, commit, base_etag, error)
    return outcome


def _swap_in_turn(session: Session, commit: _Commit, base_etag: str | None) -> _Outcome:
    """Puts the root where conditions don't work: in one's turn, reading it before and after.

    Weaker than a compare-and-swap: a holder that stands still between reading and writing for
    longer than its ticket lasts can overwrite another's commit. Reading afterwards tells it so.
    """
    remote = session.remote
    held = session.lock or session.turn
    turn = session.commit_lock() if held is None and session.commit_lock is not None else None
    if turn is not None:
        turn.acquire(session.commit_timeout_seconds)
    try:
        lock = turn or held
        if lock is not None:
            lock.check()
        there = read_root_or_none(remote)
        if (there.etag if there is not None else None) != base_etag:
            return _read_back(session, commit, base_etag, PreconditionFailedError("the root has changed"))
        try:
            remote.store.put(remote.names.root, commit.root, metadata=_metadata(commit))
        except OfflineError as error:
            return _read_back(session, commit, base_etag, error)
        return _read_back(session, commit, base_etag, PreconditionFailedError("the root was overwritten"))
    except TransientStoreError as error:
        raise OfflineError(
            f"the commit did not arrive at {remote.root_place}, or does not show yet; every operation is "
            f"pending, push again. Last failure: {error}"
        ) from error
    finally:
        if turn is not None:
            turn.release()


def _metadata(commit: _Commit) -> dict[str, str]:
    return {"commit-id": commit.manifest.commit_id}


def _read_back(session: Session, commit: _Commit, base_etag: str | None, failure: Exception) -> _Outcome:
    """Finds out what became of a swap.

    Raises:
        TransientStoreError: The old root is still there: the swap may be tried again as it is.
    """
    remote = session.remote
    with session.mutex:
        base = read_base(session.journal)
    fetched = read_root_or_none(remote)
    commit_id = commit.manifest.commit_id
    verdict = judge(_seen(fetched), commit_id=commit_id, base_etag=base_etag)
    if verdict is Verdict.GONE:
        raise RemoteMissingError(
            f"the database {remote.root_place} was deleted by somebody; everything is pending, "
            "push(force_push=True) writes it anew"
        ) from failure
    if verdict is Verdict.UNTOUCHED or fetched is None:
        asked_seconds = failure.retry_after_seconds if isinstance(failure, TransientStoreError) else None
        raise TransientStoreError(str(failure), retry_after_seconds=asked_seconds) from failure
    if verdict is Verdict.OURS:
        return _Outcome(applied=True, etag=fetched.etag)
    with session.mutex:
        replacing = bool(session.journal.get_meta("replace_remote"))
    if replacing and not replacement_applied(session, fetched):
        return _Outcome(applied=False)
    # Somebody else's root. Ours may lie below it: taking it in settles that by its log.
    if take_in_root(session, fetched, since=base) is None:
        pull(session)
    # Not what this pull settled: another thread's may have come first.
    with session.mutex:
        return _Outcome(applied=is_logged(session.journal, commit_id))


def _seen(fetched: FetchedRoot | None) -> RootSeen | None:
    if fetched is None:
        return None
    return RootSeen(fetched.etag, fetched.manifest.commit_id, fetched.manifest.fence)


def _finish(session: Session, commit: _Commit, etag: str) -> None:
    """Makes a commit that took place the base; what was written since stays pending on top of it."""
    image = read_segment(commit.image_blob, name="the commit just pushed")
    facts: dict[str, Any] = base_facts(commit.manifest, etag, commit.tail)
    with session.mutex:
        if read_base(session.journal).seq >= commit.manifest.seq:
            # A pull in another thread has come across the commit, and maybe others on top.
            return
        take_in(
            session.journal,
            [image],
            base_seq=commit.manifest.seq - 1,
            facts=facts | {"replace_remote": None},
            own_seq=commit.manifest.seq,
        )


__all__ = ["PushResult", "push"]
