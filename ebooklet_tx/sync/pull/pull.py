"""Pull: the journal moves on to the commit that the remote's root names.

Owns no state. The invariant: one GET of the root decides what there is to take in, everything it
names is fetched and checked before the journal is touched, and one transaction takes it in. It is
also how an unresolved push is settled: a commit of ours that the root or its log names had
succeeded, whatever the answer was that did not come back.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.root import Manifest
from ebooklet_tx.formats.segment import count_rows, read_segment
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.facts import REPLACED, is_replacing, type_fact
from ebooklet_tx.local.journal.index_images import apply_images
from ebooklet_tx.local.journal.intents import Intent, drop_intents, read_intents
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.sync.commit.commit_way import adopt
from ebooklet_tx.sync.commit.swap_rules import may_still_apply, was_applied
from ebooklet_tx.sync.pull.detach import finish_detaching
from ebooklet_tx.sync.pull.identity import check_identity, join, may_join
from ebooklet_tx.sync.pull.segments import fetch_images, log_of
from ebooklet_tx.sync.root_object import FetchedRoot, base_of, read_root
from ebooklet_tx.sync.session import Session

_log = logging.getLogger("ebooklet_tx")


@dataclass(slots=True)
class PullResult:
    """What a pull found; true when something changed.

    Attributes:
        changed: Whether the journal stands on another commit now.
        seq: The commit it stands on.
        applied: Ids of unresolved pushes that turned out to have succeeded.
        dropped: Ids of unresolved pushes that turned out not to have taken effect.
        missing: Whether there is no remote database, and never was one as far as is known.
    """

    changed: bool = False
    seq: int = 0
    applied: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: bool = False

    def __bool__(self) -> bool:
        return self.changed


def pull(session: Session) -> PullResult:
    """Takes in what others have committed, and settles pushes whose outcome is not known.

    One request when nothing changed. Pending operations stay; `conflicts` tells which of them meet
    a change of somebody else's.

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
    with session.mutex:
        base = read_base(session.journal)
        replacing = is_replacing(session.journal)
        if replacing and not read_intents(session.journal):
            return PullResult(seq=base.seq)
    try:
        fetched = read_root(session.remote, if_none_match=base.etag)
    except RemoteIntegrityError:
        if not replacing:
            raise
        # It is replaced whether it can be read or not.
        return PullResult(seq=base.seq)
    except ObjectMissingError as error:
        with session.mutex:
            # A transaction has read what detaching would change under it.
            detached = not session.in_transaction and finish_detaching(session.local)
        if base.seq and not detached:
            way_out = (
                "push(force_push=True) writes it anew"
                if session.remote.store.writable
                else "open the local file with offline=True to read what is here"
            )
            raise RemoteMissingError(
                f"the database {session.remote.root_place} is gone; everything that is local is kept; {way_out}"
            ) from error
        with session.mutex:
            _drop_dead_intents(session.journal, root_etag=None)
        return PullResult(missing=True)
    if fetched is None or (replacing and not replacement_applied(session, fetched)):
        return PullResult(seq=base.seq)
    return apply_root(session, fetched, since=base)


def replacement_applied(session: Session, fetched: FetchedRoot) -> bool:
    """True when the push that was to replace the remote has done so: the root or its log names its commit."""
    with session.mutex:
        intents = read_intents(session.journal)
        same_uuid = fetched.manifest.uuid == session.local.file.header.uuid.hex()
    if not intents or not same_uuid:
        return False
    if any(intent.commit_id == fetched.manifest.commit_id for intent in intents):
        return True
    images = fetch_images(session.remote, fetched, min(intent.seq for intent in intents) - 1)
    committed = set(log_of(images).values())
    return any(intent.commit_id in committed for intent in intents)


