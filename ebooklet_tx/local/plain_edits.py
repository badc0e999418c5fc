"""What plain booklet did to a file, as distinct from an older copy of the file and from damage.

The invariant: a key counts as deleted only where its block lies dead at the recorded place, in
a file that continues the recorded one; what is missing without that trace keeps its key and loses only its
local copy. Likewise a value that differs counts as set only where it can't be an older one.

Booklet's own operations append blocks, mark a block dead, and overwrite a timestamp, each where the journal
can see it. Its `prune` moves every block, and its `clear` cuts the file off: after them nothing tells a
deleted key from one that an older file, restored from a backup, did not have yet.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ebooklet_tx.limits import MAX_TIMESTAMP_US, METADATA_KEY_BYTES, RESERVED_KEYS
from ebooklet_tx.local.booklet.layout import BLOCK_HEAD_BYTES, Block, Scan, parse_header
from ebooklet_tx.local.booklet.value_file import ValueFile
from ebooklet_tx.local.commit import Copy, record_gone, record_places
from ebooklet_tx.local.journal.entries import (
    PENDING_NONE,
    PENDING_SET,
    Entry,
    entries_of,
    entries_where,
    find_entry,
)
from ebooklet_tx.local.journal.journal import MISSING_KEYS, Journal, driver, put_meta
from ebooklet_tx.local.journal.known import lose_bases
from ebooklet_tx.local.journal.operations import (
    ADOPTED,
    DROP_EMPTY,
    IN_DOUBT,
    adopt,
    base_on_copies,
    record_deletes,
    record_sets,
)
from ebooklet_tx.local.journal.staged import held_value
from ebooklet_tx.records import METADATA_KEY, digest_of
from ebooklet_tx.timestamps import now_us

_EMPTY_DIGEST = digest_of(b"")
_KEYS_AT_ONCE = 500


@dataclass(slots=True)
class Edits:
    """What a Booklet file holds that its journal does not say.

    Attributes:
        sets: (key, digest, timestamp, length) of what was set.
        adopted: Keys of those sets of which timestamps decide: the journal has no entry of them, and the file may
            be older than the deletes that removed it.
        deletes: (key, timestamp) of what was deleted.
        places: Copies of values that the journal has elsewhere or not at all, each with its offset in the file.
        gone: Keys whose local copies are no more.
        continued: Whether the file went on from the recorded one, by what leaves a trace.
        missing: What the journal says of those of `gone` that may have been deleted, or may lie in a newer file.
        outdated: Keys whose values here are none of the journal's, and may be older.
        damaged: Keys whose local copies were damaged.
        lost: Keys of pending values of which no other copy is on this machine.
    """

    sets: list[tuple[str, bytes, int, int]] = field(default_factory=list)
    adopted: list[str] = field(default_factory=list)
    deletes: list[tuple[str, int]] = field(default_factory=list)
    places: list[tuple[Copy, int]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    continued: bool = True
    missing: list[Entry] = field(default_factory=list)
    outdated: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


def find_edits(file: ValueFile, journal: Journal, scan: Scan) -> Edits:
    """Compares a file with its journal; nothing is changed.

    Where the file is damaged, a key that is missing from it was not necessarily deleted, so then
    nothing is deleted; what has lost its bytes loses its local place. Nor is every live block then
    an edit: one that lies where the journal knows of none, and to which the index does not lead,
    may be a deleted one that damage has brought back.
    """
    facts = journal.all_meta()
    known = {entry.key: entry for entry in entries_where(journal, "local_digest IS NOT NULL")}
    edits = Edits(continued=_is_continued(file, facts, known, scan))
    recorded_bytes = int(facts.get("file_length_bytes") or 0)
    # Whatever was set since then without a timestamp of the user's own is newer.
    newer_than_us = 0 if edits.continued else int(facts.get("file_mtime_ns") or 0) // 1000
    for raw_key, block in scan.live.items():
        if raw_key in RESERVED_KEYS and raw_key != METADATA_KEY_BYTES:
            continue
        try:
            key = METADATA_KEY if raw_key == METADATA_KEY_BYTES else raw_key.decode()
        except UnicodeDecodeError:
            scan.damage.append(f"the key {raw_key!r} is no text")
            continue
        placed = known.get(key)
        if placed is not None and _same_place(placed, block):
            del known[key]
            continue
        entry = placed or find_entry(journal, key)
        at = block.position_bytes
        trusted = not scan.damage or at in scan.reached or at >= recorded_bytes
        if at in scan.unconfirmed and entry is not None:
            trusted = False
        if _compare_block(file, journal, entry, key, block, edits, newer_than_us, trusted=trusted):
            known.pop(key, None)
    for entry in known.values():
        if not scan.damage or not _still_readable(file, entry):
            _note_gone(journal, entry, scan, edits)
    return edits


def record_edits(journal: Journal, edits: Edits) -> None:
    """Makes pending operations of what was found, in one transaction."""
    with journal.transaction() as connection:
        raw = driver(connection)
        record_sets(raw, edits.sets)
        base_seq = _base_seq(raw)
        adopt(raw, edits.adopted, base_seq=base_seq)
        if edits.adopted and base_seq:
            put_meta(connection, {ADOPTED: 1})
        clean = _clean_among(raw, [key for key, _ in edits.deletes])
        record_deletes(raw, edits.deletes)
        base_on_copies(raw, clean)
        record_gone(raw, edits.gone)
        record_places(raw, edits.places)
        raw.execute(DROP_EMPTY)
        if edits.missing:
            put_meta(connection, {MISSING_KEYS: _packed(_base_seq(raw), edits.missing)})


def _clean_among(raw: sqlite3.Connection, keys: list[str]) -> list[str]:
    """Returns those of some keys that have no operation: one that they have keeps the base that it came with."""
    parts = (keys[start : start + _KEYS_AT_ONCE] for start in range(0, len(keys), _KEYS_AT_ONCE))
    return [entry.key for some in parts for entry in entries_of(raw, some) if entry.pending == PENDING_NONE]


def _base_seq(raw: sqlite3.Connection) -> int:
    row = raw.execute("SELECT value FROM meta WHERE name = 'base_seq'").fetchone()
    return 0 if row is None else int(row[0])


def _noted_seq(raw: sqlite3.Connection) -> int:
    row = raw.execute("SELECT value FROM meta WHERE name = ?", (MISSING_KEYS,)).fetchone()
    return 0 if row is None else int(json.loads(zlib.decompress(row[0]))["base_seq"])


def _packed(base_seq: int, missing: list[Entry]) -> bytes:
    """Notes keys with what they had, so that what is written since can be told."""
    pending = {entry.key: _pending_value(entry) for entry in missing if entry.pending == PENDING_SET}
    note = {"base_seq": base_seq, "keys": [entry.key for entry in missing], "pending": pending}
    return zlib.compress(json.dumps(note).encode())


def _pending_value(entry: Entry) -> list[object]:
    return [entry.timestamp_us, (entry.digest or b"").hex()]


def missing_keys(raw: sqlite3.Connection) -> list[str]:
    """Returns the keys whose deletion can still be accepted.

    They were missing from a file that may have been an older one, and were not written since.
    """
    row = raw.execute("SELECT value FROM meta WHERE name = ?", (MISSING_KEYS,)).fetchone()
    if row is None:
        return []
    note = json.loads(zlib.decompress(row[0]))
    keys, pending, found = note["keys"], note["pending"], []
    for start in range(0, len(keys), _KEYS_AT_ONCE):
        some = keys[start : start + _KEYS_AT_ONCE]
        entries = {entry.key: entry for entry in entries_of(raw, some)}
        for key in some:
            entry = entries.get(key)
            if entry is None or not entry.is_decided:
                # Whether it was written since by another writer is found out before the push.
                stands = key not in pending
            elif entry.pending == PENDING_NONE:
                stands = entry.digest is not None and (entry.remote_seq or 0) <= note["base_seq"]
            else:
                stands = entry.pending == PENDING_SET and pending.get(key) == _pending_value(entry)
            if stands:
                found.append(key)
    return found


def accept_deletes(journal: Journal) -> tuple[list[str], bool]:
    """Makes pending deletes of the keys that `missing_keys` returns; durable when it returns them.

    Returns:
        The keys, and whether the base has moved since they were found missing: another writer may have written
        some of them since, which shows as a conflict.
    """
    stamp = now_us()
    with journal.transaction() as connection:
        raw = driver(connection)
        keys = missing_keys(raw)
        record_deletes(raw, ((key, stamp) for key in keys))
        noted, now = _noted_seq(raw), _base_seq(raw)
        if noted != now:
            # Their bases are what the remote had then: the same as now where it has not changed since.
            lose_bases(raw, keys, seq=noted)
            put_meta(connection, {IN_DOUBT: 1})
        put_meta(connection, {MISSING_KEYS: None})
    return keys, noted != now


def _is_continued(file: ValueFile, facts: dict[str, Any], known: dict[str, Entry], scan: Scan) -> bool:
    """True where booklet can have made the file from the recorded one by steps that leave a trace.

    Every recorded block then lies in its place, live or dead, and every live one that is not
    recorded lies behind them. Damage that hides a block contradicts nothing.
    """
    recorded_bytes = facts.get("file_length_bytes")
    if recorded_bytes is None:
        return True
    if facts.get("file_generation") != file.generation or file.state().length_bytes < recorded_bytes:
        return False
    recorded = parse_header(facts.get("file_header") or b"")
    if recorded is not None and recorded.append_number != file.header.append_number:
        # A session of ours has appended to one of the two alone.
        return False
    found = {block.position_bytes: block for block in (*scan.live.values(), *scan.dead.values())}
    for entry in known.values():
        block = found.pop(_position_of(entry), None)
        if block is None:
            if not scan.damage:
                return False
        elif block.key != _raw_key(entry.key) or block.value_length_bytes != entry.local_length_bytes:
            return False
    return not any(_contradicts(block, recorded_bytes, scan) for block in found.values())


def _contradicts(block: Block, recorded_bytes: int, scan: Scan) -> bool:
    """True of a block that booklet can't have written behind the recorded ones."""
    if not block.live or block.position_bytes >= recorded_bytes or not _is_users(block.key):
        return False
    return not scan.damage or block.position_bytes in scan.reached


