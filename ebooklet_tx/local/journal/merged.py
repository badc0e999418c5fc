"""What was merged from forks: receipts that were taken in, and operations whose values are in the remote alone.

Owns the fact `merged` of the meta table. The invariant: an operation that a receipt brought has, until it is
pushed or given up, a row of `place` in an upload that has arrived; the upload's name tells of which fork it is.
Uploads of forks are therefore kept when a commit drops those of this machine, while an operation needs them.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ebooklet_tx.local.journal.integrity.row_checks import decoding, location_of
from ebooklet_tx.local.journal.journal import MERGED, Journal, Transaction, put_meta
from ebooklet_tx.local.journal.known import in_parts, object_numbers
from ebooklet_tx.local.journal.operations import BASE_SAID, Numbering, save_pushed
from ebooklet_tx.records import ObjectRef

KEPT_RECEIPTS = 5000
"""Receipts that are remembered; the oldest are forgotten first."""

_MERGE = f"""
INSERT INTO entry(key, pending, pending_digest, pending_timestamp_us, pending_length_bytes, pending_number,
  known, base_kind, base_at, base_digest)
VALUES (?, ?, ?, ?, ?, ?, 0, {BASE_SAID}, ?, ?)
ON CONFLICT(key) DO UPDATE SET pending = excluded.pending, pending_digest = excluded.pending_digest,
  pending_timestamp_us = excluded.pending_timestamp_us, pending_length_bytes = excluded.pending_length_bytes,
  pending_number = excluded.pending_number, base_kind = excluded.base_kind, base_at = excluded.base_at,
  base_digest = excluded.base_digest, base_seq = NULL, base_timestamp_us = NULL, base_object = NULL,
  base_offset_bytes = NULL, base_length_bytes = NULL
"""


class MergedRow(NamedTuple):
    """What a receipt says of one key: a value in a pack, or without a digest a deletion.

    Attributes:
        base: The digest that the key had at the fork's base; None where it was not there.
    """

    key: str
    timestamp_us: int
    digest: bytes | None
    base: bytes | None
    ref: ObjectRef | None
    offset_bytes: int | None
    length_bytes: int | None


class MergedReceipt(NamedTuple):
    """A receipt that was taken in, and the numbers of the operations that it brought."""

    fork_id: str
    worker: str
    first_number: int
    last_number: int


@dataclass(slots=True)
class Merged:
    """The receipts that were taken in, by their ids, the oldest first."""

    receipts: dict[str, MergedReceipt] = field(default_factory=dict)

    def worker_of(self, number: int) -> str | None:
        """Returns whose operation a number is; None where it is one of this machine."""
        for receipt in self.receipts.values():
            if receipt.first_number <= number <= receipt.last_number:
                return receipt.worker
        return None

    @property
    def fork_ids(self) -> list[str]:
        """The forks that they are of."""
        return list(dict.fromkeys(receipt.fork_id for receipt in self.receipts.values()))


def read_merged(journal: Journal) -> Merged:
    """Returns what was taken in.

    Raises:
        JournalDamagedError: It can't be decoded.
    """
    text = journal.get_meta(MERGED)
    if not text:
        return Merged()
    with decoding(journal.path, "which receipts were merged"):
        return Merged({name: MergedReceipt(*item) for name, item in json.loads(text).items()})


def write_merged(transaction: Transaction, merged: Merged) -> None:
    """Notes what was taken in."""
    kept = list(merged.receipts.items())[-KEPT_RECEIPTS:]
    put_meta(transaction, {MERGED: json.dumps(dict(kept), separators=(",", ":"))})


def pending_among(raw: sqlite3.Connection, keys: Sequence[str]) -> dict[str, int]:
    """Returns those of some keys that have an operation, each with its number."""
    found: dict[str, int] = {}
    for some, marks in in_parts(keys):
        query = f"SELECT key, pending_number FROM entry WHERE pending != 0 AND key IN ({marks})"
        found.update(raw.execute(query, some))
    return found


def record_merged(
    raw: sqlite3.Connection, numbering: Numbering, rows: Sequence[MergedRow], *, base_at: str, begun_at_us: int
) -> None:
    """Makes operations of what a receipt says of some keys, in the place of any that they had.

    Args:
        raw: The connection of a transaction.
        numbering: Gives the operations their numbers; its caller notes the last one.
        rows: What the receipt says.
        base_at: The id of the commit that the fork was made on.
        begun_at_us: When they were taken in.
    """
    save_pushed(raw, [row.key for row in rows])
    numbers = {row.key: numbering.next() for row in rows}
    raw.executemany(
        _MERGE,
        [
            (
                row.key,
                2 if row.digest is None else 1,
                row.digest,
                row.timestamp_us,
                None if row.digest is None else row.length_bytes,
                numbers[row.key],
                base_at,
                row.base,
            )
            for row in rows
        ],
    )
    refs = {row.ref.name: row.ref for row in rows if row.ref is not None}
    objects = object_numbers(raw, refs.values())
    raw.executemany(
        "INSERT INTO upload(object, name, size_bytes, etag, begun_at_us) VALUES (?, ?, ?, ?, ?) "
        "ON CONFLICT(name) DO NOTHING",
        [(objects[ref.name, ref.etag], ref.name, ref.size_bytes, ref.etag, begun_at_us) for ref in refs.values()],
    )
    raw.executemany(
        "INSERT OR REPLACE INTO place(number, object, offset_bytes) VALUES (?, ?, ?)",
        [
            (numbers[row.key], objects[row.ref.name, row.ref.etag], row.offset_bytes)
            for row in rows
            if row.ref is not None
        ],
    )


# -- packs of forks ------------------------------------------------------------------------------


def needed_packs(journal: Journal) -> dict[str, list[ObjectRef]]:
    """Returns the packs that operations still need, by the forks that they are of."""
    merged = read_merged(journal)
    found: dict[str, list[ObjectRef]] = {}
    if merged.receipts:
        rows = journal.rows(
            "SELECT name, etag, size_bytes FROM upload WHERE etag IS NOT NULL AND digest IS NULL AND object IN "
            "(SELECT object FROM place WHERE number IN (SELECT pending_number FROM entry WHERE pending != 0))"
        )
        by_prefix = {fork_id[:16]: fork_id for fork_id in merged.fork_ids}
        for row in rows:
            fork_id = by_prefix.get(row[0][5:21])
            if fork_id is not None:
                found.setdefault(fork_id, []).append(ObjectRef(*row))
    return found


def packs_of_forks(raw: sqlite3.Connection) -> set[str]:
    """Returns the uploads that forks brought, by name."""
    row = raw.execute("SELECT value FROM meta WHERE name = ?", (MERGED,)).fetchone()
    if row is None:
        return set()
    with decoding(location_of(raw), "which receipts were merged"):
        prefixes = {MergedReceipt(*item).fork_id[:16] for item in json.loads(row[0]).values()}
    return {name for (name,) in raw.execute("SELECT name FROM upload") if name[5:21] in prefixes}


__all__ = [
    "Merged",
    "MergedReceipt",
    "MergedRow",
    "needed_packs",
    "packs_of_forks",
    "pending_among",
    "read_merged",
    "record_merged",
    "write_merged",
]
