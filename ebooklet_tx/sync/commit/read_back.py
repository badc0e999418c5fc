"""Reading a root back: what became of a swap whose answer was no plain success.

The invariant: no answer but a plain success is believed before the root has been read back, and what the root
and its log say decides.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ebooklet_tx.errors import RemoteMissingError, TransientStoreError
from ebooklet_tx.sync.commit.swap_rules import RootSeen, Verdict, judge
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import DamagedRoot, FetchedRoot, inspect_root

if TYPE_CHECKING:
    from ebooklet_tx.sync.commit.builder import Commit


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a swap.

    Attributes:
        applied: Whether it took place.
        etag: The root's; None when the journal has taken the commit in already, maybe with others on top.
        commit: The commit as it was written, where it is not the one asked for: the mode that it names was
            found out on the way.
        pull_root: Whether the commit took place and has to be pulled: several roots of it were sent, which
            differ in the mode that they name, and it is not known which one arrived.
    """

    applied: bool
    etag: str | None = None
    commit: Commit | None = None
    pull_root: bool = False


@dataclass(slots=True)
class Swap:
    """A commit that is to replace the root on which it was built.

    Attributes:
        commit: The commit.
        base_etag: The ETag of the root to replace; None where there is to be none.
        absorb: Takes another writer's root in, and tells whether the commit lies below it.
        may_have_arrived: Whether the store may have got the commit's root.
    """

    commit: Commit
    base_etag: str | None
    absorb: Callable[[FetchedRoot], bool]
    may_have_arrived: bool = False


def is_base_there(remote: Remote, base_etag: str | None) -> bool:
    """Reads the root; True when it is the one to be replaced."""
    there = inspect_root(remote)
    return (there.etag if there is not None else None) == base_etag


def read_back(remote: Remote, swap: Swap, failure: Exception) -> Outcome:
    """Finds out what became of a swap.

    Raises:
        TransientStoreError: The old root is still there: the swap may be tried again as it is.
    """
    fetched = inspect_root(remote)
    if isinstance(fetched, DamagedRoot):
        if fetched.etag != swap.base_etag:
            raise fetched.error from failure
        # The damaged one that is to be replaced is still there.
        raise _untouched(failure) from failure
    verdict = judge(_seen(fetched), commit_id=swap.commit.manifest.commit_id, base_etag=swap.base_etag)
    if verdict is Verdict.GONE:
        raise RemoteMissingError(
            f"the database {remote.root_place} was deleted by another writer; everything is pending, "
            "push(force_push=True) writes it anew"
        ) from failure
    if verdict is Verdict.UNTOUCHED or fetched is None:
        raise _untouched(failure) from failure
    if verdict is Verdict.OURS:
        return Outcome(applied=True, etag=fetched.etag)
    # Another writer's root. The commit may lie below it, which its log tells.
    return Outcome(applied=swap.absorb(fetched))


def _untouched(failure: Exception) -> TransientStoreError:
    asked_seconds = failure.retry_after_seconds if isinstance(failure, TransientStoreError) else None
    return TransientStoreError(str(failure), retry_after_seconds=asked_seconds)


def _seen(fetched: FetchedRoot | None) -> RootSeen | None:
    if fetched is None:
        return None
    return RootSeen(fetched.etag, fetched.manifest.commit_id, fetched.manifest.fence)


__all__ = ["Outcome", "Swap", "is_base_there", "read_back"]
