"""Swapping a commit in: the compare-and-swap of the root, and finding out what became of it.

Owns the journal's `intent` table. The invariant: the intent, written before the swap, holds the
commit's rows, so that whoever learns that the swap took place can make them the base, whatever has
happened to the process or the answer. No answer but a plain success is believed before the root has
been read back.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ebooklet_tx.errors import (
    Error,
    OfflineError,
    PreconditionFailedError,
    RemoteMissingError,
    TransientStoreError,
)
from ebooklet_tx.local.journal import Entry, driver
from ebooklet_tx.remote.segment import read_segment
from ebooklet_tx.sync.building import Commit
from ebooklet_tx.sync.joining import REPLACED
from ebooklet_tx.sync.pull import (
    DamagedRoot,
    FetchedRoot,
    is_logged,
    look_at_root,
    pull,
    replacement_applied,
    take_in_root,
)
from ebooklet_tx.sync.session import Session, base_facts, read_base
from ebooklet_tx.sync.swap_rules import RootSeen, Verdict, judge
from ebooklet_tx.sync.take_in import take_in
from ebooklet_tx.sync.turns import give_turn_back, take_turn
from ebooklet_tx.timestamps import now_us


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a swap; no ETag when others have already committed on top of it."""

    applied: bool
    etag: str | None = None


def write_intent(session: Session, commit: Commit, base_etag: str | None, entries: Sequence[Entry]) -> bool:
    """Notes what is about to be swapped in; False when the commit says what is not wanted any more.

    Until the intent stands, an operation that is undone leaves nothing behind, and the commit would
    bring it back. What is undone later stays pending, on top of the commit.
    """
    with session.mutex, session.journal.transaction() as connection:
        raw = driver(connection)
        if not _all_wanted(raw, [entry.key for entry in entries]):
            return False
        raw.execute(
            "INSERT INTO intent(commit_id, seq, base_etag, image, begun_at_us) VALUES (?, ?, ?, ?, ?)",
            (commit.manifest.commit_id, commit.manifest.seq, base_etag, commit.image_blob, now_us()),
        )
    return True


def _all_wanted(raw: sqlite3.Connection, keys: Sequence[str]) -> bool:
    """True when each of the keys still has a pending operation."""
    pending = {key for (key,) in raw.execute("SELECT key FROM entry WHERE pending != 0")}
    return pending.issuperset(keys)


def swap(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    """Puts the root if the old one is still there.

    Whatever is not a plain success is read back before it means anything: an answer may be lost,
    and a store may report a loser's or a winner's write in any way it likes.
    """
    sent = _Sent()
    swap_once = _swap_if_unchanged if session.remote.conditional else _swap_in_turn
    try:
        return swap_once(session, commit, base_etag, sent)
    except Error:
        if not sent.perhaps:
            _forget_intent(session, commit)
        raise


@dataclass(slots=True)
class _Sent:
    """Whether a store may have got a commit's root."""

    perhaps: bool = False


def _forget_intent(session: Session, commit: Commit) -> None:
    """Forgets a push of which nothing can have arrived: there is nothing to find out about it."""
    with session.mutex, session.journal.transaction() as connection:
        driver(connection).execute("DELETE FROM intent WHERE commit_id = ?", (commit.manifest.commit_id,))


def _swap_if_unchanged(session: Session, commit: Commit, base_etag: str | None, sent: _Sent) -> Outcome:
    remote = session.remote
    outcome = Outcome(applied=False)
    for attempt in remote.policy.attempts_for("push", location=remote.store.location, key=remote.names.root):
        with attempt:
            before = sent.perhaps
            try:
                sent.perhaps = True
                outcome = Outcome(
                    applied=True,
                    etag=remote.store.put(
                        remote.names.root,
                        commit.root,
                        if_match=base_etag,
                        if_absent=base_etag is None,
                        metadata=_metadata(commit),
                    ),
                )
            except (PreconditionFailedError, TransientStoreError) as error:
                if isinstance(error, TransientStoreError) and not error.may_have_applied:
                    sent.perhaps = before
                outcome = _read_back(session, commit, base_etag, error)
    return outcome


def _swap_in_turn(session: Session, commit: Commit, base_etag: str | None, sent: _Sent) -> Outcome:
    """Puts the root where conditions don't work: in one's turn, reading it before and after.

    Weaker than a compare-and-swap: a holder that stands still between reading and writing for
    longer than its ticket lasts can overwrite another's commit. Reading afterwards tells it so.
    """
    remote = session.remote
    held = session.lock or session.turn
    try:
        lock = held or take_turn(session)
        if lock is not None:
            lock.check()
        there = look_at_root(remote)
        if (there.etag if there is not None else None) != base_etag:
            return _read_back(session, commit, base_etag, PreconditionFailedError("the root has changed"))
        sent.perhaps = True
        try:
            remote.store.put(remote.names.root, commit.root, metadata=_metadata(commit))
        except OfflineError as error:
            return _read_back(session, commit, base_etag, error)
        return _read_back(session, commit, base_etag, PreconditionFailedError("the root was overwritten"))
    except TransientStoreError as error:
        raise OfflineError(
            f"the commit did not arrive at {remote.root_place}, or does not show yet; every operation is "
            f"pending, push again. Last failure: {error}"
        ) from error
    finally:
        if held is None:
            give_turn_back(session)


def _metadata(commit: Commit) -> dict[str, str]:
    return {"commit-id": commit.manifest.commit_id}


def _read_back(session: Session, commit: Commit, base_etag: str | None, failure: Exception) -> Outcome:
    """Finds out what became of a swap.

    Raises:
        TransientStoreError: The old root is still there: the swap may be tried again as it is.
    """
    remote = session.remote
    with session.mutex:
        base = read_base(session.journal)
    fetched = look_at_root(remote)
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
        replacing = bool(session.journal.get_meta("replace_remote"))
    if replacing and not replacement_applied(session, fetched):
        return Outcome(applied=False)
    # Somebody else's root. Ours may lie below it: taking it in settles that by its log.
    if take_in_root(session, fetched, since=base) is None:
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


def finish(session: Session, commit: Commit, etag: str) -> None:
    """Makes a commit that took place the base; what was written since stays pending on top of it."""
    image = read_segment(commit.image_blob, name="the commit just pushed")
    facts: dict[str, Any] = base_facts(commit.manifest, etag, commit.tail)
    with session.mutex:
        if read_base(session.journal).seq >= commit.manifest.seq:
            # A pull in another thread has come across the commit, and maybe others on top.
            return
        take_in(
            session.journal,
            [image],
            base_seq=commit.manifest.seq - 1,
            facts=facts | REPLACED,
            own_seq=commit.manifest.seq,
        )


__all__ = ["Outcome", "finish", "swap", "write_intent"]
