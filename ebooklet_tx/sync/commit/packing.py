"""Sending pending values in packs, so that an interrupted push resumes.

Owns nothing on disk; the journal's `uploads` says which packs are on their way. The invariant: a pack is noted
before it is sent, and its arrival only after it has arrived. So a push that was killed between an arrival and
the note of it finds the object by its name, and sends nothing twice.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from operator import itemgetter
from typing import NamedTuple, TypeAlias

from ebooklet_tx.errors import ObjectMissingError
from ebooklet_tx.formats.pack import PACK_BYTES, PackBuilder, pack_prefix, record_bytes
from ebooklet_tx.index.building import METADATA_IN_TAIL_BYTES
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.pending.push_rows import PushPlan, ValueToSend, amount_sent, pages_to_send
from ebooklet_tx.local.journal.uploads import (
    PackedValues,
    arrived_packs,
    find_partial_upload,
    forget_upload,
    note_arrival,
    note_parts,
    note_upload,
    read_uploads,
    replace_upload,
)
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.local.pending_values import LargeValue, read_values
from ebooklet_tx.progress import Phase
from ebooklet_tx.stores.deadline import metered
from ebooklet_tx.stores.object_store import UploadState
from ebooklet_tx.stores.workers import Workers
from ebooklet_tx.sync.commit.line import LOOK_SECONDS, Line
from ebooklet_tx.sync.commit.sent_rows import SentRows
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.timestamps import now_us

PART_BYTES = 8 * 2**20
PACKS_IN_FLIGHT = 4
KEPT = "push again sends the rest"

REUSED_FOR_SECONDS = 6 * 3600.0
"""How long after its sending began a commit may name an object as it is.