def _is_users(raw_key: bytes) -> bool:
    if raw_key in RESERVED_KEYS:
        return raw_key == METADATA_KEY_BYTES
    try:
        raw_key.decode()
    except UnicodeDecodeError:
        return False
    return True


def _raw_key(key: str) -> bytes:
    return METADATA_KEY_BYTES if key == METADATA_KEY else key.encode()


def _position_of(entry: Entry) -> int:
    return (entry.local_offset_bytes or 0) - BLOCK_HEAD_BYTES - len(_raw_key(entry.key))


def _compare_block(
    file: ValueFile,
    journal: Journal,
    entry: Entry | None,
    key: str,
    block: Block,
    edits: Edits,
    newer_than_us: int,
    *,
    trusted: bool,
) -> bool:
    """Decides what a block that is not where the journal says means: a move, an edit, or old news.

    Returns:
        Whether the block holds the key's local value now; one that is not trusted does so only by its
        digest.
    """
    length = block.value_length_bytes
    digest = digest_of(file.read(block.value_offset_bytes, length))
    if not trusted and (entry is None or digest != entry.local_digest):
        return False
    edits.places.append(((key, block.timestamp_us, digest, length), block.value_offset_bytes))
    if entry is not None and _is_no_edit(entry, digest, block, edits, newer_than_us):
        if digest not in (entry.digest, entry.local_digest) and not edits.continued:
            edits.outdated.append(key)
            if entry.local_digest == entry.digest:
                _note_lost(journal, entry, edits)
        return True
    if entry is None and not edits.continued:
        edits.adopted.append(key)
    # Booklet's field holds more than a remote's index does.
    edits.sets.append((key, digest, min(block.timestamp_us, MAX_TIMESTAMP_US), length))
    return True


