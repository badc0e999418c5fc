"""Changes of many keys at once that mostly have a row in the journal already.

The invariant: each row becomes what the upsert makes of it that is used for few keys. What differs is time: no
row to insert is made for a key that has one, and its base is not chosen anew, which saves up to a fifth.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from typing import Any

from ebooklet_tx.local.journal.connections import insert_many

MANY_KEYS = 1000
"""From so many keys on it pays to look what kind of keys they are."""

_SAMPLE_KEYS = 8


def kind_of_most(raw: sqlite3.Connection, keys: Sequence[str], kinds: Mapping[str, str]) -> str | None:
    """Returns of which kind most of some keys are, by a few of them; None where there is no such kind.

    Args:
        raw: The connection of a transaction.
        keys: The keys.
        kinds: For each kind the SQL that is true of the entries of its keys.
    """
    if len(keys) < MANY_KEYS:
        return None
    some = keys[:: max(1, len(keys) // _SAMPLE_KEYS)]
    marks = ",".join("?" * len(some))
    counts = ", ".join(f"coalesce(sum({condition}), 0)" for condition in kinds.values())
    found = raw.execute(f"SELECT {counts} FROM entry WHERE key IN ({marks})", some).fetchone()
    return next((kind for kind, count in zip(kinds, found, strict=True) if 2 * count > len(some)), None)


def change_existing(
    raw: sqlite3.Connection,
    update: str,
    statement: tuple[str, str, str],
    shared: Sequence[Any],
    names: Sequence[str],
    columns: Sequence[Sequence[Any]],
) -> None:
    """Does for each key what `update` says, and for keys that it does not find what `insert_many` does.

    Args:
        raw: The connection of a transaction.
        update: The end of an UPDATE of `entry`, from SET on, without the key. It says `new.` and a name for what
            a key has of its own, and `{s0}`, `{s1}` and so on for what all share.
        statement: As `insert_many` takes it.
        shared: Likewise.
        names: The names of the columns, of which `key` is one.
        columns: As `insert_many` takes them.
    """
    quoted = raw.execute(f"SELECT {', '.join(['quote(?)'] * len(shared))}", shared).fetchone()
    named = {f"s{number}": text for number, text in enumerate(quoted)}
    row = statement[1].format(*(f"new.{name}" for name in names), **named)
    # A transaction that fails takes both with it.
    raw.execute(f"CREATE TEMP VIEW change AS SELECT {', '.join(f'NULL AS {name}' for name in names)}")
    raw.execute(f"""
CREATE TEMP TRIGGER record_change INSTEAD OF INSERT ON change BEGIN
  UPDATE entry {update.format(**named)} AND key = new.key;
  {statement[0]} SELECT {row[1:-1]} WHERE changes() = 0 {statement[2]};
END""")
    own = ", ".join(f"{{{number}}}" for number in range(len(names)))
    insert_many(raw, ("INSERT INTO temp.change", f"({own})", ""), (), columns)
    raw.execute("DROP VIEW temp.change")


__all__ = ["MANY_KEYS", "change_existing", "kind_of_most"]
