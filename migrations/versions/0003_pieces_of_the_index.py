"""Entries for what this machine holds alone, and a cache for pieces of the remote's index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_STALE = (
    "local_digest IS NOT NULL AND (pending != 0 OR known != 0) AND local_digest IS NOT "
    "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
)
_EMPTY = "local_digest IS NULL AND pending = 0"
_MOVED = "pending != 0 AND known != 0 AND (base_kind = 0 AND remote_digest IS NOT base_digest OR base_kind = 2)"
_ROW_CHECK = (
    "coalesce(unicode(key) * 65521, 1) "
    "+ known * 8388593 + coalesce(remote_timestamp_us + remote_seq * 8191, 2) "
    "+ coalesce(remote_object * 524287 + remote_offset_bytes * 31, 3) "
    "+ coalesce(remote_length_bytes * 127, 4) "
    "+ CASE WHEN local_digest IS NULL THEN 0 ELSE coalesce(local_timestamp_us * 3, 5) "
    "+ local_offset_bytes * 61 + local_length_bytes * 251 END "
    "+ CASE pending WHEN 0 THEN 0 ELSE pending * 131071 + coalesce(pending_timestamp_us * 5, 6) "
    "+ coalesce(pending_length_bytes * 509, 7) + pending_number * 32749 + base_kind * 65537 "
    "+ coalesce(base_timestamp_us * 7 + base_seq * 16381, 8) "
    "+ coalesce(base_object * 1021 + base_offset_bytes * 2039, 9) "
    "+ coalesce(base_length_bytes * 4093, 10) END"
)
_KEPT = (
    "key, remote_seq, remote_timestamp_us, remote_digest, remote_object, remote_offset_bytes, "
    "remote_length_bytes, local_timestamp_us, local_digest, local_offset_bytes, local_length_bytes, "
    "pending, pending_timestamp_us, pending_digest, pending_length_bytes, "
    "base_seq, base_timestamp_us, base_digest, base_object, base_offset_bytes, base_length_bytes"
)


def upgrade() -> None:
    """Keeps what this machine holds; what a remote of the first format alone has is told by its count.

    This version can't read such a remote. It can be written anew where every value is here: in the Booklet file,
    in an operation, or in the index that the journal held, from which it becomes an operation.

    What an unfinished push had sent is forgotten, and so is the push: a root of the first format can't be asked
    any more whether it took place. Every operation stays pending.
    """
    bind = op.get_bind()
    (based,) = bind.exec_driver_sql("SELECT count(*) FROM meta WHERE name = 'base_seq' AND value > 0").one()
    op.drop_index("entry_pending", "entry")
    op.drop_index("entry_stale", "entry")
    op.rename_table("entry", "entry_before")
    op.rename_table("remote_object", "remote_object_before")
    op.create_table(
        "remote_object",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("etag", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.UniqueConstraint("name", "etag"),
    )
    op.execute("INSERT INTO remote_object SELECT id, name, etag, size_bytes FROM remote_object_before")
    op.create_table(
        "entry",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("known", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("remote_seq", sa.Integer),
        sa.Column("remote_timestamp_us", sa.Integer),
        sa.Column("remote_digest", sa.LargeBinary),
        sa.Column("remote_object", sa.Integer, sa.ForeignKey("remote_object.id")),
        sa.Column("remote_offset_bytes", sa.Integer),
        sa.Column("remote_length_bytes", sa.Integer),
        sa.Column("local_timestamp_us", sa.Integer),
        sa.Column("local_digest", sa.LargeBinary),
        sa.Column("local_offset_bytes", sa.Integer),
        sa.Column("local_length_bytes", sa.Integer),
        sa.Column("pending", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("pending_timestamp_us", sa.Integer),
        sa.Column("pending_digest", sa.LargeBinary),
        sa.Column("pending_length_bytes", sa.Integer),
        sa.Column("pending_number", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("base_kind", sa.Integer, nullable=False, server_default=sa.text("0")),
        sa.Column("base_at", sa.Text),
        sa.Column("base_seq", sa.Integer),
        sa.Column("base_timestamp_us", sa.Integer),
        sa.Column("base_digest", sa.LargeBinary),
        sa.Column("base_object", sa.Integer, sa.ForeignKey("remote_object.id")),
        sa.Column("base_offset_bytes", sa.Integer),
        sa.Column("base_length_bytes", sa.Integer),
        sa.Column("row_check", sa.Integer, sa.Computed(_ROW_CHECK, persisted=True)),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO entry(known, {_KEPT}) SELECT 1, {_KEPT} FROM entry_before ORDER BY key")
    op.drop_table("entry_before")
    op.drop_table("remote_object_before")
    if based:
        _keep_inline_values(bind)
    op.execute(f"DELETE FROM entry WHERE {_EMPTY}")
    _number_operations(bind)
    op.create_index("entry_pending", "entry", ["key"], sqlite_where=sa.text("pending != 0"))
    op.create_index("entry_stale", "entry", ["key"], sqlite_where=sa.text(_STALE))
    op.create_index("entry_empty", "entry", ["key"], sqlite_where=sa.text(_EMPTY))
    op.create_index("entry_moved", "entry", ["key"], sqlite_where=sa.text(_MOVED))
    _make_tables()
    for name in ("base_segments", "base_tail", "base_root", "base_unknown"):
        bind.exec_driver_sql("DELETE FROM meta WHERE name = ?", (name,))
    if based:
        op.execute("INSERT OR REPLACE INTO meta(name, value) VALUES ('base_format', 1)")


def _keep_inline_values(bind: sa.Connection) -> None:
    """Makes operations of the values that the journal holds because they rode in the index."""
    here = (
        "pending = 0 AND remote_digest IS NOT NULL AND local_digest IS NOT remote_digest "
        "AND remote_digest IN (SELECT digest FROM inline_value)"
    )
    bind.exec_driver_sql(
        "INSERT OR REPLACE INTO staged(key, digest, timestamp_us, value) "
        "SELECT key, remote_digest, remote_timestamp_us, value FROM entry "
        f"JOIN inline_value ON digest = remote_digest WHERE {here}"
    )
    bind.exec_driver_sql(
        "UPDATE entry SET pending = 1, pending_digest = remote_digest, "
        "pending_timestamp_us = remote_timestamp_us, pending_length_bytes = remote_length_bytes, "
        "base_seq = remote_seq, base_timestamp_us = remote_timestamp_us, base_digest = remote_digest, "
        "base_object = remote_object, base_offset_bytes = remote_offset_bytes, "
        f"base_length_bytes = remote_length_bytes WHERE {here}"
    )


def _number_operations(bind: sa.Connection) -> None:
    keys = [row[0] for row in bind.exec_driver_sql("SELECT key FROM entry WHERE pending != 0 ORDER BY key")]
    for number, key in enumerate(keys, start=1):
        bind.exec_driver_sql("UPDATE entry SET pending_number = ? WHERE key = ?", (number, key))
    bind.exec_driver_sql("INSERT OR REPLACE INTO meta(name, value) VALUES ('last_operation', ?)", (len(keys),))
    bind.exec_driver_sql(
        "UPDATE entry SET base_at = (SELECT value FROM meta WHERE name = 'base_commit_id') WHERE pending != 0 "
        "AND base_digest IS remote_digest"
    )
    adopted = bind.exec_driver_sql("SELECT 1 FROM meta WHERE name = 'adopted'").first()
    if adopted is not None:
        bind.exec_driver_sql("UPDATE entry SET base_kind = 3 WHERE pending != 0")


def _make_tables() -> None:
    for name in ("packed", "upload", "intent", "commit_log"):
        op.drop_table(name)
    op.create_table(
        "piece",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False, unique=True),
        sa.Column("last_used", sa.Integer, nullable=False),
        sa.Column("bytes", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "upload",
        sa.Column("object", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("etag", sa.Text),
        sa.Column("upload_id", sa.Text),
        sa.Column("parts", sa.Text),
        sa.Column("begun_at_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "packed",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("object", sa.Integer, nullable=False),
        sa.Column("offset_bytes", sa.Integer, nullable=False),
        sa.Column("length_bytes", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "place",
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("object", sa.Integer, nullable=False),
        sa.Column("offset_bytes", sa.Integer, nullable=False),
    )
    op.create_table(
        "intent",
        sa.Column("commit_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("base_etag", sa.Text),
        sa.Column("base_commit_id", sa.Text),
        sa.Column("last_number", sa.Integer, nullable=False),
        sa.Column("replaces", sa.Integer, nullable=False),
        sa.Column("begun_at_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "pushed_version",
        sa.Column("commit_id", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("digest", sa.LargeBinary),
        sa.Column("timestamp_us", sa.Integer),
        sa.Column("length_bytes", sa.Integer),
        sa.Column("remote_object", sa.Integer),
        sa.Column("remote_offset_bytes", sa.Integer),
        sqlite_with_rowid=False,
    )
