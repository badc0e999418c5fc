"""The journal's tables, as the statements that make them in a new journal.

The invariant: these statements make what all migrations make together, column by column
and index by index, and what `tables` describes; a test holds the three and `REVISION` together.
A new journal is made by them and not by running the migrations, because importing alembic and
SQLAlchemy takes longer than all else that opening does; from then on migrations alone change it.

What the columns of `entry` mean, for one key:

- `known`: not 0 where the remote columns are exact for the base commit; the journal's count of commits when that
  was found out. Where it is 0 they mean nothing, and no statement reads their NULL as "not in the remote".
- `remote_*`: what the base commit says of a known key. A digest is a value, no digest is none. A value lies in
  `remote_object` at an offset, or, without an offset, inline in that object.
- `local_*`: what the Booklet file holds, current or not; all NULL when it holds nothing.
- `pending*`: the operation that is still to be pushed: 0 none, 1 set, 2 delete. The other pending
  columns mean something only beside 1 or 2. `pending_number` grows with each operation.
- `base_*`: what the remote had when the operation came; conflicts are told by it. `base_kind` says what is known
  of it: 0 what the columns say (no digest: the key was not there), 1 not looked up yet, as of the commit
  `base_at`, 2 not to be found out any more, 3 of an adopted file, to be decided by timestamps once it is looked
  up (where the key was written again, the columns say what the file had). `base_at` is the id of the last commit
  of which it is known that the remote had the base.
- `row_check`: a check sum of the rest, computed by SQLite itself.

A statement about pending operations says `pending != 0` in these words beside whatever else it says of
`pending`: SQLite can't see that `pending = 1` implies it, and would go through the table instead of the index.

So the value that a reader sees has the digest `pending_digest` where pending is 1, none where it is
2, else `remote_digest`; its bytes are wherever something of that digest lies.
"""

from __future__ import annotations

REVISION = "0003"
"""The alembic revision that this code reads and writes, and that the statements below make."""

APPLICATION_ID = 0x45425458
"""SQLite's application_id of a journal: the letters EBTX."""

STALE = (
    "local_digest IS NOT NULL AND (pending != 0 OR known != 0) AND local_digest IS NOT "
    "CASE pending WHEN 0 THEN remote_digest WHEN 1 THEN pending_digest END"
)
"""SQL that is true of an entry whose bytes in the Booklet file are not the value that a reader sees."""

EMPTY = "local_digest IS NULL AND pending = 0"
"""SQL that is true of an entry of which this machine holds nothing; a transaction leaves none behind."""

BASE_AS_NOW = "base_kind = 0 AND base_at IS (SELECT value FROM meta WHERE name = 'base_commit_id')"
"""SQL that is true of an operation whose base is what the base commit has."""

IS_REMOTE = "(known != 0 AND pending_digest IS remote_digest AND remote_object IS NOT NULL)"
"""SQL that is true of a set whose value the remote has already, so that only its timestamp is new."""

MOVED = "pending != 0 AND known != 0 AND (base_kind = 0 AND remote_digest IS NOT base_digest OR base_kind = 2)"
"""SQL that is true of an entry with an operation whose key another writer may have changed since."""