def _is_no_edit(entry: Entry, digest: bytes, block: Block, edits: Edits, newer_than_us: int) -> bool:
    if not edits.continued:
        # By its timestamp alone a value is no other one, and an older one may carry a later timestamp than
        # the one that replaced it.
        known = digest in (entry.digest, entry.local_digest)
        return known or block.timestamp_us <= max(entry.timestamp_us, newer_than_us)
    moved = digest == entry.local_digest and block.timestamp_us == entry.local_timestamp_us
    same = digest == entry.digest and block.timestamp_us == entry.timestamp_us
    # Who edited a file that did not show the newest value did not see what he replaced.
    unseen = entry.local_digest != entry.digest and block.timestamp_us <= entry.timestamp_us
    return moved or same or unseen


def _note_gone(journal: Journal, entry: Entry, scan: Scan, edits: Edits) -> None:
    """Decides what it means that no block of the file holds a key's local value."""
    edits.gone.append(entry.key)
    # A copy of which it is not known whether it is current is what the user saw.
    current = not entry.is_decided or entry.digest == entry.local_digest
    if scan.damage:
        edits.damaged.append(entry.key)
    elif edits.continued:
        if current:
            edits.deletes.append((entry.key, now_us()))
        return
    elif current:
        edits.missing.append(entry)
    if current:
        _note_lost(journal, entry, edits)


def _note_lost(journal: Journal, entry: Entry, edits: Edits) -> None:
    """Notes a key whose local copy was the only one of a value that is still to be pushed."""
    if entry.pending == PENDING_SET and entry.digest != entry.remote_digest and not _is_elsewhere(journal, entry):
        edits.lost.append(entry.key)


def _is_elsewhere(journal: Journal, entry: Entry) -> bool:
    """True where the journal itself holds the value that a reader of an entry sees."""
    digest = entry.digest
    if digest is None:
        return False
    return digest == _EMPTY_DIGEST or held_value(journal, entry.key, digest) is not None


def _same_place(entry: Entry, block: Block) -> bool:
    return (
        entry.local_offset_bytes == block.value_offset_bytes
        and entry.local_length_bytes == block.value_length_bytes
        and entry.local_timestamp_us == block.timestamp_us
    )


def _still_readable(file: ValueFile, entry: Entry) -> bool:
    value = file.read(entry.local_offset_bytes or 0, entry.local_length_bytes or 0)
    return digest_of(value) == entry.local_digest


__all__: Sequence[str] = ["Edits", "accept_deletes", "find_edits", "missing_keys", "record_edits"]