`collect` deletes objects that no root names once they are a day old. An older pack is copied to a new name
first, which makes it as new as one just sent; an older index object is sent again."""

_FIELDS = tuple(map(itemgetter, range(5)))
"""The fields of a `SendRow` but for the last."""

Pack: TypeAlias = tuple[str, bytes, PackedValues]
"""A pack to send: its name, its bytes, and what is in it."""


PackRecord: TypeAlias = tuple[int | bytes, str, int, bytes, bytes]
"""A value to be packed: what its place is noted under (an operation's number, or a digest), its key, timestamp,
digest and bytes."""


class PackBatch(NamedTuple):
    """Values to be packed, a sequence for each field of `PackRecord`; there is at least one."""

    owners: Sequence[int | bytes]
    keys: Sequence[str]
    stamps: Sequence[int]
    digests: Sequence[bytes]
    values: Sequence[bytes]

    @classmethod
    def of(cls, records: Sequence[PackRecord]) -> PackBatch:
        """Returns records as a batch."""
        return cls(*zip(*records, strict=True))


# -- sending -----------------------------------------------------------------------------------


def send_values(local: LocalStore, remote: Remote, plan: PushPlan, sent: SentRows) -> None:
    """Sends the values of a plan, but those that an earlier push has sent.

    Memory goes by the packs in flight. When this raises, what has arrived is recorded.

    Args:
        local: This machine's half of the database.
        remote: The other half.
        plan: What is to be pushed.
        sent: Takes what is sent in packs.
    """
    totals = {"keys_total": plan.new_count, "bytes_total": plan.new_bytes}
    with remote.reporter.phase("send", **totals, kept=KEPT) as phase:
        phase.advance(*amount_sent(local.journal, plan))
        _send_missing(local, remote, plan, phase, sent)
        while renew_old_uploads(local.journal, remote):
            _send_missing(local, remote, plan, phase, sent)


def _send_missing(local: LocalStore, remote: Remote, plan: PushPlan, phase: Phase, sent: SentRows) -> None:
    large: list[ValueToSend] = []

    def small() -> Iterator[PackBatch]:
        for page in pages_to_send(local.journal, plan):
            # Small metadata rides in the root: it is what is asked for first.
            fitting = [row for row in page if row[0] or row[4] > METADATA_IN_TAIL_BYTES]
            # Values below this fit with any key.
            if max(map(itemgetter(4), fitting), default=0) > PACK_BYTES - 2**17:
                large.extend(ValueToSend(*row) for row in fitting if record_bytes(row[0], row[4]) > PACK_BYTES)
                fitting = [row for row in fitting if record_bytes(row[0], row[4]) <= PACK_BYTES]
            for items, values in read_values(local, fitting):
                # A zip of all would make an object of each, for the collector of garbage to go through.
                keys, numbers, digests, stamps, lengths = (list(map(field, items)) for field in _FIELDS)
                sent.add(keys, stamps, digests, lengths)
                yield PackBatch(numbers, keys, stamps, digests, values)

    def noted(packs: Iterable[Pack]) -> Iterator[Pack]:
        for pack in packs:
            sent.add_pack(pack[0], pack[2].offsets_bytes)
            yield pack

    packs = fill_packs(small(), remote.names.new_pack, pack_bytes=PACK_BYTES)
    send_packs(local.journal, remote, noted(packs), phase)
    for item in large:
        _send_large(local, remote, item, phase)


def fill_packs(
    batches: Iterable[PackBatch], new_name: Callable[[], str], *, pack_bytes: int
) -> Generator[Pack, None, None]:
    """Puts values into packs, in order, and yields each pack once no further value fits.

    Equal values are in a pack once.

    Args:
        batches: The values; each batch is in memory at once.
        new_name: Returns the name of a new pack.
        pack_bytes: The size at which a pack is full.
    """
    filling = _Filling()
    for batch in batches:
        if len(batch.keys) > 1 and filling.add_all(batch, pack_bytes):
            continue
        for record in zip(*batch, strict=True):
            if not filling.add(record, pack_bytes):
                yield filling.finish(new_name())
                filling = _Filling()
                filling.add(record, pack_bytes)
    if filling.packed.owners:
        yield filling.finish(new_name())


class _Filling:
    """A pack that is being filled, and where in it each value lies.

    Attributes:
        packed: What it holds.
    """

    def __init__(self) -> None:
        self._owners: list[int | bytes] = []
        self._places: list[int] = []
        self._lengths: list[int] = []
        self.packed = PackedValues(self._owners, self._places, self._lengths)
        self._builder = PackBuilder()
        self._offsets: dict[bytes, int] = {}

    def add_all(self, batch: PackBatch, most_bytes: int) -> bool:
        """Adds a batch at once; False, and nothing added, where some value is here already or all don't fit."""
        owners, keys, stamps, digests, values = batch
        if len(set(digests)) < len(digests) or not self._offsets.keys().isdisjoint(digests):
            return False
        offsets = self._builder.add_all(keys, stamps, values, most_bytes)
        if offsets is None:
            return False
        self._offsets.update(zip(digests, offsets, strict=True))
        self._owners += owners
        self._places += offsets
        self._lengths += map(len, values)
        return True

    def add(self, record: PackRecord, most_bytes: int) -> bool:
        """Adds a value; False where the pack holds others and it does not fit."""
        owner, key, timestamp_us, digest, value = record
        offset = self._offsets.get(digest)
        if offset is None:
            offset = self._builder.add_within(key, timestamp_us, value, most_bytes)
            if not offset:
                return False
            self._offsets[digest] = offset
        self._owners.append(owner)
        self._places.append(offset)
        self._lengths.append(len(value))
        return True

    def finish(self, name: str) -> Pack:
        """Returns the pack."""
        return name, self._builder.finish(), self.packed


def send_packs(journal: Journal, remote: Remote, packs: Iterable[Pack], phase: Phase) -> None:
    """Sends packs, some at once where the line is fast, and records each that arrives."""
    line = Line()
    with Workers(min(PACKS_IN_FLIGHT, remote.threads), phase) as workers:
        running: set[Future[None]] = set()
        for pack in packs:
            while len(running) >= (PACKS_IN_FLIGHT if line.is_fast else 1):
                running = _finished(workers, running, None if line.is_fast else LOOK_SECONDS)
            running.add(workers.submit(_send_pack, journal, remote, pack, phase, line))
        while running:
            running = _finished(workers, running)


def _finished(
    workers: Workers, running: set[Future[None]], most_seconds: float | None = None
) -> set[Future[None]]:
    done, rest = workers.any_done(running, most_seconds)
    for future in done:
        future.result()
    return rest


def _send_pack(journal: Journal, remote: Remote, pack: Pack, phase: Phase, line: Line) -> None:
    name, data, values = pack
    note_upload(journal, name, len(data), values, begun_at_us=now_us())
    with phase.moving(len(data)) as moved:
        with line.sending(len(data), moved) as counted, metered(counted):
            etag = remote.store.put(remote.names.object(name), data)
        note_arrival(journal, name, etag)
        phase.advance(len(values.owners), sum(values.lengths_bytes))


# -- what an earlier push has sent -------------------------------------------------------------


def reconcile_uploads(journal: Journal, remote: Remote) -> int:
    """Asks the store once for each pack of an earlier, unfinished push; returns how many are there.

    A pack's name is random and its put atomic, so an object of that name and size is the pack.
    """
    for upload in read_uploads(journal):
        try:
            known = remote.store.head(remote.names.object(upload.name))
        except ObjectMissingError:
            known = None
        if known is not None and known.size_bytes == upload.size_bytes:
            note_arrival(journal, upload.name, known.etag)
        elif upload.etag is not None or upload.upload_id is None:
            forget_upload(journal, upload.name)
    return len(arrived_packs(journal))


def renew_old_uploads(journal: Journal, remote: Remote) -> bool:
    """Copies packs that were sent long ago to new names; True when one turned out to be gone.

    Times are those of this machine's clock alone; where that was put forward or back, a pack is copied once
    too often.
    """
    limit_us = REUSED_FOR_SECONDS * 1e6
    arrived = [upload for upload in read_uploads(journal) if upload.etag is not None and upload.digest is None]
    old = [upload.name for upload in arrived if abs(now_us() - upload.begun_at_us) > limit_us]
    gone = [name for name in old if not _renewed(journal, remote, name)]
    return bool(gone)


def _renewed(journal: Journal, remote: Remote, name: str) -> bool:
    """Copies a pack to a new name, which no `collect` has seen, and uses that; False when the pack is gone."""
    fresh, begun_at_us = remote.names.new_pack(), now_us()
    try:
        etag = remote.store.copy(remote.names.object(name), remote.names.object(fresh))
    except ObjectMissingError:
        forget_upload(journal, name)
        return False
    replace_upload(journal, name, fresh, etag, begun_at_us=begun_at_us)
    return True


# -- values with a pack of their own -----------------------------------------------------------


def _send_large(local: LocalStore, remote: Remote, item: ValueToSend, phase: Phase) -> None:
    """Sends a value in parts; each part that arrives is recorded, so that the next push resumes there."""
    journal = local.journal
    prefix = pack_prefix(item.key, item.timestamp_us, item.length_bytes)
    source = LargeValue(local, item, prefix)
    name, resume = _begin_large(journal, item, len(prefix), remote.names.new_pack)

    def on_part(state: UploadState) -> None:
        note_parts(journal, name, state.upload_id, state.parts)
        phase.tick()

    with phase.moving(item.length_bytes) as moved, metered(moved):
        etag = remote.store.put_parts(
            remote.names.object(name), source, part_bytes=PART_BYTES, resume=resume, on_part=on_part
        )
        note_arrival(journal, name, etag)
        phase.advance(1, item.length_bytes)


def _begin_large(
    journal: Journal, item: ValueToSend, prefix_bytes: int, new_name: Callable[[], str]
) -> tuple[str, UploadState | None]:
    """Finds the unfinished upload of this very value, or begins one."""
    partial = find_partial_upload(journal, item.number)
    if partial is not None:
        return partial.name, UploadState(partial.upload_id, partial.parts) if partial.upload_id else None
    name = new_name()
    value = PackedValues([item.number], [prefix_bytes], [item.length_bytes])
    note_upload(journal, name, prefix_bytes + item.length_bytes, value, begun_at_us=now_us())
    return name, None