ROW_CHECK = (
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
"""SQL of the check sum of a row of `entry`: what no digest covers, each number with another odd factor.

SQLite computes it in every INSERT and UPDATE, into `row_check`, and every read anew. A number of which bits have
changed always gives another sum. What means nothing beside the other columns is left out, which halves the time.
"""

SOUND_ROW = f"row_check IS ({ROW_CHECK})"
"""SQL that is true of a row of `entry` that is as it was written."""

CREATE = (
    """\
CREATE TABLE alembic_version (
version_num VARCHAR(32) NOT NULL,
CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
)""",
    """\
CREATE TABLE remote_object (
id INTEGER NOT NULL,
name TEXT NOT NULL,
etag TEXT NOT NULL,
size_bytes INTEGER NOT NULL,
PRIMARY KEY (id),
UNIQUE (name, etag)
)""",
    f"""\
CREATE TABLE entry (
key TEXT NOT NULL,
known INTEGER DEFAULT 0 NOT NULL,
remote_seq INTEGER,
remote_timestamp_us INTEGER,
remote_digest BLOB,
remote_object INTEGER,
remote_offset_bytes INTEGER,
remote_length_bytes INTEGER,
local_timestamp_us INTEGER,
local_digest BLOB,
local_offset_bytes INTEGER,
local_length_bytes INTEGER,
pending INTEGER DEFAULT 0 NOT NULL,
pending_timestamp_us INTEGER,
pending_digest BLOB,
pending_length_bytes INTEGER,
pending_number INTEGER DEFAULT 0 NOT NULL,
base_kind INTEGER DEFAULT 0 NOT NULL,
base_at TEXT,
base_seq INTEGER,
base_timestamp_us INTEGER,
base_digest BLOB,
base_object INTEGER,
base_offset_bytes INTEGER,
base_length_bytes INTEGER,
row_check INTEGER GENERATED ALWAYS AS ({ROW_CHECK}) STORED,
PRIMARY KEY (key),
FOREIGN KEY(remote_object) REFERENCES remote_object (id),
FOREIGN KEY(base_object) REFERENCES remote_object (id)
)
WITHOUT ROWID""",
    "CREATE INDEX entry_pending ON entry (key) WHERE pending != 0",
    f"CREATE INDEX entry_stale ON entry (key) WHERE {STALE}",
    f"CREATE INDEX entry_empty ON entry (key) WHERE {EMPTY}",
    f"CREATE INDEX entry_moved ON entry (key) WHERE {MOVED}",
    """\
CREATE TABLE staged (
key TEXT NOT NULL,
digest BLOB NOT NULL,
timestamp_us INTEGER NOT NULL,
value BLOB NOT NULL,
PRIMARY KEY (key)
)""",
    """\
CREATE TABLE inline_value (
digest BLOB NOT NULL,
value BLOB NOT NULL,
PRIMARY KEY (digest)
)
WITHOUT ROWID""",
    """\
CREATE TABLE piece (
id INTEGER NOT NULL,
digest BLOB NOT NULL,
last_used INTEGER NOT NULL,
bytes BLOB NOT NULL,
PRIMARY KEY (id),
UNIQUE (digest)
)""",
    """\
CREATE TABLE upload (
object INTEGER NOT NULL,
name TEXT NOT NULL,
size_bytes INTEGER NOT NULL,
digest BLOB,
etag TEXT,
upload_id TEXT,
parts TEXT,
begun_at_us INTEGER NOT NULL,
PRIMARY KEY (object),
UNIQUE (name)
)""",
    """\
CREATE TABLE packed (
digest BLOB NOT NULL,
object INTEGER NOT NULL,
offset_bytes INTEGER NOT NULL,
length_bytes INTEGER NOT NULL,
PRIMARY KEY (digest)
)
WITHOUT ROWID""",
    """\
CREATE TABLE place (
number INTEGER NOT NULL,
object INTEGER NOT NULL,
offset_bytes INTEGER NOT NULL,
PRIMARY KEY (number)
)""",
    """\
CREATE TABLE intent (
commit_id TEXT NOT NULL,
seq INTEGER NOT NULL,
base_etag TEXT,
base_commit_id TEXT,
last_number INTEGER NOT NULL,
replaces INTEGER NOT NULL,
begun_at_us INTEGER NOT NULL,
PRIMARY KEY (commit_id)
)""",
    """\
CREATE TABLE pushed_version (
commit_id TEXT NOT NULL,
key TEXT NOT NULL,
number INTEGER NOT NULL,
digest BLOB,
timestamp_us INTEGER,
length_bytes INTEGER,
remote_object INTEGER,
remote_offset_bytes INTEGER,
PRIMARY KEY (commit_id, key)
)
WITHOUT ROWID""",
    """\
CREATE TABLE meta (
name TEXT NOT NULL,
value BLOB,
PRIMARY KEY (name)
)
WITHOUT ROWID""",
)
"""The statements, in the order in which the migrations make the tables."""

TABLES = frozenset(
    {
        "alembic_version",
        "remote_object",
        "entry",
        "staged",
        "inline_value",
        "piece",
        "upload",
        "packed",
        "place",
        "intent",
        "pushed_version",
        "meta",
    }
)
"""The names of the tables that they make."""
