"""What a push reads of the journal: how much is pending, the values to send, the rows of its commit.

The invariant: operations are told apart by their numbers. Those up to a number can become fewer while a push is
at work, when keys are written again, but never others; so the same count is the same set. Memory does not follow
their number: values come in the order of their numbers, which is about the order of the file, rows in the order
of key.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple, TypeAlias

from ebooklet_tx.errors import JournalDamagedError
from ebooklet_tx.local.journal.entries import pending_index_count, pending_term
from ebooklet_tx.local.journal.integrity.row_checks import misplaced
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.known import note_knows_pending
from ebooklet_tx.local.journal.operations import Numbering
from ebooklet_tx.local.journal.schema import BASE_AS_NOW, IS_REMOTE, SOUND_ROW
from ebooklet_tx.local.journal.sqlite_errors import sqlite_errors
from ebooklet_tx.records import ObjectRef

_ROWS_AT_ONCE = 2000

_TOTALS = f"""
SELECT count(*), coalesce(sum(pending = 1), 0), coalesce(sum(pending = 2), 0),
  coalesce(sum(CASE pending WHEN 1 THEN pending_length_bytes END), 0),
  coalesce(sum(CASE WHEN key != '' THEN (pending = 1) -
    (CASE WHEN known THEN remote_digest WHEN {BASE_AS_NOW} THEN base_digest END IS NOT NULL) END), 0),
  coalesce(sum(CASE WHEN pending = 1 AND NOT {IS_REMOTE} THEN pending_length_bytes END), 0),
  coalesce(max(CASE WHEN pending = 1 AND NOT {IS_REMOTE} THEN pending_length_bytes END), 0),
  coalesce(max(pending_number), 0), coalesce(sum(pending = 1 AND NOT {IS_REMOTE}), 0),
  coalesce(max(NOT known AND NOT ({BASE_AS_NOW})), 0)
FROM entry WHERE {{pending}} AND pending_number <= ?
"""

_VALUES = f"""
SELECT key, CASE WHEN {SOUND_ROW} THEN pending_number END, pending_digest, pending_timestamp_us,
  pending_length_bytes, CASE WHEN local_digest = pending_digest THEN local_offset_bytes END
FROM entry
WHERE {{pending}} AND pending = 1 AND pending_number <= ? AND NOT {IS_REMOTE} {{but}}
"""
_BY_NUMBER = f"{_VALUES} ORDER BY pending_number"
_BY_KEY = f"{_VALUES} AND key > ? ORDER BY key LIMIT ?"
_FIRST_BY_KEY = _BY_KEY.replace("key > ?", "key >= ?")
_NUMBERS = "SELECT pending_number FROM entry WHERE {pending} AND pending_number <= ? ORDER BY key {way} LIMIT ?"

_BUT_SENT = """
  AND NOT EXISTS (SELECT 1 FROM place AS p JOIN upload AS u ON u.object = p.object
                  WHERE p.number = pending_number AND u.etag IS NOT NULL)
"""

_GLANCE = """
SELECT coalesce(sum(length_bytes), 0), coalesce(max(length_bytes), 0)
FROM (SELECT pending_length_bytes AS length_bytes FROM entry WHERE pending != 0 LIMIT 1000)
"""

_ROWS = f"""
SELECT key, pending, pending_timestamp_us, pending_digest, pending_length_bytes, pending_number,
  CASE WHEN {IS_REMOTE} THEN remote_object ELSE p.object END,
  CASE WHEN {IS_REMOTE} THEN remote_offset_bytes ELSE p.offset_bytes END, {SOUND_ROW}
