"""Pull: the journal moves on to the commit that the remote's root names.

Owns no state. The invariant: one GET of the root decides what there is to take in, everything it
names is fetched and checked before the journal is touched, and one transaction takes it in. It is
also how an unresolved push is settled: a commit of ours that the root or its log names had
succeeded, whatever the answer was that did not come back.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from ebooklet_tx.errors import (
    InvalidArgumentError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.root import Manifest, Root, decode_root
from ebooklet_tx.formats.segment import count_rows, iter_log, merge_segments, read_segment
from ebooklet_tx.local.journal.intents import Intent, drop_intents, read_intents
from ebooklet_tx.local.journal.journal import Journal, put_meta
from ebooklet_tx.records import SegmentRef
from ebooklet_tx.sync.commit.commit_way import adopt
from ebooklet_tx.sync.commit.swap_rules import may_still_apply, was_applied
from ebooklet_tx.sync.pull.apply import MAX_IMAGES, apply_images
from ebooklet_tx.sync.pull.detach import finish_detaching
from ebooklet_tx.sync.pull.identity import REPLACED, check_identity, join, may_join
from ebooklet_tx.sync.root_object import get_root
from ebooklet_tx.sync.session import Base, Remote, Session, base_facts, read_base

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


@dataclass(frozen=True, slots=True)
class DamagedRoot:
    """A root that can't be read, as it lies there."""

    etag: str
    error: RemoteIntegrityError


@dataclass(frozen=True, slots=True)
class FetchedRoot:
    """A root with its bytes and the ETag under which it was read."""

    root: Root
    etag: str
    data: bytes

    @property
    def manifest(self) -> Manifest:
        return self.root.manifest


def read_root(remote: Remote, *, if_none_match: str | None = None) -> FetchedRoot | None:
    """Reads the root, one request; None when it still has the ETag given.

    Raises:
        ObjectMissingError: There is none.
        UnsupportedFormatError: Something else lies there.
        RemoteIntegrityError: It is damaged.
    """
    blob = get_root(remote.store, remote.names.root, name=remote.root_place, if_none_match=if_none_match)
    if blob is None:
        return None
    return FetchedRoot(decode_root(blob.data, name=remote.root_place), blob.etag, blob.data)


def read_root_or_none(remote: Remote) -> FetchedRoot | None:
    """Reads the root; None when there is none."""
    try:
        return read_root(remote)
    except ObjectMissingError:
        return None


def inspect_root(remote: Remote) -> FetchedRoot | DamagedRoot | None:
    """Reads the root, to be replaced whether it is damaged or not; None when there is none."""
    try:
        blob = get_root(remote.store, remote.names.root, name=remote.root_place)
    except ObjectMissingError:
        return None
    if blob is None:
        return None
    try:
        return FetchedRoot(decode_root(blob.data, name=remote.root_place), blob.etag, blob.data)
    except RemoteIntegrityError as error:
        return DamagedRoot(blob.etag, error)


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
        replacing = bool(session.journal.get_meta("replace_remote"))
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
        if base.seq and not finish_detaching(session):
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
    images = _fetch_images(session.remote, fetched, min(intent.seq for intent in intents) - 1)
    committed = set(_log_of(images).values())
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
    images = _fetch_images(session.remote, fetched, 0 if full else base.seq)
    log = _log_of(images)
    if not full and not _leads_on_from(base, manifest, log):
        _log.warning("the remote's history does not lead on from commit %d; its index is read anew", base.seq)
        full = True
        images = _fetch_images(session.remote, fetched, 0)
        log = _log_of(images)
    known_seq = 0 if full else base.seq
    # A count is only a word, for which `list(db)` would make room: the index shows the most it can be.
    most = (0 if full else base.key_count) + sum(count_rows(image) for image in images)
    facts = base_facts(manifest, fetched.etag, fetched.data)
    facts["base_key_count"] = min(manifest.key_count, most)
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
            facts=facts,
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


def _log_of(images: Sequence[bytes]) -> dict[int, str]:
    """Returns the commit ids that some segments' logs name, by seq."""
    return {record.seq: record.commit_id for image in images for record in iter_log(image)}


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


def _fetch_images(remote: Remote, fetched: FetchedRoot, known_seq: int) -> list[bytes]:
    """Fetches and checks the segments that hold commits after a known one, and the tail."""
    manifest = fetched.manifest
    needed = [segment for segment in manifest.segments if segment.last_seq > known_seq]
    if len(needed) > 1:
        with ThreadPoolExecutor(max_workers=min(remote.threads, len(needed))) as pool:
            images = list(pool.map(lambda segment: fetch_segment(remote, segment), needed))
    else:
        images = [fetch_segment(remote, segment) for segment in needed]
    if fetched.root.tail:
        images.append(read_segment(fetched.root.tail, name=f"the tail of {remote.root_place}"))
    return _few_enough(images)


def _few_enough(images: Sequence[bytes]) -> list[bytes]:
    """Merges the oldest images until as many are left as can be attached at once."""
    images = list(images)
    while len(images) > MAX_IMAGES:
        merged = merge_segments(images[:2], drop_tombstones=False)
        images[:2] = [read_segment(merged, name="a merge of index segments")]
    return images


def fetch_segment(remote: Remote, segment: SegmentRef) -> bytes:
    """Fetches an index segment that a root names, and returns its image, checked.

    Raises:
        RemoteIntegrityError: It is missing or damaged.
    """
    key = remote.names.object(segment.name)
    try:
        blob = remote.store.get(key, max_bytes=segment.size_bytes)
    except ObjectMissingError as error:
        raise RemoteIntegrityError(
            f"the index segment {key!r} at {remote.store.location} is missing although the root names it; "
            "pull again, and if it stays missing restore it from a backup or push(force_push=True) from a "
            "complete copy"
        ) from error
    if blob is None or hashlib.blake2b(blob.data, digest_size=16).hexdigest() != segment.digest:
        raise RemoteIntegrityError(
            f"the index segment {key!r} at {remote.store.location} is not what the root says: its digest "
            "differs; restore it from a backup or push(force_push=True) from a complete copy"
        )
    return read_segment(blob.data, name=f"{key!r} at {remote.store.location}")


def note_connection(journal: Journal, connection_json: str) -> None:
    """Remembers where the remote is, for `recover`; never a credential."""
    if journal.get_meta("connection") != connection_json:
        with journal.transaction() as connection:
            put_meta(connection, {"connection": connection_json})


def known_type(journal: Journal) -> str | None:
    """Returns the type of the database that a journal belongs to; None when it was never told."""
    found = journal.get_meta("type")
    if found is None:
        return "booklet" if read_base(journal).seq else None
    return str(found)


def note_type(journal: Journal, type_name: str) -> None:
    """Remembers of which type the database is, for when its remote can't be asked."""
    if journal.get_meta("type") != type_name:
        with journal.transaction() as connection:
            put_meta(connection, {"type": type_name})
