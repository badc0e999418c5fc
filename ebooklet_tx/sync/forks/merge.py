"""Merging: what workers changed becomes pending here, with no value passing through this machine.

The invariants: receipts are taken in together, in one transaction of the journal, or none of them is. A key has
one operation: where two receipts, or a receipt and what is pending here, have changed it, the caller decides, or
nothing is taken in. A receipt that was taken in once is not taken in again.

That is remembered in the journal alone. Where another machine, or one that lost its journal, merges a receipt
that was pushed already, its operations are what the remote has and drop out at the push, or are conflicts by key.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import chain

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.fork import ChangedRow, decode_changes
from ebooklet_tx.formats.object_names import pack_prefix_of
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.journal import driver
from ebooklet_tx.local.journal.merged import (
    MergedReceipt,
    MergedRow,
    pending_among,
    read_merged,
    record_merged,
    write_merged,
)
from ebooklet_tx.local.journal.operations import Numbering, stage_value
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.commit.builder import writer_name
from ebooklet_tx.sync.forks.claims import Claim, Decision, Decode, conflict_error, decide_claims
from ebooklet_tx.sync.forks.receipt import Receipt
from ebooklet_tx.sync.in_flight import side_by_side
from ebooklet_tx.sync.pull.resolve import Encoder, Resolver
from ebooklet_tx.sync.read.reader import Reader
from ebooklet_tx.timestamps import now_us

MAX_TRIES = 20


@dataclass(frozen=True, slots=True)
class MergeResult:
    """What a merge took in; true when anything is pending that was not before.

    Attributes:
        merged_count: Receipts that were taken in.
        known_count: Receipts that had been taken in before.
        set_count: Keys that are set by the next push because of it.
        deleted_count: Keys that are deleted likewise.
        decided_count: Keys that were changed twice, and about which `on_conflict` decided.
        read_bytes: What was read of the remote for it.

    Examples:
        >>> with db.fork().open() as part:
        ...     part["c"] = 3
        >>> result = db.merge(part.receipt)
        >>> result.merged_count, result.set_count, bool(db.merge(part.receipt))
        (1, 1, False)
    """

    merged_count: int = 0
    known_count: int = 0
    set_count: int = 0
    deleted_count: int = 0
    decided_count: int = 0
    read_bytes: int = 0

    def __bool__(self) -> bool:
        return self.set_count + self.deleted_count > 0


def merge(
    reader: Reader,
    decode: Decode,
    encode: Encoder,
    receipts: Sequence[Receipt],
    on_conflict: str | Resolver,
) -> MergeResult:
    """Takes receipts in, which were checked.

    Args:
        reader: The local store and its remote.
        decode: Makes a value of a key's encoded bytes.
        encode: The reverse.
        receipts: The receipts.
        on_conflict: What becomes of a key that was changed twice.

    Raises:
        MergeConflictError: A key was changed twice, and `on_conflict` is "raise".
        RemoteMissingError: What a receipt names is gone: its fork has expired.
        RemoteIntegrityError: It is damaged.
        InvalidArgumentError: The database here is to replace the one that the fork was made of.
        OfflineError: The store can't be reached.
    """
    journal = reader.local.journal
    if is_replacing(journal):
        raise InvalidArgumentError(
            "the next push replaces the whole database, so nothing can be merged into it; push first, and make "
            "the fork then",
            operation="merge",
        )
    unique = {receipt.receipt_id: receipt for receipt in receipts}
    lists: dict[str, list[list[ChangedRow]]] = {}
    for _ in range(MAX_TRIES):
        reader.local.commit()
        # Another thread may have taken one of them in meanwhile.
        known = read_merged(journal).receipts
        wanted = [receipt for name, receipt in unique.items() if name not in known]
        lists = lists or _read_lists(reader, wanted)
        if any(receipt.base_seq > read_base(journal).seq for receipt in wanted):
            reader.pull()
        claims = _conflicting(reader, wanted, lists)
        if claims and on_conflict == "raise":
            raise conflict_error(reader, decode, claims)
        decisions = {key: decide_claims(reader, decode, encode, key, claims[key], on_conflict) for key in claims}
        done = _take(reader, wanted, lists, claims, decisions)
        if done is not None:
            sets, deletes = done
            read_bytes = sum(size for receipt in wanted for _, _, size, _ in receipt.objects)
            return MergeResult(
                len(wanted), len(receipts) - len(wanted), sets, deletes, len(decisions), read_bytes
            )
    raise InvalidArgumentError(
        "another thread kept writing keys that were to be merged; nothing was merged, try again",
        operation="merge",
    )


# -- reading -------------------------------------------------------------------------------------


def _read_lists(reader: Reader, receipts: Sequence[Receipt]) -> dict[str, list[list[ChangedRow]]]:
    """Reads what receipts name, several objects at once; returns the pages of rows of each receipt."""
    remote = reader.remote
    lists: dict[str, list[list[ChangedRow]]] = {receipt.receipt_id: [] for receipt in receipts}
    tasks = [(receipt, item) for receipt in receipts for item in receipt.objects]

    def read(task: tuple[Receipt, tuple[str, bytes, int, int]]) -> bytes:
        receipt, (name, digest, size_bytes, _) = task
        try:
            data = remote.store.get_range(remote.names.object(name), 0, size_bytes)
        except ObjectMissingError as error:
            raise RemoteMissingError(
                f"the changes of the worker {receipt.worker} are gone from {remote.root_place}: the fork "
                f"{receipt.fork_id} has expired; run that work again on a new fork. Nothing was merged",
                object_name=remote.names.object(name),
                operation="merge",
            ) from error
        if digest_of(data) != digest:
            raise damaged_list(receipt.worker, name, "its digest is not the receipt's")
        return data

    sizes, rows = [item[2] for _, item in tasks], [item[3] for _, item in tasks]
    with remote.reporter.phase("merge", keys_total=sum(rows), bytes_total=sum(sizes)) as phase:
        objects = side_by_side(
            tasks, read, size_bytes=lambda task: task[1][2], threads=remote.threads, phase=phase
        )
        with closing(objects):
            for (receipt, item), data in objects:
                lists[receipt.receipt_id] += _checked(receipt, item, data, lists[receipt.receipt_id])
                phase.advance(item[3], item[2])
    return lists


def _checked(
    receipt: Receipt, item: tuple[str, bytes, int, int], data: bytes, before: Sequence[Sequence[ChangedRow]]
) -> list[list[ChangedRow]]:
    """Returns the pages of an object of changes, held against its receipt and the pages before it."""
    name, _, _, rows = item
    pages = list(decode_changes(data, name=name))
    if sum(map(len, pages)) != rows:
        raise damaged_list(receipt.worker, name, "it has another number of rows than the receipt says")
    if before and before[-1][-1].row.key >= pages[0][0].row.key:
        raise damaged_list(receipt.worker, name, "its keys do not follow those of the object before it")
    prefix = pack_prefix_of(receipt.fork_id)
    if any(row.ref is not None and not row.ref.name.startswith(prefix) for page in pages for row in page):
        raise damaged_list(receipt.worker, name, "it names a pack that is none of the fork's")
    return pages


def damaged_list(worker: str, name: str, problem: str) -> RemoteIntegrityError:
    """Returns the error for an object of changes that is not what its receipt says."""
    return RemoteIntegrityError(
        f"the changes of the worker {worker} in {name} can't be taken in: {problem}; nothing was merged. Run "
        "that work again",
        operation="merge",
    )


# -- conflicts -----------------------------------------------------------------------------------


def _conflicting(
    reader: Reader, receipts: Sequence[Receipt], lists: dict[str, list[list[ChangedRow]]]
) -> dict[str, list[Claim]]:
    """Returns the keys that were changed twice, each with its changes in order: what is pending here first."""
    journal = reader.local.journal
    first: dict[str, Claim] = {}
    found: dict[str, list[Claim]] = {}
    merged = read_merged(journal)
    for receipt in receipts:
        for page in lists[receipt.receipt_id]:
            with journal.reading() as raw:
                pending = pending_among(raw, [row.row.key for row in page])
            for row in page:
                key = row.row.key
                claim = Claim(receipt.worker, row)
                if key in found:
                    found[key].append(claim)
                elif key in first:
                    found[key] = [first[key], claim]
                elif key in pending:
                    here = Claim(
                        merged.worker_of(pending[key]) or f"this session ({writer_name()})", None, pending[key]
                    )
                    found[key] = [here, claim]
                else:
                    first[key] = claim
    return found


# -- taking in -----------------------------------------------------------------------------------


def _take(
    reader: Reader,
    receipts: Sequence[Receipt],
    lists: dict[str, list[list[ChangedRow]]],
    claims: dict[str, list[Claim]],
    decisions: dict[str, Decision],
) -> tuple[int, int] | None:
    """Makes operations of what receipts say; returns how many set a key and how many delete one.

    None, with nothing done, where another thread has written one of the keys meanwhile, or has merged.
    """
    journal, stamp = reader.local.journal, now_us()
    sets = deletes = 0
    with journal.transaction() as transaction:
        raw = driver(transaction)
        merged = read_merged(journal)
        pages = chain.from_iterable(lists[receipt.receipt_id] for receipt in receipts)
        keys = [row.row.key for page in pages for row in page]
        seen = {key: claim[0].number for key, claim in claims.items() if claim[0].row is None}
        was_merged = any(receipt.receipt_id in merged.receipts for receipt in receipts)
        overlay = reader.local.overlay.operations
        if was_merged or pending_among(raw, keys) != seen or any(key in overlay for key in keys):
            return None
        numbering = Numbering(raw)
        for receipt in receipts:
            first = numbering.next()
            for page in lists[receipt.receipt_id]:
                rows = [_merged_row(row) for row in page if _stays(row, decisions)]
                record_merged(raw, numbering, rows, base_at=receipt.base_commit_id, begun_at_us=stamp)
                deleted = sum(row.digest is None for row in rows)
                sets, deletes = sets + len(rows) - deleted, deletes + deleted
            last = numbering.next()
            merged.receipts[receipt.receipt_id] = MergedReceipt(receipt.fork_id, receipt.worker, first, last)
        numbering.note()
        for key, decision in decisions.items():
            if decision.resolution is not None:
                stage_value(raw, key, decision.resolution.value, stamp)
        write_merged(transaction, merged)
    return sets, deletes


def _stays(row: ChangedRow, decisions: dict[str, Decision]) -> bool:
    decision = decisions.get(row.row.key)
    return decision is None or decision.claim.row is row


def _merged_row(item: ChangedRow) -> MergedRow:
    row = item.row
    return MergedRow(
        row.key, row.timestamp_us, row.digest, item.base, item.ref, row.offset_bytes, row.length_bytes
    )


__all__ = ["MergeResult", "merge"]
