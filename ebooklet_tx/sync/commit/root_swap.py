"""Swapping a commit in: the compare-and-swap of the root, and finding out what became of it.

Owns the journal's `intent` table. The invariant: the intent, written before the swap, holds the
commit's rows, so that whoever learns that the swap took place can make them the base, whatever has
happened to the process or the answer.
"""

from __future__ import annotations

from collections.abc import Sequence

from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    OfflineError,
    PreconditionFailedError,
    TransientStoreError,
)
from ebooklet_tx.formats.segment import read_segment
from ebooklet_tx.local.journal.base import base_facts, read_base
from ebooklet_tx.local.journal.entries import Entry
from ebooklet_tx.local.journal.facts import REPLACED, type_fact
from ebooklet_tx.local.journal.index_images import apply_images
from ebooklet_tx.local.journal.intents import Intent, drop_intents, write_intent
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.sync.commit.builder import Commit
from ebooklet_tx.sync.commit.change_way import fit_lock, move, put_conditionally, ticket_of
from ebooklet_tx.sync.commit.read_back import Outcome, Sent, read_back
from ebooklet_tx.sync.commit.turns import acquire_turn, release_turn
from ebooklet_tx.sync.root_object import base_of, inspect_root
from ebooklet_tx.sync.session import Session
from ebooklet_tx.timestamps import now_us

STALE_REFUSALS = 2
"""How often a swap is refused, with the very ETag there before and after, until conditions are doubted."""


def note_intent(journal: Journal, commit: Commit, base_etag: str | None, entries: Sequence[Entry]) -> bool:
    """Notes what is about to be swapped in; False when one of the operations was undone meanwhile."""
    intent = Intent(commit.manifest.commit_id, commit.manifest.seq, base_etag, commit.image_blob)
    return write_intent(journal, intent, (entry.key for entry in entries), begun_at_us=now_us())


def swap(session: Session, commit: Commit, base_etag: str | None) -> Outcome:
    """Puts the root if the old one is still there.

    Whatever is not a plain success is read back before it means anything: an answer may be lost,
    and a store may report a loser's or a winner's write in any way it likes.
    """
    sent = Sent()
    swap_once = move if commit.moves else _swap_if_unchanged if commit.swaps else _swap_in_turn
    try:
        return swap_once(session, commit, base_etag, sent)
    except Error:
        if not sent.perhaps:
            # Nothing can have arrived: there is nothing to find out about it.
            drop_intents(session.journal, [commit.manifest.commit_id])
        raise


def _swap_if_unchanged(session: Session, commit: Commit, base_etag: str | None, sent: Sent) -> Outcome:
    remote = session.remote
    outcome = Outcome(applied=False)
    refusals = 0
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
                        metadata=commit.object_metadata,
                    ),
                )
            except ConditionUnsupportedError:
                remote.in_doubt = remote.place is not None
                if not remote.in_doubt:
                    raise
                return Outcome(applied=False)
            except (PreconditionFailedError, TransientStoreError) as error:
                if isinstance(error, TransientStoreError) and not error.may_have_applied:
                    sent.perhaps = before
                try:
                    outcome = read_back(session, commit, base_etag, error)
                except TransientStoreError:
                    refusals += isinstance(error, PreconditionFailedError)
                    if refusals < STALE_REFUSALS or remote.place is None:
                        raise
                    # Refused, and the very ETag is there: that conditions work here has gone stale.
                    remote.in_doubt = True
                    return Outcome(applied=False)
    return outcome


def _swap_in_turn(session: Session, commit: Commit, base_etag: str | None, sent: Sent) -> Outcome:
    """Puts the root where conditions don't work: in one's turn, reading it before and after.

    Weaker than a compare-and-swap: a holder that stands still between reading and writing for
    longer than its ticket lasts can overwrite another's commit. Reading afterwards tells it so.
    """
    remote = session.remote
    fit_lock(session)
    held = ticket_of(session)
    try:
        lock = held or acquire_turn(session)
        if lock is not None:
            lock.check()
        there = inspect_root(remote)
        if (there.etag if there is not None else None) != base_etag:
            return read_back(session, commit, base_etag, PreconditionFailedError("the root has changed"))
        sent.perhaps = True
        try:
            if base_etag is None:
                put_conditionally(remote, commit, None)
            else:
                remote.store.put(remote.names.root, commit.root, metadata=commit.object_metadata)
        except (OfflineError, PreconditionFailedError) as error:
            return read_back(session, commit, base_etag, error)
        return read_back(session, commit, base_etag, PreconditionFailedError("the root was overwritten"))
    except TransientStoreError as error:
        raise OfflineError(
            f"the commit did not arrive at {remote.root_place}, or does not show yet; every operation is "
            f"pending, push again. Last failure: {error}"
        ) from error
    finally:
        if held is None:
            release_turn(session)


def finish(session: Session, commit: Commit, etag: str) -> None:
    """Makes a commit that took place the base; what was written since stays pending on top of it."""
    image = read_segment(commit.image_blob, name="the commit just pushed")
    base = base_of(commit.manifest, etag, commit.root)
    with session.mutex:
        if read_base(session.journal).seq >= commit.manifest.seq:
            # A pull in another thread has come across the commit, and maybe others on top.
            return
        apply_images(
            session.journal,
            [image],
            base_seq=commit.manifest.seq - 1,
            facts=base_facts(base) | type_fact(commit.manifest.type) | REPLACED,
            own_seq=commit.manifest.seq,
        )


__all__ = ["Outcome", "finish", "swap", "note_intent"]
