"""What a root that is read back says about a compare-and-swap: pure decisions.

The invariant: a commit counts as applied only when the root, or the log of commits below
it, names its id; as not applied only when the root that it was to replace is still there, or the root is
another whose log does not name it. An answer of the store alone decides nothing but plain success.

`push` and `pull` act on these decisions, and tests/model explores them exhaustively.
"""

from __future__ import annotations

import enum
from collections.abc import Collection
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


def was_applied(commit_id: str, root_commit_id: str, logged: Collection[str]) -> bool:
    """Whether a commit is the root's, or lies below it."""
    return commit_id == root_commit_id or commit_id in logged


def may_still_apply(base_etag: str | None, root_etag: str | None) -> bool:
    """Whether a swap that is still on its way can succeed: only on the very root that it was made for.

    None stands for no root. A root that was replaced never comes back, because each commit has an id of its own.
    """
    return base_etag == root_etag


def fenced_off(root_fence: int, fence_at_lock: int) -> bool:
    """Whether a root shows that the lock under which a session works was taken over."""
    return root_fence > fence_at_lock
