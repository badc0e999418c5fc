"""Pull: the journal moves on to the commit that the remote's root names.

A pipeline: read a view of the journal, fetch the root and what is needed of its index, decide what that means
(`move_base`), apply it. The invariant: everything is fetched and checked before the journal is touched, and a
root is applied only to the base from which it was read. It is also how an unresolved push is settled: a commit of
ours that the root's history has took place, whatever became of the store's answer.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from ebooklet_tx.errors import (
    ContentionError,
    InvalidArgumentError,
    ObjectMissingError,
    RemoteIntegrityError,
    RemoteMissingError,
)
from ebooklet_tx.formats.manifest import Manifest
from ebooklet_tx.formats.root import FirstFormatError
from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.reader import row_count
from ebooklet_tx.local.detach import finish_detaching
from ebooklet_tx.local.journal.base import Base, base_facts, read_base
from ebooklet_tx.local.journal.facts import REPLACED, type_fact
from ebooklet_tx.local.journal.intents import drop_intents, read_intents
from ebooklet_tx.local.journal.journal import Journal, driver, put_meta
from ebooklet_tx.local.journal.known import is_any_pending
from ebooklet_tx.local.journal.operations import ADOPTED, IN_DOUBT
from ebooklet_tx.local.journal.pending.pull_view import PullView, read_pull_view
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import BaseIndex
from ebooklet_tx.sync.commit.swap_rules import may_still_apply
from ebooklet_tx.sync.look_up import know_pending
from ebooklet_tx.sync.pull.identity import check_identity, identity_of_file, identity_of_root, join, may_join
from ebooklet_tx.sync.pull.move_base import apply_move, late_keys, outcomes_of, plan_move
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import FetchedRoot, base_of, read_later_root, read_root_or_none
from ebooklet_tx.sync.session import Session

MAX_TRIES = 100
"""How often a pull begins anew because another session with the same file was first."""

PLANS = 4
"""So often a pull finds out what it takes, as long as other threads write keys meanwhile of which it did not look
up what they had. Then that is inferred, which takes a value that a compaction has moved for a changed one."""


@dataclass(slots=True, repr=False)
class PullResult(ShownAsTable):
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


def pull(session: Session, handed: FetchedRoot | None = None, *, needed: bool = False) -> PullResult:
    """Applies what other writers have committed, and settles pushes whose outcome is not known.

    One request when nothing changed. Pending operations stay; `conflicts` tells which of them meet
    a change of another writer. A session at a snapshot stays where it is.

    A session that only reads takes the local lock for the moment in which it applies a commit. While a writer on
    this machine has it, nothing is applied: that writer keeps the journal current.

    Args:
        session: The session.
        handed: A root that another writer of this machine has just written. It is taken for the newest, and no
            request is made, where it is of this database and later than the base.
        needed: Whether the commit is applied all the same, as what the journal stands on is gone.

    Raises:
        RemoteMissingError: The remote database that this one was based on, or the snapshot, is gone.
        UnsupportedFormatError: It is of format 1, and this journal never knew that one, or of a newer format.
        UUIDMismatchError: Another database lies in its place.
        RemoteIntegrityError: What lies there is damaged; the journal is as it was.
        OfflineError: The remote can't be reached; the journal is as it was.
    """
    if session.at is not None:
        _check_snapshot(session.remote, session.at)
        return PullResult(seq=read_base(session.journal).seq)
    for number in range(MAX_TRIES):
        result = _pull_once(session, needed=needed, handed=handed, is_last_plan=number >= PLANS - 1)
        handed = None
        if result is not None:
            _settle_doubts(session)
            return result
    raise ContentionError(
        f"the database {session.remote.root_place} was pulled {MAX_TRIES} times, and other sessions with "
        f"{session.local.path} moved on first each time; try again"
    )


def _check_snapshot(remote: Remote, name: str) -> None:
    try:
        remote.store.head(remote.names.snapshot(name))
    except ObjectMissingError as error:
        raise RemoteMissingError(
            f"the snapshot {name!r} of {remote.root_place} was deleted, and with it what this session reads; "
            "open another, or the database itself"
        ) from error


def _settle_doubts(session: Session) -> None:
    """Finds out what the remote has of pending keys of which a move of the base left it unknown.

    Conflicts are told by it, and what becomes of an adopted file. Costs lookups, once.
    """
    journal = session.journal
    if not (journal.get_meta(IN_DOUBT) or journal.get_meta(ADOPTED)):
        return
    if session.index.of_base(read_base(journal)) is None:
        return
    know_pending(session.local, session.index, lambda: _pull_once(session, needed=False))

    def settled() -> None:
        with session.journal.transaction() as transaction:
            put_meta(transaction, {ADOPTED: None, IN_DOUBT: None})

    # Where a writer beside this reader has the lock, it settles them.
    session.local.try_maintain(settled)


def _pull_once(
    session: Session, *, needed: bool, handed: FetchedRoot | None = None, is_last_plan: bool = True
) -> PullResult | None:
    """One pull; None when another thread moved the base, or wrote keys, meanwhile; see `apply_root`."""
    local, remote = session.local, session.remote
    view = read_pull_view(local.journal)
    unchanged = PullResult(seq=view.base.seq)
    if view.replacing and not view.intents:
        return unchanged
    try:
        fetched = handed
        if fetched is None or not _is_later(fetched.manifest, local.file.header.uuid.hex(), view):
            fetched = read_later_root(remote, view.base.etag, local.file.header.uuid.hex(), view.base.seq)
    except RemoteIntegrityError:
        if not view.replacing:
            raise
        # It is replaced whether it can be read or not.
        return unchanged
    except FirstFormatError:
        if not view.replacing and view.base.format != 1:
            raise
        # What is here is served, and a forced push writes the remote anew.
        return unchanged
    except ObjectMissingError as error:
        with session.mutex:
            # What a transaction has read must not change under it.
            detached = not session.in_transaction and finish_detaching(local)
        if view.base.seq and not detached:
            raise _remote_missing(remote) from error
        dead = [each.commit_id for each in view.intents if not may_still_apply(each.base_etag, None)]
        if dead:
            local.try_maintain(lambda: _drop_dead(local.journal, dead))
        return PullResult(missing=True)
    if fetched is None or (view.replacing and not replacement_applied(local, session.index, fetched)):
        return unchanged
    try:
        # What was handed over is pulled for a commit, which makes this durable, or is pulled again.
        durable = fetched is not handed
        return apply_root(
            session, fetched, since=view.base, needed=needed, durable=durable, is_last_plan=is_last_plan
        )
    except ObjectMissingError as error:
        # Replaced since, and collected by now; or damaged.
        again = read_root_or_none(remote)
        if again is not None and again.etag == fetched.etag:
            raise _part_missing(remote, error) from error
        return None


def _is_later(manifest: Manifest, uuid: str, view: PullView) -> bool:
    """Whether a root that was handed over is one to move on to, and nothing else is to be settled."""
    settled = not (view.replacing or view.intents) and view.base.format == 2
    return settled and manifest.uuid == uuid and 0 < view.base.seq < manifest.seq


def _drop_dead(journal: Journal, commit_ids: list[str]) -> None:
    with journal.transaction() as transaction:
        drop_intents(driver(transaction), commit_ids)


def replacement_applied(local: LocalStore, index: BaseIndex, fetched: FetchedRoot) -> bool:
    """True when the push that was to replace the remote has done so: the root's history names its commit."""
    intents = read_intents(local.journal)
    if not intents or fetched.manifest.uuid != local.file.header.uuid.hex():
        return False
    return bool(outcomes_of(intents, index.of_root(fetched)).applied)


