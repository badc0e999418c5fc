"""Reading a root back: what became of a swap whose answer was no plain success.

Owns no state. The invariant: no answer but a plain success is believed before the root has been read back, and
what the root and its log say decides.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.errors import RemoteMissingError, TransientStoreError
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.commit_log import is_logged
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.sync.commit.builder import Commit
from ebooklet_tx.sync.commit.swap_rules import RootSeen, Verdict, judge
from ebooklet_tx.sync.pull.pull import apply_root, pull, replacement_applied
from ebooklet_tx.sync.root_object import DamagedRoot, FetchedRoot, inspect_root
from ebooklet_tx.sync.session import Session


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a swap.

    Attributes:
        applied: Whether it took place.
        etag: The root's; None when the journal has taken the commit in already, maybe with others on top.
        commit: What was put, where it is not what was asked for: a mover finds out what the root has to say.
    """

    applied: bool
    etag: str | None = None
    commit: Commit | None = None


@dataclass(slots=True)
class Sent:
    """Whether a store may have got a commit's root."""

    perhaps: bool = False


def read_back(session: Session, commit: Commit, base_etag: str | None, failure: Exception) -> Outcome:
    """Finds out what became of a swap.

    Raises:
        TransientStoreError: The old root is still there: the swap may be tried again as it is.
    """
    remote = session.remote
    with session.mutex:
        base = read_base(session.journal)
    fetched = inspect_root(remote)
    if isinstance(fetched, DamagedRoot):
        if fetched.etag != base_etag:
            raise fetched.error from failure
        # The damaged one that is to be replaced is still there.
        raise _untouched(failure) from failure
    commit_id = commit.manifest.commit_id
    verdict = judge(_seen(fetched), commit_id=commit_id, base_etag=base_etag)
    if verdict is Verdict.GONE:
        raise RemoteMissingError(
            f"the database {remote.root_place} was deleted by somebody; everything is pending, "
            "push(force_push=True) writes it anew"
        ) from failure
    if verdict is Verdict.UNTOUCHED or fetched is None:
        raise _untouched(failure) from failure
    if verdict is Verdict.OURS:
        return Outcome(applied=True, etag=fetched.etag)
    with session.mutex:
        replacing = is_replacing(session.journal)
    if replacing and not replacement_applied(session.local, remote, fetched):
        return Outcome(applied=False)
    # Somebody else's root. Ours may lie below it: taking it in settles that by its log.
    if apply_root(session, fetched, since=base) is None:
        pull(session)
    # Not what this pull settled: another thread's may have come first.
    with session.mutex:
        return Outcome(applied=is_logged(session.journal, commit_id))


def _untouched(failure: Exception) -> TransientStoreError:
    asked_seconds = failure.retry_after_seconds if isinstance(failure, TransientStoreError) else None
    return TransientStoreError(str(failure), retry_after_seconds=asked_seconds)


def _seen(fetched: FetchedRoot | None) -> RootSeen | None:
    if fetched is None:
        return None
    return RootSeen(fetched.etag, fetched.manifest.commit_id, fetched.manifest.fence)


__all__ = ["Outcome", "Sent", "read_back"]