FROM entry LEFT JOIN place AS p ON p.number = pending_number
WHERE {{pending}} AND pending_number <= ? AND key > ? ORDER BY key LIMIT ?
"""
_FIRST_ROWS = _ROWS.replace("key > ?", "key >= ?")


@dataclass(frozen=True, slots=True)
class PushPlan:
    """What a push is to commit.

    Attributes:
        last_number: The number of the last operation in it.
        count: How many operations it has.
        set_count: How many of them set a key.
        deleted_count: How many delete one.
        value_bytes: The encoded bytes of what is set.
        key_change: How many keys more, or fewer, the database has after it.
        new_bytes: The bytes of those values that the remote does not have.
        largest_bytes: Those of the largest of them.
        new_count: How many they are.
        term: The SQL by which a statement on all of them finds them.
    """

    last_number: int
    count: int
    set_count: int
    deleted_count: int
    value_bytes: int
    key_change: int
    new_bytes: int
    largest_bytes: int
    new_count: int
    term: str


class ValueToSend(NamedTuple):
    """A pending value that is to be sent; `offset_bytes` is its place in the Booklet file, if it is there."""

    key: str
    number: int
    digest: bytes
    timestamp_us: int
    length_bytes: int
    offset_bytes: int | None


SendRow: TypeAlias = tuple[str, int, bytes, int, int, "int | None"]
"""A `ValueToSend` as SQLite has it; where there may be a million, no better one is made of each."""


class PendingRow(NamedTuple):
    """What a commit says of one key: a tombstone, a value in an object, or, without one, a value inline."""

    key: str
    pending: int
    timestamp_us: int
    digest: bytes | None
    length_bytes: int | None
    number: int
    object: int | None
    offset_bytes: int | None


CommitRow: TypeAlias = tuple[Any, ...]
"""A `PendingRow` as SQLite has it, with whether it is as it was written behind it."""


def read_plan(journal: Journal, *, last_number: int | None = None) -> PushPlan:
    """Returns what is pending, up to a number if one is given.

    Right once the remote state of every pending key is known: see `known.keys_to_look_up`. Whether each row is as
    it was written is found out by `pages_to_send` and `pages_to_commit`.

    Raises:
        JournalDamagedError: Some of it is not found.
    """
    if last_number is not None:
        row, _, term = _totals(journal, last_number)
        return PushPlan(*(last_number, *row[:7], row[8], term))
    row, indexed, term = _totals_once(journal)
    if indexed != row[0]:
        raise misplaced(journal.path, f"{indexed} keys are pending, and {row[0]} are found")
    return PushPlan(*(row[7], *row[:7], row[8], term))


def look_over(journal: Journal) -> None:
    """Finds out in one pass what `read_plan` and `knows_pending` say while nothing is written."""
    with journal.mutex:
        row, _, _ = _totals_once(journal)
        note_knows_pending(journal, not row[9])


def _totals_once(journal: Journal) -> tuple[Any, int, str]:
    return journal.found_once("totals of what is pending", lambda: _totals(journal, 2**62))


def _totals(journal: Journal, last_number: int) -> tuple[Any, int, str]:
    with journal.mutex, sqlite_errors(journal.path):
        term = pending_term(journal.raw)
        row = journal.raw.execute(_TOTALS.format(pending=term), (last_number,)).fetchone()
        return row, pending_index_count(journal), term


def glance_at_bytes(journal: Journal) -> tuple[int, int]:
    """Returns how many bytes the values of the first thousand operations have, and the largest of them."""
    ((total, most),) = journal.rows(_GLANCE)
    return total, most


def count_left(raw: sqlite3.Connection, plan: PushPlan) -> int:
    """Returns how many operations of a plan are still pending."""
    query = f"SELECT count(*) FROM entry WHERE {plan.term} AND pending_number <= ?"
    return int(raw.execute(query, (plan.last_number,)).fetchone()[0])


def amount_sent(journal: Journal, plan: PushPlan) -> tuple[int, int]:
    """Returns of how many of the new values of a plan, and of how many bytes of them, an object has arrived."""
    with journal.mutex, sqlite_errors(journal.path):
        if journal.raw.execute("SELECT 1 FROM place LIMIT 1").fetchone() is None:
            return 0, 0
        values = _VALUES.format(pending=plan.term, but=_BUT_SENT)
        query = f"SELECT count(*), coalesce(sum(pending_length_bytes), 0) FROM ({values})"
        keys, byte_count = journal.raw.execute(query, (plan.last_number,)).fetchone()
    # Some may have been written again since.
    return max(plan.new_count - int(keys), 0), max(plan.new_bytes - int(byte_count), 0)


def pages_to_send(journal: Journal, plan: PushPlan) -> Iterator[list[SendRow]]:
    """Yields the values that no object has which has arrived, page by page, in about the order of the file.

    Raises:
        JournalDamagedError: A row is not as it was written.
    """
    with journal.mutex, sqlite_errors(journal.path):
        sent = journal.raw.execute("SELECT 1 FROM place LIMIT 1").fetchone() is not None
        is_by_key = _is_by_key(journal.raw, plan)
    but = _BUT_SENT if sent else ""
    for rows in _by_key(journal, plan, but) if is_by_key else _by_number(journal, plan, but):
        if None in map(itemgetter(1), rows):
            raise _altered(journal, next(row[0] for row in rows if row[1] is None))
        yield rows


def _is_by_key(raw: sqlite3.Connection, plan: PushPlan) -> bool:
    """Whether the order of key seems to be that of the numbers: it costs no sort. A wrong guess costs reads."""
    ends: list[list[int]] = []
    for way in ("ASC", "DESC"):
        query = _NUMBERS.format(pending=plan.term, way=way)
        ends.append([number for (number,) in raw.execute(query, (plan.last_number, _ROWS_AT_ONCE))])
    first, last = ends[0], ends[1][::-1]
    return first == sorted(first) and last == sorted(last) and first[:1] <= last[:1]


def _by_key(journal: Journal, plan: PushPlan, but: str) -> Iterator[list[SendRow]]:
    query, after = _FIRST_BY_KEY.format(pending=plan.term, but=but), ""
    while rows := journal.rows(query, (plan.last_number, after, _ROWS_AT_ONCE)):
        yield rows
        query, after = _BY_KEY.format(pending=plan.term, but=but), rows[-1][0]


def _by_number(journal: Journal, plan: PushPlan, but: str) -> Iterator[list[SendRow]]:
    with journal.mutex, sqlite_errors(journal.path):
        # The sort takes a file, not memory in proportion.
        (before,) = journal.raw.execute("PRAGMA temp_store").fetchone()
        journal.raw.execute("PRAGMA temp_store = FILE")
        try:
            cursor = journal.raw.cursor()
            cursor.execute(_BY_NUMBER.format(pending=plan.term, but=but), (plan.last_number,))
            rows = cursor.fetchmany(_ROWS_AT_ONCE)
        finally:
            journal.raw.execute(f"PRAGMA temp_store = {before}")
    try:
        while rows:
            yield rows
            with journal.mutex, sqlite_errors(journal.path):
                rows = cursor.fetchmany(_ROWS_AT_ONCE)
    finally:
        # Of a push that was cut short this is left to the collector, maybe when the journal is closed.
        with suppress(sqlite3.ProgrammingError):
            cursor.close()


def pages_to_commit(journal: Journal, plan: PushPlan) -> Iterator[list[CommitRow]]:
    """Yields what the operations of a plan say, in the order of key, page by page.

    Raises:
        JournalDamagedError: A row is not as it was written.
    """
    query, after = _FIRST_ROWS, ""
    while True:
        rows = journal.rows(query.format(pending=plan.term), (plan.last_number, after, _ROWS_AT_ONCE))
        if not all(map(itemgetter(8), rows)):
            raise _altered(journal, next(row[0] for row in rows if not row[8]))
        if rows:
            yield rows
        if len(rows) < _ROWS_AT_ONCE:
            return
        query, after = _ROWS, rows[-1][0]


def _altered(journal: Journal, key: object) -> JournalDamagedError:
    return misplaced(journal.path, f"the row of {key!r} is not as it was written")


def objects_by_number(journal: Journal, numbers: Iterable[int]) -> dict[int, ObjectRef]:
    """Returns remote objects by their numbers in the journal."""
    found: dict[int, ObjectRef] = {}
    for number in numbers:
        rows = journal.rows("SELECT name, etag, size_bytes FROM remote_object WHERE id = ?", (number,))
        if rows:
            found[number] = ObjectRef(*rows[0])
    return found


def postpone(raw: sqlite3.Connection, keys: Iterable[str]) -> None:
    """Gives operations new numbers, so that they are not among those up to the last one."""
    numbering = Numbering(raw)
    numbered = [(numbering.next(), key) for key in keys]
    # What was sent of them stays theirs: of a value that a fork brought there is no other copy.
    raw.executemany(
        "UPDATE place SET number = ? "
        "WHERE number = (SELECT pending_number FROM entry WHERE key = ? AND pending != 0)",
        numbered,
    )
    raw.executemany("UPDATE entry SET pending_number = ? WHERE key = ? AND pending != 0", numbered)
    numbering.note()


__all__ = [
    "CommitRow",
    "PendingRow",
    "PushPlan",
    "SendRow",
    "ValueToSend",
    "count_left",
    "glance_at_bytes",
    "look_over",
    "objects_by_number",
    "pages_to_commit",
    "pages_to_send",
    "postpone",
    "read_plan",
]
