"""Applying index segments to the journal: one transaction from one base commit to the next.

The invariant: afterwards every remote column is that of the new base commit, and `base_moves` has settled the
pending operations with it. A reader of the journal sees the base before or after.

A segment is an image of an SQLite database. It is attached as it is and read by `INSERT ... SELECT`: measured
three times as fast as rows decoded in Python.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.pending.base_moves import reconcile_operations
from ebooklet_tx.local.journal.pending.columns import NO_REMOTE

MAX_IMAGES = 9
"""As many segments as a manifest names, and the tail; SQLite attaches ten databases at most."""

_UPSERT = """
INSERT INTO entry(key, remote_seq, remote_timestamp_us, remote_digest, remote_object,
                  remote_offset_bytes, remote_length_bytes)
SELECT e.key, e.seq, e.timestamp_us, e.digest, {object_id}, e.offset_bytes, e.length_bytes
  FROM {schema}.entry AS e {objects}
 WHERE e.seq > :base_seq
ON CONFLICT(key) DO UPDATE SET
  remote_seq = excluded.remote_seq, remote_timestamp_us = excluded.remote_timestamp_us,
  remote_digest = excluded.remote_digest, remote_object = excluded.remote_object,
  remote_offset_bytes = excluded.remote_offset_bytes, remote_length_bytes = excluded.remote_length_bytes
WHERE remote_seq IS NULL OR excluded.remote_seq > remote_seq
"""

_KNOWN_OBJECTS = """
  LEFT JOIN {schema}.object AS o ON o.id = e.object
  LEFT JOIN main.remote_object AS known ON known.name = o.name
"""


def apply_images(
    journal: Journal,
    images: Sequence[bytes],
    *,
    base_seq: int,
    facts: Mapping[str, Any],
    full: bool = False,
    own_seq: int | None = None,
    intents_settled: bool = True,
) -> None:
    """Moves the journal on to another base commit.

    Args:
        journal: The journal.
        images: Checked segment images, oldest first, at most `MAX_IMAGES`.
        base_seq: Rows of this commit and older ones are known already.
        facts: What to record about the new base.
        full: The images are the whole index, and a key that is not in them is gone.
        own_seq: Rows of this commit were written here: what was set again since is based on them.
        intents_settled: Whether the outcome of every push is known with this; its intent then goes.
    """
    # Always later would let the WAL of a session that does nothing but pull grow without end.
    first = base_seq == 0 and not full
    checkpoint = _checkpoint_later(journal) if first else contextlib.nullcontext()
    with _attached(journal, images) as schemas, checkpoint, journal.transaction() as transaction:
        raw = driver(transaction)
        if full:
            raw.execute(f"UPDATE entry SET {NO_REMOTE} WHERE remote_seq IS NOT NULL")
            # After a rewind the same numbers name other commits.
            raw.execute("DELETE FROM commit_log")
            base_seq = 0
        for schema in schemas:
            _apply_image(raw, schema, base_seq)
        _forget_committed_uploads(raw)
        reconcile_operations(raw, own_seq=own_seq)
        if full:
            raw.execute("DELETE FROM entry WHERE remote_seq IS NULL AND local_digest IS NULL AND pending = 0")
        if intents_settled:
            raw.execute("DELETE FROM intent")
        put_meta(transaction, facts)


def _apply_image(raw: sqlite3.Connection, schema: str, base_seq: int) -> None:
    if raw.execute("SELECT 1 FROM main.remote_object LIMIT 1").fetchone():
        raw.execute(
            f"INSERT INTO main.remote_object(name, etag, size_bytes) "
            f"SELECT name, etag, size_bytes FROM {schema}.object WHERE true ON CONFLICT(name) DO NOTHING"
        )
        upsert = _UPSERT.format(schema=schema, object_id="known.id", objects=_KNOWN_OBJECTS.format(schema=schema))
    else:
        # The numbers of the first image can stay, which saves a lookup in two tables for every row.
        raw.execute(
            f"INSERT INTO main.remote_object(id, name, etag, size_bytes) "
            f"SELECT id, name, etag, size_bytes FROM {schema}.object"
        )
        upsert = _UPSERT.format(schema=schema, object_id="e.object", objects="")
    raw.execute(
        f"INSERT OR REPLACE INTO main.inline_value(digest, value) "
        f"SELECT digest, value FROM {schema}.entry WHERE value IS NOT NULL AND seq > ?",
        (base_seq,),
    )
    raw.execute(
        "INSERT OR REPLACE INTO main.commit_log(seq, commit_id, committed_at_us, writer, set_count, "
        "deleted_count, value_bytes) SELECT seq, commit_id, committed_at_us, writer, set_count, "
        f"deleted_count, value_bytes FROM {schema}.commit_log"
    )
    raw.execute(upsert, {"base_seq": base_seq})


def _forget_committed_uploads(raw: sqlite3.Connection) -> None:
    """Forgets uploads that a commit names by now, also where the push that sent them died."""
    names = "SELECT u.name FROM upload AS u JOIN remote_object AS r ON r.name = u.name"
    raw.execute(f"DELETE FROM packed WHERE name IN ({names})")
    raw.execute(f"DELETE FROM upload WHERE name IN ({names})")


@contextlib.contextmanager
def _checkpoint_later(journal: Journal) -> Iterator[None]:
    """Leaves it to the next commit, or to the close, to copy what is applied from the WAL into the journal.

    It is durable in the WAL, and a user who opens a database for the first time waits for a value.
    """
    with journal.reading() as raw:
        (pages,) = raw.execute("PRAGMA wal_autocheckpoint").fetchone()
        raw.execute("PRAGMA wal_autocheckpoint = 0")
        try:
            yield
        finally:
            raw.execute(f"PRAGMA wal_autocheckpoint = {pages}")


@contextlib.contextmanager
def _attached(journal: Journal, images: Sequence[bytes]) -> Iterator[list[str]]:
    """Attaches images to the journal's connection while they are applied."""
    schemas: list[str] = []
    with journal.reading() as raw:
        try:
            for number, image in enumerate(images):
                schema = f"incoming{number}"
                raw.execute(f"ATTACH ':memory:' AS {schema}")
                schemas.append(schema)
                raw.deserialize(image, name=schema)
            yield schemas
        finally:
            for schema in schemas:
                raw.execute(f"DETACH {schema}")
