"""Whether the rows that SQLite returns are those that were asked for.

SQLite trusts that each page of a b-tree lies where its parent says: of two pages in each other's
place each is sound, and lookups end in the wrong one. The invariant: a row is returned only for the key that
it carries, a key is called absent only where its neighbours agree about that, and what comes in order is in
order. Whatever else comes is damage.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import Error, JournalDamagedError
from ebooklet_tx.local.journal.schema import SOUND_ROW

PENDING_KINDS = frozenset({0, 1, 2})

LEAST_KEY, GREATEST_KEY = "least_key", "greatest_key"
"""Facts of the meta table: no part of a tree has both, so a part in the place of the whole is found out."""

LEAST_PENDING, GREATEST_PENDING = "least_pending_key", "greatest_pending_key"
"""Likewise, of the index of what is pending."""

ENDS = (LEAST_KEY, GREATEST_KEY, LEAST_PENDING, GREATEST_PENDING)

NO_ENTRY = f"((pending = 0 AND local_digest IS NULL) OR NOT {SOUND_ROW})"
"""SQL that is true of rows that no commit leaves in `entry`: what SQLite makes of an index's row, filled up, and
what is not as it was written."""

# In a sound tree the neighbours of what is absent are each other's. Each is looked up from the root again.
_NEIGHBOURS = """
WITH near(following, before) AS (
  SELECT (SELECT {key} FROM {table} WHERE {name} > :sought ORDER BY {name} LIMIT 1),
         (SELECT {key} FROM {table} WHERE {name} < :sought ORDER BY {name} DESC LIMIT 1))
SELECT EXISTS (SELECT 1 FROM {table} WHERE {name} = :sought), following, before,
       (SELECT {name} FROM {table} WHERE {name} < following ORDER BY {name} DESC LIMIT 1),
       (SELECT {name} FROM {table} WHERE {name} > before ORDER BY {name} LIMIT 1),
       (SELECT min({name}) FROM {table}), (SELECT max({name}) FROM {table}), {least}, {greatest}
FROM near
"""
_NEIGHBOURS_OF_ENTRY = _NEIGHBOURS.format(
    table="entry",
    name="key",
    key=f"CASE WHEN {NO_ENTRY} THEN x'' ELSE key END",
    least=f"(SELECT value FROM meta WHERE name = '{LEAST_KEY}')",
    greatest=f"(SELECT value FROM meta WHERE name = '{GREATEST_KEY}')",
)
_NEIGHBOURS_OF_FACT = _NEIGHBOURS.format(table="meta", name="name", key="name", least="NULL", greatest="NULL")
_LEAST_PENDING = "(SELECT key FROM entry WHERE pending != 0 ORDER BY key LIMIT 1)"
_GREATEST_PENDING = "(SELECT key FROM entry WHERE pending != 0 ORDER BY key DESC LIMIT 1)"


def _fact(name: str) -> str:
    return f"(SELECT value FROM meta WHERE name = '{name}')"


_ENDS = f"""
SELECT {_fact(LEAST_KEY)}, {_fact(GREATEST_KEY)}, {_fact(LEAST_PENDING)}, {_fact(GREATEST_PENDING)},
  (SELECT min(key) FROM entry), (SELECT max(key) FROM entry), {_LEAST_PENDING}, {_GREATEST_PENDING}
"""

PENDING_ENDS_FIT = (
    f"({_fact(LEAST_PENDING)} IS NULL OR {_fact(LEAST_PENDING)} = {_LEAST_PENDING}) IS 1 "
    f"AND ({_fact(GREATEST_PENDING)} IS NULL OR {_fact(GREATEST_PENDING)} = {_GREATEST_PENDING}) IS 1"
)
"""SQL that is true where the index of what is pending begins and ends as the last commit left it."""


def misplaced(path: Path, what: str) -> JournalDamagedError:
    """Returns what is raised where rows are not those that were asked for."""
    return JournalDamagedError(f"{path} is damaged ({what}); run recover, which sets it aside and rebuilds it")


def location_of(raw: sqlite3.Connection) -> Path:
    """Returns the path of the journal that a connection is to."""
    return Path(raw.execute("PRAGMA database_list").fetchone()[2])


@contextlib.contextmanager
def decoding(path: Path, what: str) -> Iterator[None]:
    """Takes a fact of the journal that can't be decoded for damage."""
    try:
        yield
    except Error:
        raise
    except (ValueError, TypeError, KeyError, zlib.error) as error:
        raise misplaced(path, f"{what}: {error}") from error


