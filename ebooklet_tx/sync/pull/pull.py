"""Pull: the journal moves on to the commit that the remote's root names.

A pipeline: read a view of the journal, fetch the root and what it names, decide what that means (`pull_rules`),
apply it. The invariant: everything that a root names is fetched and checked before the journal is touched, and
a root is applied only to the base from which it was read. It is also how an unresolved push is settled: a commit
of ours that the root or its log names had succeeded, whatever became of the store's answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.segment import read_segment
from ebooklet_tx.local.detach import finish_detaching
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.facts import REPLACED, type_fact
from ebooklet_tx.local.journal.index_images import apply_images
from ebooklet_tx.local.journal.intents import Intent, drop_intents, read_intents
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.pending.pull_view import read_pull_view
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.pull.identity import check_identity, identity_of_file, identity_of_root, join, may_join
from ebooklet_tx.sync.pull.pull_rules import Settled, dead_intents, key_count_of, settle_intents
from ebooklet_tx.sync.pull.segments import IndexUpdate, fetch_images, fetch_update, log_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, base_of, read_root
from ebooklet_tx.sync.session import Session


@dataclass(slots=True)
class PullResult:
    """What a pull found; true when something changed.

    Attributes:
        changed: Whether the journal is at another commit now.
        seq: The number of the commit that it is at.
        applied: Ids of unresolved pushes that turned out to have succeeded.
        dropped: Ids of unresolved pushes that turned out not to have taken effect.
        missing: Whether there is no remote database, and none is known to have been there.
    """

    changed: bool = False
    seq: int = 0
    applied: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: bool = False

    def __bool__(self) -> bool:
        return self.changed


def pull(session: Session) -> PullResult:
    """Applies what other writers have committed, and settles pushes whose outcome is not known.

    One request when nothing changed. Pending operations stay; `conflicts` tells which of them meet
    a change of another writer.

    Raises:
        RemoteMissingError: The remote database that this one was based on is gone.
        UUIDMismatchError: Another database lies in its place.
        RemoteIntegrityError: What lies there is damaged; the journal is as it was.
        OfflineError: The remote can't be reached; the journal is as it was.
    """
    result = None
    while result is None:
        result = _pull_once(session)
    return result


def _pull_once(session: Session) -> PullResult | None:
    """One pull; None when another thread moved the base meanwhile."""
    local, remote = session.local, session.remote
    view = read_pull_view(local.journal)
    unchanged = PullResult(seq=view.base.seq)
    if view.replacing and not view.intents:
        return unchanged
    try:
        fetched = read_root(remote, if_none_match=view.base.etag)
    except RemoteIntegrityError:
        if not view.replacing:
            raise
        # It is replaced whether it can be read or not.
        return unchanged
    except ObjectMissingError as error:
        with session.mutex:
            # What a transaction has read must not change under it.
            detached = not session.in_transaction and finish_detaching(local)
        if view.base.seq and not detached:
            raise _remote_missing(remote) from error
        if dead := dead_intents(view.intents, root_etag=None):
            drop_intents(local.journal, dead)
        return PullResult(missing=True)
    if fetched is None or (view.replacing and not replacement_applied(local, remote, fetched)):
        return unchanged
    return apply_root(session, fetched, since=view.base)


def replacement_applied(local: LocalStore, remote: Remote, fetched: FetchedRoot) -> bool:
    """True when the push that was to replace the remote has done so: the root or its log names its commit."""
    intents = read_intents(local.journal)
    manifest = fetched.manifest
    if not intents or manifest.uuid != local.file.header.uuid.hex():
        return False
    if settle_intents(intents, manifest.commit_id, ()).applied:
        return True
    images = fetch_images(remote, fetched, min(intent.seq for intent in intents) - 1)
    return bool(settle_intents(intents, manifest.commit_id, set(log_of(images).values())).applied)


def apply_root(session: Session, fetched: FetchedRoot, *, since: Base | None = None) -> PullResult | None:
    """Moves the journal on to a root that was read, fetching what it names; settles intents.

    Args:
        session: The session.
        fetched: The root.
        since: The base as it was before the root was read: once another thread or session has moved it,
            the root may be older than the base. None where no other can have moved it.

    Returns:
        What was done; None when the base moved between the two.

    Raises:
        UUIDMismatchError: The root is another database's.
        RemoteIntegrityError: What it names is missing or damaged; the journal is as it was.
        InvalidArgumentError: A transaction is at work.
    """
    local, manifest = session.local, fetched.manifest
    there = identity_of_root(manifest, session.remote.root_place)
    with session.mutex:
        view = read_pull_view(local.journal)
        if since is not None and view.base != since:
            return None
        here = identity_of_file(local, session.type, session.serializer_name)
        if local.file.locked and may_join(here, there, view):
            _refuse_in_transaction(session.in_transaction)
            join(local, there)
        else:
            check_identity(here, there, view.base.seq)
        session.type = manifest.type
    update = fetch_update(session.remote, fetched, view.base)
    with session.mutex:
        if read_base(local.journal) != view.base:
            return None
        _refuse_in_transaction(session.in_transaction)
        if local.overlay:
            # Pending on the base that its writer saw.
            local.commit()
        settled = settle_intents(view.intents, manifest.commit_id, update.commits)
        _apply(local.journal, fetched, update, view.base, settled)
        session.remote.mode.follow(manifest.commits)
    return PullResult(
        changed=manifest.commit_id != view.base.commit_id,
        seq=manifest.seq,
        applied=[intent.commit_id for intent in settled.applied],
        dropped=[intent.commit_id for intent in settled.dropped],
    )


def _apply(journal: Journal, fetched: FetchedRoot, update: IndexUpdate, base: Base, settled: Settled) -> None:
    """Makes a root the base: first our own commits below it, then what its index has beyond the old base."""
    for intent in settled.applied:
        _apply_own_commit(journal, intent)
    manifest = fetched.manifest
    count = key_count_of(manifest, 0 if update.whole else base.key_count, update.rows)
    reached = replace(base_of(manifest, fetched.etag, fetched.data), key_count=count)
    apply_images(
        journal,
        update.images,
        base_seq=0 if update.whole else base.seq,
        facts=base_facts(reached) | type_fact(manifest.type),
        full=update.whole and base.seq > 0,
        own_seq=None,
    )


def _apply_own_commit(journal: Journal, intent: Intent) -> None:
    """Makes the operations of a push that succeeded unseen the base of what came after."""
    image = read_segment(intent.image, name=f"the intent {intent.commit_id} in {journal.path}")
    apply_images(
        journal,
        [image],
        base_seq=intent.seq - 1,
        facts={
            "base_seq": intent.seq,
            "base_commit_id": intent.commit_id,
            "base_etag": None,
            **REPLACED,
        },
        own_seq=intent.seq,
        intents_settled=False,
    )


def _refuse_in_transaction(in_transaction: bool) -> None:
    """Raises inside a transaction: what it has read would change under it."""
    if in_transaction:
        raise InvalidArgumentError(
            "the remote has moved on and what is asked for needs a pull, which can't take place inside a "
            "transaction; pull before the block and run it again"
        )


def _remote_missing(remote: Remote) -> RemoteMissingError:
    way_out = (
        "push(force_push=True) writes it anew"
        if remote.store.writable
        else "open the local file with offline=True to read what is here"
    )
    return RemoteMissingError(
        f"the database {remote.root_place} is gone; everything that is local is kept; {way_out}"
    )
