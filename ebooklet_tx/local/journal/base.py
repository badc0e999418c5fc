"""The base: the remote commit that a journal has applied last.

Owns the `base_*` facts of the meta table. The invariant: they change as a whole, in the transaction that gives
the rows of `entry` the remote columns of that commit.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.local.journal.integrity.row_checks import decoding
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.records import CommitWay, SegmentRef


@dataclass(frozen=True, slots=True)
class Base:
    """The remote commit that a journal has applied last.

    Attributes:
        seq: Its number; 0 when the journal knows of no commit.
        etag: The root's; None when the journal knows the commit but not the root object that made it.
        commit_id: Its id.
        key_count: How many keys the database has at that commit.
        fence: The root's fence.
        tombstone_floor: The oldest base from which the root's index still leads on.
        segments: The index segments that the root names.
        root: The root's bytes, the only copy outside of the remote: a damaged root is written anew from them.
        bare_tail: The root's tail, where an earlier version recorded that and not the root.
        commits: How the root says that commits are made.
        unknown: The manifest's fields that this version does not know, as JSON.
    """

    seq: int = 0
    etag: str | None = None
    commit_id: str | None = None
    key_count: int = 0
    fence: int = 0
    tombstone_floor: int = 0
    segments: tuple[SegmentRef, ...] = ()
    root: bytes = b""
    bare_tail: bytes = b""
    commits: CommitWay | None = None
    unknown: str = "{}"


def read_base(journal: Journal) -> Base:
    """Returns the base commit that the journal records.

    Raises:
        JournalDamagedError: What it records can't be decoded.
    """
    facts = journal.all_meta()
    with decoding(journal.path, "what it says of the base commit"):
        return Base(
            seq=facts.get("base_seq", 0),
            etag=facts.get("base_etag"),
            commit_id=facts.get("base_commit_id"),
            key_count=facts.get("base_key_count", 0),
            fence=facts.get("base_fence", 0),
            tombstone_floor=facts.get("base_tombstone_floor", 0),
            segments=_read_segments(facts.get("base_segments")),
            root=facts.get("base_root", b""),
            bare_tail=facts.get("base_tail", b""),
            commits=CommitWay(*json.loads(facts["base_commits"])) if "base_commits" in facts else None,
            unknown=_checked_json(facts.get("base_unknown", "{}")),
        )


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
        "base_segments": _write_segments(base.segments),
        "base_root": base.root or None,
        "base_tail": base.bare_tail or None,
        "base_commits": None if way is None else json.dumps([way.how, way.endpoint, way.bucket]),
        "base_unknown": None if base.unknown == "{}" else base.unknown,
    }


def _checked_json(text: str) -> str:
    json.loads(text)
    return text


def _write_segments(segments: tuple[SegmentRef, ...]) -> str:
    return json.dumps([[s.name, s.etag, s.size_bytes, s.digest, s.first_seq, s.last_seq] for s in segments])


def _read_segments(text: str | None) -> tuple[SegmentRef, ...]:
    return tuple(SegmentRef(*fields) for fields in json.loads(text)) if text else ()
