"""The first journal: index, staged values, uploads, intents."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_STALE = (
    "local_digest IS NOT NULL AND local_digest IS NOT "
    "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
)


def upgrade() -> None:
    """Makes every table of the journal."""
    op.create_table(
        "remote_object",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("etag", sa.Text, nullable=False),
        sa.Column("size_bytes", sa.Integer, nullable=False),
    )
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
        sqlite_with_rowid=False,
    )
    op.create_index("entry_pending", "entry", ["key"], sqlite_where=sa.text("pending != 0"))
    op.create_index("entry_stale", "entry", ["key"], sqlite_where=sa.text(_STALE))
    op.create_table(
        "staged",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("digest", sa.LargeBinary, nullable=False),
        sa.Column("timestamp_us", sa.Integer, nullable=False),
        sa.Column("value", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "inline_value",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("value", sa.LargeBinary, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "commit_log",
        sa.Column("seq", sa.Integer, primary_key=True),
        sa.Column("commit_id", sa.Text, nullable=False),
        sa.Column("committed_at_us", sa.Integer, nullable=False),
        sa.Column("writer", sa.Text, nullable=False),
        sa.Column("set_count", sa.Integer, nullable=False),
        sa.Column("deleted_count", sa.Integer, nullable=False),
        sa.Column("value_bytes", sa.Integer, nullable=False),
    )
    op.create_table(
        "upload",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("size_bytes", sa.Integer, nullable=False),
        sa.Column("etag", sa.Text),
        sa.Column("upload_id", sa.Text),
        sa.Column("parts", sa.Text),
        sa.Column("begun_at_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "packed",
        sa.Column("digest", sa.LargeBinary, primary_key=True),
        sa.Column("name", sa.Text, sa.ForeignKey("upload.name"), nullable=False),
        sa.Column("offset_bytes", sa.Integer, nullable=False),
        sa.Column("length_bytes", sa.Integer, nullable=False),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "intent",
        sa.Column("commit_id", sa.Text, primary_key=True),
        sa.Column("seq", sa.Integer, nullable=False),
        sa.Column("base_etag", sa.Text),
        sa.Column("image", sa.LargeBinary, nullable=False),
        sa.Column("begun_at_us", sa.Integer, nullable=False),
    )
    op.create_table(
        "meta",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("value", sa.LargeBinary),
        sqlite_with_rowid=False,
    )
