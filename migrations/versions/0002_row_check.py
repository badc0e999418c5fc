"""A check sum in each row of the index."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_STALE = (
    "local_digest IS NOT NULL AND local_digest IS NOT "
    "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
)
_ROW_CHECK = (
    "coalesce(unicode(key) * 65521, 1) "
    "+ coalesce(remote_timestamp_us + remote_seq * 8191, 2) "
    "+ coalesce(remote_object * 524287 + remote_offset_bytes * 31, 3) "
    "+ coalesce(remote_length_bytes * 127, 4) "
    "+ CASE WHEN local_digest IS NULL THEN 0 ELSE coalesce(local_timestamp_us * 3, 5) "
    "+ local_offset_bytes * 61 + local_length_bytes * 251 END "
    "+ CASE pending WHEN 0 THEN 0 ELSE pending * 131071 + coalesce(pending_timestamp_us * 5, 6) "
    "+ coalesce(pending_length_bytes * 509, 7) + coalesce(base_timestamp_us * 7 + base_seq * 16381, 8) "
    "+ coalesce(base_object * 1021 + base_offset_bytes * 2039, 9) "
    "+ coalesce(base_length_bytes * 4093, 10) END"
)
_COLUMNS = (
    "key, remote_seq, remote_timestamp_us, remote_digest, remote_object, remote_offset_bytes, "
    "remote_length_bytes, local_timestamp_us, local_digest, local_offset_bytes, local_length_bytes, "
    "pending, pending_timestamp_us, pending_digest, pending_length_bytes, "
    "base_seq, base_timestamp_us, base_digest, base_object, base_offset_bytes, base_length_bytes"
)


def upgrade() -> None:
    """Makes `entry` anew with the column `row_check`: SQLite adds no stored column to a table that is there."""
    op.drop_index("entry_pending", "entry")
    op.drop_index("entry_stale", "entry")
    op.rename_table("entry", "entry_before")
    op.create_table(
        "entry",
        sa.Column("key", sa.Text, primary_key=True),
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
        sa.Column("base_seq", sa.Integer),
        sa.Column("base_timestamp_us", sa.Integer),
        sa.Column("base_digest", sa.LargeBinary),
        sa.Column("base_object", sa.Integer, sa.ForeignKey("remote_object.id")),
        sa.Column("base_offset_bytes", sa.Integer),
        sa.Column("base_length_bytes", sa.Integer),
        sa.Column("row_check", sa.Integer, sa.Computed(_ROW_CHECK, persisted=True)),
        sqlite_with_rowid=False,
    )
    op.execute(f"INSERT INTO entry({_COLUMNS}) SELECT {_COLUMNS} FROM entry_before ORDER BY key")
    op.drop_table("entry_before")
    op.create_index("entry_pending", "entry", ["key"], sqlite_where=sa.text("pending != 0"))
    op.create_index("entry_stale", "entry", ["key"], sqlite_where=sa.text(_STALE))
