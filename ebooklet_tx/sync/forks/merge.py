"""Merging: what workers changed becomes pending here, with no value passing through this machine.

The invariants: receipts are taken in together, in one transaction of the journal, or none of them is. A key has
one operation: where two receipts, or a receipt and what is pending here, have changed it, the caller decides, or
nothing is taken in. A receipt that was taken in once is not taken in again.

That is remembered in the journal alone. Where another machine, or one that lost its journal, merges a receipt
that was pushed already, its operations are what the remote has and drop out at the push, or are conflicts by key.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from contextlib import closing
from dataclasses import dataclass

from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.fork import ChangedRow
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
from ebooklet_tx.locks.process_identity import writer_name
from ebooklet_tx.sync.forks.change_lists import ChangeLists
from ebooklet_tx.sync.forks.claims import Claim, Decision, Decode, conflict_error, decide_claims
from ebooklet_tx.sync.forks.receipt import Receipt
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
    claims: dict[str, list[Claim]] = {}
    with closing(ChangeLists()) as lists:
        for _ in range(MAX_TRIES):
            reader.local.commit()
            # Another thread may have taken one of them in meanwhile.
            known = read_merged(journal).receipts
            wanted = [receipt for name, receipt in unique.items() if name not in known]
            lists.read(reader.remote, wanted)
            if any(receipt.base_seq > read_base(journal).seq for receipt in wanted):
                reader.pull()
            if claims and on_conflict == "raise":
                raise conflict_error(reader, decode, claims)
            decisions = {
                key: decide_claims(reader, decode, encode, key, claims[key], on_conflict) for key in claims
            }
            try:
                sets, deletes = _take(reader, wanted, lists, claims, decisions)
            except _TryAgainError as again:
                claims = _claims(reader, wanted, lists, again.undecided)
                continue
            read_bytes = sum(size for receipt in wanted for _, _, size, _ in receipt.objects)
            counts = len(wanted), len(receipts) - len(wanted), sets, deletes, len(decisions)
            return MergeResult(*counts, read_bytes)
    raise InvalidArgumentError(
        "another thread kept writing keys that were to be merged; nothing was merged, try again",
        operation="merge",
    )


class _TryAgainError(Exception):
    """Nothing was taken in, as what is pending or merged here is not what was looked at before.

    Attributes:
        undecided: The keys that were changed twice, and about which is to be decided (anew).
    """

    def __init__(self, undecided: Set[str] = frozenset()) -> None:
        super().__init__(undecided)
        self.undecided = undecided


def _claims(
    reader: Reader, receipts: Sequence[Receipt], lists: ChangeLists, keys: Set[str]
) -> dict[str, list[Claim]]:
    """Returns the changes of some keys, each key's in order: what is pending here first."""
    if not keys:
        return {}
    journal = reader.local.journal
    merged = read_merged(journal)
    with journal.reading() as raw:
        pending = pending_among(raw, sorted(keys))
    found: dict[str, list[Claim]] = {key: [] for key in sorted(keys)}
    for key, number in pending.items():
        worker = merged.worker_of(number) or f"this session ({writer_name()})"
        found[key].append(Claim(worker, None, number))
    for receipt in receipts:
        for page in lists.pages(receipt):
            for row in page:
                if row.row.key in found:
                    found[row.row.key].append(Claim(receipt.worker, row, receipt_id=receipt.receipt_id))
    # What another thread has pushed or discarded since leaves one change alone.
    return {key: claims for key, claims in found.items() if len(claims) > 1}


def _take(
    reader: Reader,
    receipts: Sequence[Receipt],
    lists: ChangeLists,
    claims: dict[str, list[Claim]],
    decisions: dict[str, Decision],
) -> tuple[int, int]:
    """Makes operations of what receipts say; returns how many set a key and how many delete one.

    Each page of rows is held against what is pending by then: that shows what is pending here and what a receipt
    before it has changed, with no list of all keys.

    Raises:
        _TryAgainError: Keys were changed twice without a decision, or another thread has taken a receipt in
            meanwhile; nothing was taken in.
    """
    journal, stamp = reader.local.journal, now_us()
    seen = {key: items[0].number for key, items in claims.items() if items[0].row is None}
    sets = deletes = 0
    with journal.transaction() as transaction:
        raw = driver(transaction)
        # Within the transaction: another thread may have committed since, and written more.
        overlay = reader.local.overlay.operations
        merged = read_merged(journal)
        if any(receipt.receipt_id in merged.receipts for receipt in receipts):
            raise _TryAgainError
        if pending_among(raw, list(claims)) != seen:
            raise _TryAgainError(claims.keys())
        changed_twice: set[str] = set()
        numbering = Numbering(raw)
        for receipt in receipts:
            first = numbering.next()
            for page in lists.pages(receipt):
                keys = [row.row.key for row in page]
                taken = pending_among(raw, keys)
                changed_twice.update(
                    key for key in keys if (key in taken and key not in decisions) or key in overlay
                )
                rows = [
                    _merged_row(row)
                    for row in page
                    if _stays(receipt, row, decisions) and row.row.key not in changed_twice
                ]
                record_merged(raw, numbering, rows, base_at=receipt.base_commit_id, begun_at_us=stamp)
                deleted = sum(row.digest is None for row in rows)
                sets, deletes = sets + len(rows) - deleted, deletes + deleted
            last = numbering.next()
            merged.receipts[receipt.receipt_id] = MergedReceipt(receipt.fork_id, receipt.worker, first, last)
        if changed_twice:
            raise _TryAgainError(changed_twice)
        numbering.note()
        for key, decision in decisions.items():
            if decision.resolution is not None:
                stage_value(raw, key, decision.resolution.value, stamp)
        write_merged(transaction, merged)
    return sets, deletes


def _stays(receipt: Receipt, row: ChangedRow, decisions: dict[str, Decision]) -> bool:
    decision = decisions.get(row.row.key)
    return decision is None or decision.claim.receipt_id == receipt.receipt_id


def _merged_row(item: ChangedRow) -> MergedRow:
    row = item.row
    return MergedRow(
        row.key, row.timestamp_us, row.digest, item.base, item.ref, row.offset_bytes, row.length_bytes
    )


__all__ = ["MergeResult", "merge"]
