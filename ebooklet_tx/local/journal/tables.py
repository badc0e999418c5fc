"""The journal's tables, as SQLAlchemy Core describes them.

Alembic compares them with what its migrations have made, and a test holds them and the
statements of `schema` together; nothing that opens a database needs them.
"""

from __future__ import annotations

from sqlalchemy import (
    Column,
    Computed,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

from ebooklet_tx.local.journal.schema import EMPTY, MOVED, ROW_CHECK, STALE

metadata = MetaData()

entry = Table(
    "entry",
    metadata,
    Column("key", Text, primary_key=True),
    Column("known", Integer, nullable=False, server_default=text("0")),
    Column("remote_seq", Integer),
    Column("remote_timestamp_us", Integer),
    Column("remote_digest", LargeBinary),
    Column("remote_object", Integer, ForeignKey("remote_object.id")),
    Column("remote_offset_bytes", Integer),
    Column("remote_length_bytes", Integer),
    Column("local_timestamp_us", Integer),
    Column("local_digest", LargeBinary),
    Column("local_offset_bytes", Integer),
    Column("local_length_bytes", Integer),
    Column("pending", Integer, nullable=False, server_default=text("0")),
    Column("pending_timestamp_us", Integer),
    Column("pending_digest", LargeBinary),
    Column("pending_length_bytes", Integer),
    Column("pending_number", Integer, nullable=False, server_default=text("0")),
    Column("base_kind", Integer, nullable=False, server_default=text("0")),
    Column("base_at", Text),
    Column("base_seq", Integer),
    Column("base_timestamp_us", Integer),
    Column("base_digest", LargeBinary),
    Column("base_object", Integer, ForeignKey("remote_object.id")),
    Column("base_offset_bytes", Integer),
    Column("base_length_bytes", Integer),
    Column("row_check", Integer, Computed(ROW_CHECK, persisted=True)),
    sqlite_with_rowid=False,
)

Index("entry_pending", entry.c.key, sqlite_where=text("pending != 0"))
Index("entry_stale", entry.c.key, sqlite_where=text(STALE))
Index("entry_empty", entry.c.key, sqlite_where=text(EMPTY))
Index("entry_moved", entry.c.key, sqlite_where=text(MOVED))

staged = Table(
    "staged",
    metadata,
    Column("key", Text, primary_key=True),
    Column("digest", LargeBinary, nullable=False),
    Column("timestamp_us", Integer, nullable=False),
    Column("value", LargeBinary, nullable=False),
)

inline_value = Table(
    "inline_value",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("value", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

remote_object = Table(
    "remote_object",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False),
    Column("etag", Text, nullable=False),
    Column("size_bytes", Integer, nullable=False),
    UniqueConstraint("name", "etag"),
)

piece = Table(
    "piece",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("digest", LargeBinary, nullable=False, unique=True),
    Column("last_used", Integer, nullable=False),
    Column("bytes", LargeBinary, nullable=False),
)

upload = Table(
    "upload",
    metadata,
    Column("object", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    Column("size_bytes", Integer, nullable=False),
    Column("digest", LargeBinary),
    Column("etag", Text),
    Column("upload_id", Text),
    Column("parts", Text),
    Column("begun_at_us", Integer, nullable=False),
)

packed = Table(
    "packed",
    metadata,
    Column("digest", LargeBinary, primary_key=True),
    Column("object", Integer, nullable=False),
    Column("offset_bytes", Integer, nullable=False),
    Column("length_bytes", Integer, nullable=False),
    sqlite_with_rowid=False,
)

place = Table(
    "place",
    metadata,
    Column("number", Integer, primary_key=True),
    Column("object", Integer, nullable=False),
    Column("offset_bytes", Integer, nullable=False),
)

intent = Table(
    "intent",
    metadata,
    Column("commit_id", Text, primary_key=True),
    Column("seq", Integer, nullable=False),
    Column("base_etag", Text),
    Column("base_commit_id", Text),
    Column("last_number", Integer, nullable=False),
    Column("replaces", Integer, nullable=False),
    Column("begun_at_us", Integer, nullable=False),
)

pushed_version = Table(
    "pushed_version",
    metadata,
    Column("commit_id", Text, primary_key=True),
    Column("key", Text, primary_key=True),
    Column("number", Integer, nullable=False),
    Column("digest", LargeBinary),
    Column("timestamp_us", Integer),
    Column("length_bytes", Integer),
    Column("remote_object", Integer),
    Column("remote_offset_bytes", Integer),
    sqlite_with_rowid=False,
)

meta = Table(
    "meta",
    metadata,
    Column("name", Text, primary_key=True),
    Column("value", LargeBinary),
    sqlite_with_rowid=False,
)
