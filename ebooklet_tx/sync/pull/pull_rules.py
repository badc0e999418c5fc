"""What a root that was read means for a journal: pure decisions.

The invariant: a journal goes on from its base by what a root says of later commits only where the root's history
has that base in it; otherwise the whole index is read anew, so that two histories never mix. A push counts as
applied only by `swap_rules.was_applied`.

`pull` acts on these decisions, and tests/model explores them exhaustively.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.local.journal.base import Base
from ebooklet_tx.local.journal.intents import Intent
from ebooklet_tx.sync.commit.swap_rules import may_still_apply, was_applied


class Settled(NamedTuple):
    """Pushes whose outcome was not known, by what became of them."""

    applied: tuple[Intent, ...]
    dropped: tuple[Intent, ...]


def is_rewound(base: Base, seq: int, commit_id: str) -> bool:
    """True when a root's commit is older than the base, or another of the same number."""
    return seq < base.seq or (seq == base.seq and commit_id != base.commit_id)


def needs_whole_index(base: Base, seq: int, commit_id: str, *, tombstone_floor: int) -> bool:
    """True when the index can't tell what happened since the base.

    Args:
        base: The base.
        seq: The number of the root's commit.
        commit_id: Its id.
        tombstone_floor: The oldest base that the root's index still serves.
    """
    return base.seq == 0 or base.seq < tombstone_floor or is_rewound(base, seq, commit_id)


def leads_on_from(base: Base, manifest: Manifest, log: Mapping[int, str]) -> bool:
    """True when a root's history has the base commit in it.

    An older root that was restored, or a remote that was written anew, may have come to a higher seq
    since; what it says of later commits alone would then be mixed with another history.

    Args:
        base: The base.
        manifest: The root's manifest.
        log: The ids of commits that the segments fetched name, by seq.
    """
    if base.seq in log:
        return log[base.seq] == base.commit_id
    if manifest.seq == base.seq:
        return manifest.commit_id == base.commit_id
    known = {segment.digest for segment in base.segments}
    return any(s.last_seq == base.seq and s.digest in known for s in manifest.segments)


def settle_intents(intents: Sequence[Intent], root_commit_id: str, logged: Collection[str]) -> Settled:
    """Tells which unresolved pushes a root and its log show to have taken effect, and which not."""
    applied = tuple(i for i in intents if was_applied(i.commit_id, root_commit_id, logged))
    return Settled(applied, tuple(i for i in intents if i not in applied))


def dead_intents(intents: Sequence[Intent], root_etag: str | None) -> list[str]:
    """Returns the ids of pushes that can't take effect any more; one that is only late still can."""
    return [i.commit_id for i in intents if not may_still_apply(i.base_etag, root_etag)]


def key_count_of(manifest: Manifest, known_keys: int, rows: int) -> int:
    """Returns how many keys a database has: the root's count, but no more than its index can show.

    `list(db)` allocates memory by this count, so a hostile root must not choose it.

    Args:
        manifest: The root's manifest.
        known_keys: The keys of the base from which the index goes on.
        rows: How many rows the index has beyond that.
    """
    return min(manifest.key_count, known_keys + rows)


__all__ = [
    "Settled",
    "dead_intents",
    "is_rewound",
    "key_count_of",
    "leads_on_from",
    "needs_whole_index",
    "settle_intents",
]