def is_absent(raw: sqlite3.Connection, path: Path, key: str) -> bool:
    """True where a key has no entry, and False where it has one by now.

    Raises:
        JournalDamagedError: Its neighbours are not each other's: the key may lie in a page that can't be found.
    """
    return _gap_at(raw, path, _NEIGHBOURS_OF_ENTRY, key) is not None


def gap_at(raw: sqlite3.Connection, path: Path, key: str) -> tuple[str | None, str | None] | None:
    """Likewise; returns the neighbours between which there is no entry, None where the key has one by now."""
    return _gap_at(raw, path, _NEIGHBOURS_OF_ENTRY, key)


def is_no_fact(raw: sqlite3.Connection, path: Path, name: str) -> bool:
    """Likewise, of a fact of the meta table."""
    return _gap_at(raw, path, _NEIGHBOURS_OF_FACT, name) is not None


def _gap_at(raw: sqlite3.Connection, path: Path, query: str, key: str) -> tuple[str | None, str | None] | None:
    there, following, before, before_following, after_before, *ends = raw.execute(
        query, {"sought": key}
    ).fetchone()
    if there:
        return None
    least, greatest, known_least, known_greatest = ends
    fits_following = greatest == before if following is None else before_following == before
    fits_before = least == following if before is None else after_before == following
    texts = all(one is None or isinstance(one, str) for one in (following, before))
    if (
        texts
        and known_least in (None, least)
        and known_greatest in (None, greatest)
        and fits_following
        and fits_before
        and (following is None or following > key)
        and (before is None or before < key)
    ):
        return before, following
    raise misplaced(path, f"a lookup of {key!r} ends between {before!r} and {following!r}")


def moved_ends(raw: sqlite3.Connection) -> dict[str, str | None]:
    """Returns the facts about the ends of the index that a transaction has changed."""
    row = raw.execute(_ENDS).fetchone()
    return {name: found for name, known, found in zip(ENDS, row[:4], row[4:], strict=True) if known != found}


def is_sound(row: Sequence[Any]) -> bool:
    """True of a row of `entry`, as `Entry` has it, that some commit may have left.

    Rows of an index have fewer columns, and SQLite fills up the rest: what they make is never left.
    """
    pending, seq, remote_stamp, local_digest = row[1], row[5], row[6], row[12]
    return (
        pending in PENDING_KINDS
        and type(row[15]) is int
        and (pending != 0 or local_digest is not None)
        and (seq is None or row[15] != 0)
        and (seq is None) == (remote_stamp is None)
        and _has_sound_kinds(*map(type, row[1:15]))
        and all(0 <= number <= _MOST_NUMBER for at in _PLACES if (number := row[at]) is not None)
    )


def is_sound_place(stamp: object, digest: object, offset_bytes: object, length_bytes: object) -> bool:
    """True of a timestamp, a digest and a place in a file that some commit may have left."""
    return (
        type(offset_bytes) is int
        and type(length_bytes) is int
        and type(digest) is bytes
        and (stamp is None or type(stamp) is int)
        and 0 <= offset_bytes <= _MOST_NUMBER
        and 0 <= length_bytes <= _MOST_NUMBER
    )


_MOST_NUMBER = 2**62
_NUMBERS = (2, 4, 5, 6, 8, 9, 10, 11, 13, 14)
_PLACES = (4, 9, 10, 13, 14)


@functools.cache
def _has_sound_kinds(*kinds: type) -> bool:
    """True of types that the columns of a row may have together, from `pending` on."""
    column = dict(enumerate(kinds, start=1))
    nothing = type(None)
    return (
        all(column[at] in (int, nothing) for at in _NUMBERS)
        and all(column[at] in (bytes, nothing) for at in (3, 7, 12))
        # A digest has a length, and what lies at an offset lies in an object.
        and not (column[7] is bytes and column[10] is nothing)
        and not (column[9] is int and column[8] is nothing)
        and not (column[12] is bytes and nothing in (column[13], column[14]))
    )


def check_order(path: Path, keys: Iterable[str], after: str | None = None) -> None:
    """Checks that keys come strictly in order, and behind one that came before them.

    Raises:
        JournalDamagedError: They do not.
    """
    chain: Iterator[str] = iter(keys) if after is None else iter((after, *keys))
    for one, other in pairwise(chain):
        if not isinstance(other, str) or not one < other:
            raise misplaced(path, f"{other!r} comes behind {one!r}")
