"""What a root that is read back says about a compare-and-swap: pure decisions.

The invariant: a commit counts as applied only when the root, or the history below it, names its id at its number;
as not applied only when the root that it was to replace is still there, or the root is another whose history has
another commit at that number. An answer of the store alone decides nothing but plain success.

`push` and `pull` act on these decisions, and tests/model explores them exhaustively.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RootSeen:
    """What identifies a root that was read."""

    etag: str
    commit_id: str
    fence: int = 0


class Verdict(enum.Enum):
    """What became of a swap."""

    OURS = "the root is ours: it took place"
    UNTOUCHED = "the old root is still there: it may be tried again as it is"
    OTHERS = "the root is another writer's: its log tells whether ours lies below"
    GONE = "there is no root any more, although there was one"


def judge(seen: RootSeen | None, *, commit_id: str, base_etag: str | None) -> Verdict:
    """Decides what became of the swap of a commit on a base (None when there was to be no root)."""
    if seen is None:
        return Verdict.UNTOUCHED if base_etag is None else Verdict.GONE
    if seen.commit_id == commit_id:
        return Verdict.OURS
    if seen.etag == base_etag:
        return Verdict.UNTOUCHED
    return Verdict.OTHERS


class Fate(enum.Enum):
    """What a root that was read later says of a commit whose answer never came."""

    APPLIED = "the history has it at its number"
    DROPPED = "it was not applied, and can't be any more"
    LOST = "the history no longer reaches its number"
    OPEN = "it may still be applied"


def fate_of(
    commit_id: str, seq: int, base_etag: str | None, *, found: str | None, root_seq: int, root_etag: str | None
) -> Fate:
    """Decides what became of a commit of a number on a base.

    Args:
        commit_id: The commit.
        seq: Its number.
        base_etag: The root that it was to replace; None for none.
        found: The commit that the root's history has at that number, None where it has none.
        root_seq: The number of the root's commit.
        root_etag: The root's ETag.
    """
    if found == commit_id:
        return Fate.APPLIED
    if found is None and root_seq >= seq:
        return Fate.LOST
    return Fate.OPEN if may_still_apply(base_etag, root_etag) else Fate.DROPPED


def may_still_apply(base_etag: str | None, root_etag: str | None) -> bool:
    """Whether a swap that is still on its way can succeed: only on the very root that it was made for.

    None stands for no root. A root that was replaced never comes back, because each commit has an id of its own.
    """
    return base_etag == root_etag


def fenced_off(root_fence: int, fence_at_lock: int) -> bool:
    """Whether a root shows that the lock under which a session works was taken over."""
    return root_fence > fence_at_lock