def apply_root(
    session: Session,
    fetched: FetchedRoot,
    *,
    since: Base | None = None,
    needed: bool = False,
    wait_seconds: float = 0.0,
    durable: bool = True,
    is_last_plan: bool = True,
) -> PullResult | None:
    """Moves the journal on to a root that was read, fetching what it names; settles intents.

    Args:
        session: The session.
        fetched: The root.
        since: The base as it was before the root was read: once another thread or session has moved it,
            the root may be older than the base. None where nobody else can have.
        needed: As in `pull`.
        wait_seconds: How long a session that only reads waits for the local lock.
        durable: Whether the move survives power loss even where no transaction follows it.
        is_last_plan: Whether the move is made also where keys were written since it was planned of which it did
            not look up what they had.

    Returns:
        What was done; None when the base moved between the two, or such keys were written.

    Raises:
        UUIDMismatchError: The root is another database's.
        RemoteIntegrityError: What it names is missing or damaged; the journal is as it was.
        InvalidArgumentError: A transaction is at work.
    """
    local, manifest = session.local, fetched.manifest
    there = identity_of_root(manifest, session.remote.root_place)
    with session.mutex:
        view = read_pull_view(local.journal)
        if since is not None and has_moved(view.base, since):
            return None
        here = identity_of_file(local, session.type, session.serializer_name)
        if local.file.locked and may_join(here, there, view):
            _refuse_in_transaction(session.in_transaction)
            join(local, there)
        else:
            check_identity(here, there, view.base.seq)
        session.type = manifest.type
        _refuse_in_transaction(session.in_transaction)
        if local.overlay:
            # Pending on the base that its writer saw.
            local.commit()
        local.write_fetched()
    with session.remote.reporter.phase("pull"):
        indexes = session.index.of_base(view.base), session.index.of_root(fetched)
        move = plan_move(local.journal, view.base, *indexes, view.intents)
    count = min(manifest.key_count, _most_keys(session.index.of_root(fetched)))
    # The ETag of a snapshot's root is none of the root's.
    facts = base_facts(replace(base_of(manifest, fetched.etag or None, fetched.data), key_count=count))
    moved = False

    def apply() -> None:
        nonlocal moved
        _refuse_in_transaction(session.in_transaction)
        if local.overlay:
            local.commit()
        with local.journal.transaction(durable=durable) as transaction:
            # Inside: a session beside this one can't move it any more.
            moved = has_moved(read_base(local.journal), view.base)
            if not (moved or is_last_plan):
                moved = bool(late_keys(driver(transaction), move))
            if moved:
                return
            apply_move(driver(transaction), move)
            replaced = any(intent.replaces for intent in move.outcomes.applied)
            said = type_fact(manifest.type) | (
                {IN_DOUBT: 1} if move.full and is_any_pending(driver(transaction)) else {}
            )
            put_meta(transaction, facts | said | (REPLACED if replaced else {}))
            local.pieces.write(transaction)
        session.remote.mode.follow(manifest.commits)

    if not local.try_maintain(apply, wait_seconds):
        if not needed:
            return PullResult(seq=read_base(local.journal).seq)
        with session.mutex:
            apply()
    if moved:
        return None
    return PullResult(
        changed=manifest.commit_id != view.base.commit_id,
        seq=manifest.seq,
        applied=[intent.commit_id for intent in move.outcomes.applied],
        dropped=[intent.commit_id for intent in (*move.outcomes.dropped, *move.outcomes.lost)],
    )


def has_moved(base: Base, since: Base) -> bool:
    """Whether a journal stands on another base than before: what was found out for that one is out of date."""
    return base != since


def _most_keys(index: CommitIndex) -> int:
    """Returns the most keys that an index can have: by the count `list(db)` makes room."""
    tail = 0 if index.tail is None else len(index.tail)
    return tail + sum(row_count(run) for run in index.manifest.runs)


def _part_missing(remote: Remote, error: ObjectMissingError) -> RemoteIntegrityError:
    return RemoteIntegrityError(
        f"a part of the index of {remote.root_place} is missing although the root names it: {error}; pull again, "
        "and if it stays missing restore it from a backup or push(force_push=True) from a complete copy"
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
