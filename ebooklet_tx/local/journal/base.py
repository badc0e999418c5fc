"""The base: the remote commit on which a journal stands.

Owns the `base_*` facts of the meta table. The invariant: they change as a whole, in the transaction that gives
the rows of `entry` the remote columns of that commit.
"""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import CommitWay

_FACTS = "SELECT name, value FROM meta WHERE name >= 'base_' AND name < 'base`'"


@dataclass(frozen=True, slots=True)
class Base:
    """The remote commit on which a journal stands.

    Attributes:
        seq: Its number; 0 when the journal knows of no commit.
        etag: The root's; None when the journal knows the commit but not the root object that made it.
        commit_id: Its id.
        key_count: How many keys the database has at that commit.
        fence: The root's fence.
        tombstone_floor: From this commit on, rows alone tell what changed since.
        root: The root's bytes, the only copy outside of the remote: a damaged root is written anew from them.
        commits: How the root says that commits are made.
        format: 1 where the root is of format 1, which this version can't read.
    """

    seq: int = 0
    etag: str | None = None
    commit_id: str | None = None
    key_count: int = 0
    fence: int = 0
    tombstone_floor: int = 0
    root: bytes = b""
    commits: CommitWay | None = None
    format: int = 2


def read_base(journal: Journal) -> Base:
    """Returns the base commit that the journal records; it is decoded once a change.

    Raises:
        JournalDamagedError: What it records can't be decoded.
    """

    def find() -> tuple[list[tuple[Any, ...]], Base]:
        facts = journal.rows(_FACTS)
        _, last = journal.found.get("base", (None, None))
        # Most of what is written leaves the base as it is.
        return last if last is not None and last[0] == facts else (facts, _read(journal))

    return journal.found_once("base", find)[1]


def _read(journal: Journal) -> Base:
    facts = journal.all_meta()
    with decoding(journal.path, "what it says of the base commit"):
        return Base(
            seq=facts.get("base_seq", 0),
            etag=facts.get("base_etag"),
            commit_id=facts.get("base_commit_id"),
            key_count=facts.get("base_key_count", 0),
            fence=facts.get("base_fence", 0),
            tombstone_floor=facts.get("base_tombstone_floor", 0),
            root=facts.get("base_root", b""),
            commits=CommitWay(*json.loads(facts["base_commits"])) if "base_commits" in facts else None,
            format=facts.get("base_format", 2),
        )


def base_root_in(raw: sqlite3.Connection) -> bytes:
    """Returns the bytes of the base's root in a journal that is only looked at; none where there is no base."""
    row = raw.execute("SELECT value FROM meta WHERE name = 'base_root'").fetchone()
    return bytes(row[0]) if row and row[0] else b""


def base_facts(base: Base) -> dict[str, Any]:
    """Returns the facts that record a base, for `put_meta`: what `read_base` reads."""
    way = base.commits
    return {
        "base_seq": base.seq,
        "base_etag": base.etag,
        "base_commit_id": base.commit_id,
        "base_key_count": base.key_count,
        "base_fence": base.fence,
        "base_tombstone_floor": base.tombstone_floor,
        "base_root": base.root or None,
        "base_commits": None if way is None else json.dumps([way.how, way.endpoint, way.bucket]),
        "base_format": None if base.format == 2 else base.format,
    }