def apply_root(session: Session, fetched: FetchedRoot, *, since: Base | None = None) -> PullResult | None:
    """Moves the journal on to a root that was read, fetching what it names; settles intents.

    Args:
        session: The session.
        fetched: The root.
        since: The base as it was before the root was read: once another thread or session has moved it,
            the root may be older than the base. None where nobody else can have.

    Returns:
        What was done; None when the base moved between the two.
    """
    with session.mutex:
        base = read_base(session.journal)
        if since is not None and base != since:
            return None
        intents = read_intents(session.journal)
        if may_join(session, fetched.manifest):
            _refuse_in_transaction(session)
            join(session, fetched.manifest)
        check_identity(session, fetched.manifest)
    manifest = fetched.manifest
    full = _needs_everything(base, manifest)
    images = fetch_images(session.remote, fetched, 0 if full else base.seq)
    log = log_of(images)
    if not full and not _leads_on_from(base, manifest, log):
        _log.warning("the remote's history does not lead on from commit %d; its index is read anew", base.seq)
        full = True
        images = fetch_images(session.remote, fetched, 0)
        log = log_of(images)
    known_seq = 0 if full else base.seq
    # A count is only a word, for which `list(db)` would make room: the index shows the most it can be.
    most = (0 if full else base.key_count) + sum(count_rows(image) for image in images)
    reached = replace(base_of(manifest, fetched.etag, fetched.data), key_count=min(manifest.key_count, most))
    result = PullResult(changed=manifest.commit_id != base.commit_id, seq=manifest.seq)
    committed = set(log.values())
    with session.mutex:
        if read_base(session.journal) != base:
            return None
        _commit_overlay(session)
        for intent in intents:
            if was_applied(intent.commit_id, manifest.commit_id, committed):
                result.applied.append(intent.commit_id)
                _record_own_commit(session.journal, intent)
            else:
                result.dropped.append(intent.commit_id)
        apply_images(
            session.journal,
            images,
            base_seq=known_seq,
            facts=base_facts(reached) | type_fact(manifest.type),
            full=full and base.seq > 0,
            own_seq=None,
        )
        adopt(session.remote, manifest.commits)
    return result


def _commit_overlay(session: Session) -> None:
    """Makes what was written here so far pending on the base that its writer saw, before that moves.

    Raises:
        InvalidArgumentError: A transaction is at work; what it has read would change under it.
    """
    _refuse_in_transaction(session)
    if session.local.overlay:
        session.local.commit()


def _refuse_in_transaction(session: Session) -> None:
    if session.in_transaction:
        raise InvalidArgumentError(
            "the remote has moved on and what is asked for needs a pull, which can't take place inside a "
            "transaction; pull before the block and run it again"
        )


def _drop_dead_intents(journal: Journal, *, root_etag: str | None) -> None:
    """Forgets pushes that can't take effect any more; one that is only late still can."""
    dead = [i.commit_id for i in read_intents(journal) if not may_still_apply(i.base_etag, root_etag)]
    if dead:
        drop_intents(journal, dead)


def _record_own_commit(journal: Journal, intent: Intent) -> None:
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


def _needs_everything(base: Base, manifest: Manifest) -> bool:
    """True when the index can't tell what happened since the base."""
    if base.seq == 0 or base.seq < manifest.tombstone_floor:
        return True
    rewound = manifest.seq < base.seq or (manifest.seq == base.seq and manifest.commit_id != base.commit_id)
    if rewound:
        _log.warning("the remote went from commit %d back to %d; its index is read anew", base.seq, manifest.seq)
    return rewound


def _leads_on_from(base: Base, manifest: Manifest, log: dict[int, str]) -> bool:
    """True when a root's history has our base commit in it.

    An older root that was restored, or a remote that was written anew, may have come to a higher seq
    since; what it says of later commits alone would then be mixed with another history.
    """
    if base.seq in log:
        return log[base.seq] == base.commit_id
    if manifest.seq == base.seq:
        return manifest.commit_id == base.commit_id
    known = {segment.digest for segment in base.segments}
    return any(s.last_seq == base.seq and s.digest in known for s in manifest.segments)
