"""Publishing a commit: it is built, noted as an intent, swapped in, and becomes the journal's base.

The invariant: the intent, written before the swap, tells with the journal's operations what the commit holds. So
a process that learns that the swap took place, this one or a later one, can make the commit the base, whatever
happened to the process or the answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from operator import attrgetter

from ebooklet_tx.errors import Error, LocalIntegrityError, ObjectMissingError
from ebooklet_tx.formats.index_object import read_whole
from ebooklet_tx.formats.index_records import IndexEntry
from ebooklet_tx.index.lookup import LocatedRow
from ebooklet_tx.index.row_batches import BatchedRows, RowBatch, batch_of, in_batches
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.facts import REPLACED, is_replacing, type_fact
from ebooklet_tx.local.journal.intents import Intent, add_intent, apply_intent, drop_intents
from ebooklet_tx.local.journal.journal import driver, put_meta
from ebooklet_tx.local.journal.known import apply_rows, drop_done, drop_unchanged
from ebooklet_tx.local.journal.pending.push_rows import (
    CommitRow,
    PendingRow,
    PushPlan,
    count_left,
    objects_by_number,
    pages_to_commit,
)
from ebooklet_tx.local.journal.remote_values import RemoteValue
from ebooklet_tx.local.journal.uploads import (
    arrived_packs,
    drop_index_uploads,
    drop_uploads,
    find_index_object,
    note_arrival,
    note_upload,
    place_of,
)
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.local.pending_values import read_operation
from ebooklet_tx.progress import Phase
from ebooklet_tx.records import IndexRow, ObjectRef, RemoteSide, digest_of
from ebooklet_tx.sync.base_index import BaseIndex
from ebooklet_tx.sync.commit.builder import Below, Changes, Commit, DatabaseFacts, build
from ebooklet_tx.sync.commit.commit_mode import record_result
from ebooklet_tx.sync.commit.packing import REUSED_FOR_SECONDS
from ebooklet_tx.sync.commit.read_back import Outcome, Swap
from ebooklet_tx.sync.commit.root_swap import swap_root
from ebooklet_tx.sync.commit.sent_rows import SentRows
from ebooklet_tx.sync.look_up import move_on
from ebooklet_tx.sync.pull.pull import apply_root, pull, replacement_applied
from ebooklet_tx.sync.read.fetch import fetch_place
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, base_of
from ebooklet_tx.sync.session import Session
from ebooklet_tx.timestamps import now_us

NOWHERE = ObjectRef("", "", 0)
"""Stands for the object of a row that rides in the index itself, until that is written."""


def operation_rows(local: LocalStore, remote: Remote, plan: PushPlan, seq: int, sent: SentRows) -> BatchedRows:
    """Returns what a commit of a plan says of each key, in the order of key; read as it is drawn.

    Args:
        local: This machine's half of the database.
        remote: The other half.
        plan: What the commit carries out.
        seq: The number of the commit.
        sent: What was sent for it just now.
    """
    pages = pages_to_commit(local.journal, plan)
    count, first = plan.count - sent.row_count, []
    if count == 1 and sent.first_key is not None:
        # Metadata comes first, and rides in the root.
        first = [row for row in next(pages, [])[:1] if row[0] < sent.first_key]
    packs = arrived_packs(local.journal) if len(first) == count else {}
    if not sent.is_whole(plan.count - len(first), packs):
        return BatchedRows(_batches_of(pages_to_commit(local.journal, plan), local, remote, seq))
    head = _batches_of([first] if first else [], local, remote, seq)
    return BatchedRows(chain(head, sent.batches(seq, packs)))


def _batches_of(
    pages: Iterable[list[CommitRow]], local: LocalStore, remote: Remote, seq: int
) -> Iterator[RowBatch]:
    refs: dict[int, ObjectRef] = {}
    for page in pages:
        keys, kinds, stamps, digests, lengths, _, objects, offsets, _ = zip(*page, strict=True)
        used = set(objects) - {None}
        refs |= objects_by_number(local.journal, used - refs.keys())
        if set(kinds) == {1} and None not in objects and None not in offsets:
            # Column by column: most pushes of many keys set all of them to values in packs.
            there = list(map(refs.__getitem__, objects))
            seqs, names = [seq] * len(page), list(map(attrgetter("name"), there))
            columns = keys, seqs, stamps, digests, names, offsets, lengths, [None] * len(page)
            yield RowBatch(columns, there)
        else:
            yield batch_of([_operation_row(local, remote, PendingRow(*row[:-1]), refs, seq) for row in page])


def _operation_row(
    local: LocalStore, remote: Remote, row: PendingRow, refs: Mapping[int, ObjectRef], seq: int
) -> LocatedRow:
    if row.pending != 1:
        return LocatedRow(IndexRow(row.key, seq, row.timestamp_us, None), NOWHERE)
    if row.object is not None and row.offset_bytes is not None:
        ref = refs[row.object]
        placed = (ref.name, row.offset_bytes, row.length_bytes)
        return LocatedRow(IndexRow(row.key, seq, row.timestamp_us, row.digest, *placed), ref)
    value = _inline_value(local, remote, row)
    return LocatedRow(
        IndexRow(row.key, seq, row.timestamp_us, row.digest, None, None, len(value), value), NOWHERE
    )


def _inline_value(local: LocalStore, remote: Remote, row: PendingRow) -> bytes:
    """Returns a value that is to ride in the index.

    One that a fork brought rides there where the remote has the same value already, in its index: it may be in
    the fork's pack alone.
    """
    try:
        return read_operation(local, row.key, row.number)
    except LocalIntegrityError:
        sent = place_of(local.journal, row.number, row.length_bytes or 0)
        if sent is None:
            raise
        return fetch_place(remote, RemoteValue(row.key, row.digest or b"", row.timestamp_us, *sent))


def commit_rows(
    session: Session,
    below: Below,
    base_etag: str | None,
    rows: Iterable[LocatedRow],
    changes: Changes,
    *,
    plan: PushPlan | None = None,
    moved: Mapping[str, RemoteSide] | None = None,
    replaces: bool = False,
    merge_all: bool = False,
) -> Commit | None:
    """Commits rows on what lies below; None when that has to be tried again on another base.

    Args:
        session: The session.
        below: What the commit is built on.
        base_etag: The ETag of the root that it replaces.
        rows: The rows, in the order of key, of the commit `below.seq + 1`.
        changes: What the history says of them.
        plan: The operations that they carry out.
        moved: What becomes of the remote side of keys that have no operation.
        replaces: Whether the commit replaces the whole database.
        merge_all: Whether all runs of the index are merged into one, whatever that costs.

    Raises:
        RemoteIntegrityError: A part of the newest commit's index is missing.
    """
    local, journal = session.local, session.journal
    header = local.file.header
    facts = DatabaseFacts(header.uuid.hex(), session.type, session.serializer_name, header.n_buckets)
    index = session.index.remote_index
    writer = run_writer(local, session.remote)
    try:
        with session.remote.reporter.phase("index", keys_total=changes.row_count) as phase:
            counted = BatchedRows(_counting(rows, phase))
            commit = build(
                facts, below, counted, changes, index, writer, session.remote.mode, merge_all=merge_all
            )
    except ObjectMissingError as error:
        if below.index is None:
            raise
        # It is an earlier commit, of which the index has been collected.
        move_on(local, lambda: pull(session), base_etag, error)
        return None
    session.locks.queue.announce(commit.root)
    intent = Intent(
        commit.manifest.commit_id,
        commit.manifest.seq,
        base_etag,
        read_base(journal).commit_id,
        0 if plan is None else plan.last_number,
        replaces,
    )
    with journal.transaction() as transaction:
        raw = driver(transaction)
        # Fewer are left where a key was written again: what the commit says of it is not wanted any more.
        if plan is not None and count_left(raw, plan) != plan.count:
            return None
        add_intent(raw, intent, begun_at_us=now_us())
    with session.remote.reporter.phase("commit"):
        outcome = swap_in(session, commit, base_etag)
        if outcome.etag is not None and below.restored is not None:
            # What this machine knows of single keys is of another state: a pull moves on as from any commit.
            pull(session)
        elif outcome.etag is not None:
            uses_packs = plan is not None or bool(moved)
            made = outcome.commit or commit
            _become_base(local, made, intent, outcome.etag, moved or {}, uses_packs=uses_packs)
            if made.decoded is not None:
                session.index.note(made.decoded, outcome.etag, len(made.root))
    return commit if outcome.applied else None


def _counting(rows: Iterable[LocatedRow], phase: Phase) -> Iterator[RowBatch]:
    for batch in in_batches(rows):
        yield batch
        phase.advance(batch.row_count)


def below(index: BaseIndex, base: Base) -> Below:
    """Returns what a commit on a base is built on."""
    there = index.of_base(base)
    return Below(None if there is None else there.manifest, there, base.fence)


def run_writer(local: LocalStore, remote: Remote) -> RunWriter:
    """Returns what writes index objects; each is noted in the journal, and its pieces are kept there."""
    journal = local.journal

    def put(name: str, data: bytes) -> ObjectRef:
        digest, begun_at_us = digest_of(data), now_us()
        around_us = int(REUSED_FOR_SECONDS * 1e6)
        known = find_index_object(journal, digest, from_us=begun_at_us - around_us, to_us=begun_at_us + around_us)
        if known is not None:
            return known
        note_upload(journal, name, len(data), begun_at_us=begun_at_us, digest=digest)
        etag = remote.store.put(remote.names.object(name), data)
        note_arrival(journal, name, etag)
        return ObjectRef(name, etag, len(data))

    def keep(data: bytes, entry: IndexEntry) -> None:
        directory = read_whole(data, entry=entry, name=entry.name)
        pieces = {
            ref.digest: data[ref.offset_bytes : ref.offset_bytes + ref.length_bytes] for ref in directory.blocks
        }
        pieces[entry.directory_digest] = data[entry.directory_offset_bytes :]
        local.pieces.put(pieces)

    return RunWriter(
        remote.names.new_index_object,
        remote.names.new_history,
        put,
        keep,
        threads=max(1, min(4, remote.threads)),
        keep_pieces=local.pieces.put,
    )


def swap_in(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    """Swaps a commit in, and tells the journal what came to light on the way."""
    journal, remote = session.journal, session.remote
    base = read_base(journal)

    def absorb(fetched: FetchedRoot) -> bool:
        if is_replacing(journal) and not replacement_applied(session.local, session.index, fetched):
            return False
        if apply_root(session, fetched, since=base) is None:
            pull(session)
        # The history decides, not what this pull settled: another thread's may have come first.
        found = session.index.of_root(fetched).commit_at(commit.manifest.seq)
        return found == commit.manifest.commit_id

    swap = Swap(commit, base_etag, absorb)
    try:
        outcome = swap_root(remote, session.locks, swap)
    except Error:
        if not swap.may_have_arrived:
            # There is nothing to find out about it later.
            with journal.transaction() as transaction:
                drop_intents(driver(transaction), [commit.manifest.commit_id])
                drop_unchanged(driver(transaction))
        raise
    if outcome.applied:
        # What follows is of this machine alone.
        session.locks.queue.leave(outcome.etag, (outcome.commit or commit).root)
    if outcome.applied and commit.changes_mode:
        record_result(journal, remote.mode)
    if outcome.pull_root:
        pull(session)
    return outcome


def _become_base(
    local: LocalStore,
    commit: Commit,
    intent: Intent,
    etag: str,
    moved: Mapping[str, RemoteSide],
    *,
    uses_packs: bool,
) -> None:
    """Makes a commit that took place the base; what was written since stays pending on top of it."""
    journal, manifest = local.journal, commit.manifest
    with journal.mutex:
        base = read_base(journal)
        if base.seq >= manifest.seq and base.commit_id != intent.base_commit_id:
            # A pull in another thread has come across the commit, and maybe others on top.
            return
        with journal.transaction() as transaction:
            raw = driver(transaction)
            apply_intent(raw, intent, root=ObjectRef("", etag, len(commit.root)))
            if moved:
                apply_rows(raw, moved, left=intent.commit_id, reached=intent.commit_id)
            # Another push on this base, whose answer never came, can't take place any more.
            drop_intents(raw)
            if uses_packs:
                drop_uploads(raw)
            else:
                # A raised fence leaves the packs of an interrupted push to be used.
                drop_index_uploads(raw)
            drop_done(raw)
            facts = base_facts(base_of(manifest, etag, commit.root)) | type_fact(manifest.type) | REPLACED
            put_meta(transaction, facts)
            local.pieces.write(transaction)


__all__ = ["below", "commit_rows", "operation_rows", "run_writer", "swap_in"]
