"""Push: pending operations become one commit of the remote, in one atomic step.

Conducts a push in rounds: settle conflicts, build a commit on the base, swap it in; where another
writer came first, again on its base. Owns nothing on disk. The invariant: the compare-and-swap of
the root is the commit. Before it nothing that was uploaded is named by a root; after it everything is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ebooklet_tx.errors import ContentionError, OfflineError, RemoteMissingError
from ebooklet_tx.local.journal.base import Base, read_base
from ebooklet_tx.local.journal.entries import Entry, pending_entries
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.local.journal.pending.conflicts import drop_agreeing
from ebooklet_tx.local.journal.uploads import forget_uploads
from ebooklet_tx.sync.commit.builder import build, place_pending
from ebooklet_tx.sync.commit.change_way import check_lock, renew_lock
from ebooklet_tx.sync.commit.commit_way import adopt
from ebooklet_tx.sync.commit.packing import ReplacedError, reconcile_uploads
from ebooklet_tx.sync.commit.root_swap import finish, note_intent, swap
from ebooklet_tx.sync.commit.swap_rules import fenced_off
from ebooklet_tx.sync.commit.turns import acquire_turn, release_turn
from ebooklet_tx.sync.pull.conflicts import Conflict, ConflictError, find_conflicts
from ebooklet_tx.sync.pull.detach import start_over
from ebooklet_tx.sync.pull.identity import identity_of_file, identity_of_root, reconcile_identity
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.pull.resolve import Resolution, Resolver, apply, check_choice, gives_way, resolve_all
from ebooklet_tx.sync.root_object import DamagedRoot, FetchedRoot, inspect_root
from ebooklet_tx.sync.session import Session

MAX_ROUNDS = 200
CROWD_SECONDS = 0.02


@dataclass(frozen=True, slots=True)
class PushResult:
    """What a push did; true when the remote changed.

    Attributes:
        updated: Whether the remote changed.
        failures: Always empty: a push takes place entirely or raises.
        commit_id: The commit's id, None when there was nothing to push.
        seq: The commit on which the local database stands now.
        set_count: How many keys were set.
        deleted_count: How many keys were deleted.
        resumed_packs: How many packs an earlier, interrupted push had already sent.
        value_bytes: Encoded bytes of the values that were set.
    """

    updated: bool
    failures: dict[str, str] = field(default_factory=dict)
    commit_id: str | None = None
    seq: int = 0
    set_count: int = 0
    deleted_count: int = 0
    resumed_packs: int = 0
    value_bytes: int = 0

    def __bool__(self) -> bool:
        return self.updated


def push(session: Session, *, force: bool = False, on_conflict: str | Resolver = "raise") -> PushResult:
    """Publishes every pending operation as one commit.

    Args:
        session: The session; what is in its overlay is committed locally first.
        force: Put our side on top of conflicts, write the whole database anew if the remote is gone, and
            commit also where there is nothing to push.
        on_conflict: What to do about keys that another writer changed too.

    Returns:
        What was done; false when there was nothing to push.

    Raises:
        ConflictError: Another writer changed some of the same keys; nothing was pushed.
        LockLostError: Another writer took the lock over; every operation is pending.
        OfflineError: The store keeps failing; every operation is pending, and whether this commit
            took place is settled by the next push, pull or recover.
        RemoteMissingError: The remote that this database came from is gone; with `force`, values of some
            keys are gone with it, and nothing was changed.
    """
    check_choice(on_conflict)
    with session.push_mutex:
        check_lock(session)
        with session.mutex:
            session.local.commit()
            unresolved = bool(read_intents(session.journal))
        resumed = reconcile_uploads(session.journal, session.remote)
        settled: list[str] = []
        if force:
            settled = _start_over_if_gone(session)
            on_conflict = "ours"
        elif unresolved:
            settled = pull(session).applied
        result = _rounds(session, resumed, on_conflict, always=force)
        with session.mutex:
            # A pull in between may have made values stale, and a choice may have set some.
            session.local.fold_committed()
        # A push that had succeeded unseen counts as this one's success.
        return replace(result, updated=True, commit_id=settled[-1]) if settled and not result else result


def raise_fence(session: Session) -> None:
    """Commits a root with a higher fence, so that the commits of a lock's last holder must fail.

    A remote that does not exist has no root to fence, and no commit to protect.
    """
    with session.push_mutex:
        for number in range(MAX_ROUNDS):
            pull(session)
            with session.mutex:
                base = read_base(session.journal)
            note_fence(session, base.fence)
            if base.seq == 0:
                return
            if _one_round(session, resumed=0, fence=base.fence + 1) is not None:
                session.fence = base.fence + 1
                if session.lock is not None:
                    session.lock.fence_raised()
                return
            backoff(session, number)
    raise contention(session)


def note_fence(session: Session, fence: int) -> None:
    """Notes the fence of a root that was read, and makes sure that the lock was still held after that.

    In this order alone a holder that stood still between the two can't take its successor's fence, which
    is to keep it out, for its own.

    Raises:
        LockLostError: Another writer has the lock.
    """
    if session.lock is not None:
        renew_lock(session)
        session.fence = fence


def _rounds(session: Session, resumed: int, on_conflict: str | Resolver, *, always: bool) -> PushResult:
    """Tries again on another base until the commit is in, settling conflicts as they come up."""
    try:
        for number in range(MAX_ROUNDS):
            if number:
                recheck_lock(session)
            complete = _hear_of_conflicts(session, on_conflict)
            yielding = [] if on_conflict == "raise" else resolve_all(session, on_conflict)
            if not callable(on_conflict):
                drop_agreeing(session.journal)
            try:
                result = _one_round(session, resumed=resumed, yielding=yielding, always=always, complete=complete)
            except ConflictError:
                # What a pull in another thread brought since is settled in the next round.
                if on_conflict == "raise":
                    raise
                continue
            if result is not None:
                return result
            backoff(session, number)
        raise contention(session)
    finally:
        release_turn(session)


def _hear_of_conflicts(session: Session, on_conflict: str | Resolver) -> bool:
    """Pulls where conflicts are known: they are decided, or told of, by what the remote holds now.

    Returns:
        False where they are only told of, and the remote could not be asked.

    Raises:
        OfflineError: They are to be decided, and the remote can't be asked.
    """
    with session.mutex:
        known = find_conflicts(session, agreeing=callable(on_conflict))
    try:
        if known:
            pull(session)
    except OfflineError:
        if on_conflict != "raise":
            raise
        return False
    return True


def recheck_lock(session: Session) -> None:
    """Before another round: a lock has to be held still, and where commits take turns ours is kept.

    A turn that began with a base of before the queue is spent on finding that out. With as many writers as
    there are in the queue, only the first of them would get a commit in; so the next is kept for the whole
    round, once all packs have been sent.
    """
    if session.lock is not None:
        # Somebody else commits although we hold the lock: do we still?
        check_lock(session)
    elif session.commit_lock is not None and session.turn is None and not session.remote.conditional:
        acquire_turn(session)
        pull(session)


def backoff(session: Session, number: int) -> None:
    """Lets the writers that collided go apart: up to a growing bound, at random."""
    policy = session.remote.policy
    bound_seconds = min(policy.cap_seconds, CROWD_SECONDS * 2 ** min(number, 6), policy.base_seconds * 10)
    policy.sleep(policy.random() * bound_seconds)


def contention(session: Session) -> ContentionError:
    """Returns the error of a commit that lost every round to other writers."""
    return ContentionError(
        f"{MAX_ROUNDS} commits of other writers came first at {session.remote.root_place}; every operation "
        "is pending, push again when there is less traffic"
    )


def _one_round(
    session: Session,
    *,
    resumed: int,
    fence: int | None = None,
    yielding: Sequence[Resolution] = (),
    always: bool = False,
    complete: bool = True,
) -> PushResult | None:
    """One attempt on one base; None when another writer's commit came first.

    Args:
        session: The session.
        resumed: How many packs had been sent before.
        fence: The commit is of this fence and of nothing else, and is made in any case.
        yielding: Conflicts in which our change gives way once the commit is in.
        always: Whether the commit is made although there is nothing to push.
        complete: Whether the conflicts that are known are all.
    """
    with session.mutex:
        replacing = fence is None and is_replacing(session.journal)
    seen = _inspect_replaced(session) if replacing else None
    replaced = seen if isinstance(seen, FetchedRoot) else None
    with session.mutex:
        if replacing and not is_replacing(session.journal):
            # A pull in another thread has found that it took place.
            return None
        base = read_base(session.journal)
        # Who lost the lock is told so before the conflicts that came of it.
        check_fence(session, base)
        conflicts = [] if fence is not None else _undecided(find_conflicts(session), yielding)
        if conflicts:
            raise ConflictError(conflicts, session.remote.root_place, complete=complete)
        entries = [] if fence is not None else _to_push(pending_entries(session.journal), yielding)
    if fence is not None:
        base = replace(base, fence=fence)
    elif not entries and not replacing and base.seq and not always:
        # That the remote still has what we give way to was heard in this round.
        apply(session.journal, yielding)
        return PushResult(False, seq=base.seq)
    if session.remote.offline:
        raise OfflineError(
            f"nothing was pushed to {session.remote.root_place}: {session.local.path} was opened offline; "
            "everything stays pending, open it again without offline and push"
        )
    if base.seq and base.etag is None and not replacing:
        # The commit is known, the object that holds it is not: an answer was lost. Read it.
        pull(session)
        return None
    if replaced is not None:
        adopt(session.remote, replaced.manifest.commits)
    if replacing or not base.seq:
        # No fence was noted of a root that is replaced, or that was not there.
        note_fence(session, replaced.manifest.fence if replaced is not None else 0)
    try:
        places = place_pending(session, entries)
        commit = build(session, base, replaced, entries, places)
    except ReplacedError:
        # Another thread writes and prunes beside this: what it wrote is pushed instead.
        return None
    base_etag = seen.etag if seen is not None else base.etag
    if not note_intent(session.journal, commit, base_etag, entries):
        return None
    outcome = swap(session, commit, base_etag)
    if not outcome.applied:
        return None
    if outcome.etag is not None:
        finish(session, outcome.commit or commit, outcome.etag)
    if fence is None:
        apply(session.journal, yielding)
        forget_uploads(session.journal)
    return PushResult(
        True,
        commit_id=commit.manifest.commit_id,
        seq=commit.manifest.seq,
        set_count=commit.record.set_count,
        deleted_count=commit.record.deleted_count,
        resumed_packs=resumed,
        value_bytes=commit.record.value_bytes,
    )


def _inspect_replaced(session: Session) -> FetchedRoot | DamagedRoot | None:
    """Reads the root that the push is to replace, and gives ours the uuid that it is to have in its place."""
    if session.remote.offline:
        return None
    seen = inspect_root(session.remote)
    if seen is not None:
        here = identity_of_file(session.local, session.type, session.serializer_name)
        there = None
        if isinstance(seen, FetchedRoot):
            there = identity_of_root(seen.manifest, session.remote.root_place)
        reconcile_identity(session.local, here, there)
    return seen


def _undecided(conflicts: Sequence[Conflict], yielding: Sequence[Resolution]) -> list[Conflict]:
    decided = {item.conflict.key: item for item in yielding}
    return [
        conflict
        for conflict in conflicts
        if conflict.key not in decided
        or not gives_way(decided[conflict.key], conflict.theirs_version.digest, conflict.ours_version.digest)
    ]


def _to_push(entries: Sequence[Entry], yielding: Sequence[Resolution]) -> list[Entry]:
    decided = {item.conflict.key: item for item in yielding}
    return [
        entry
        for entry in entries
        if entry.key not in decided or not gives_way(decided[entry.key], entry.remote_digest, entry.digest)
    ]


def check_fence(session: Session, base: Base) -> None:
    """Raises when the root shows that somebody else took the lock over."""
    if session.lock is not None and fenced_off(base.fence, session.fence):
        session.lock.mark_lost("the root carries a higher fence")
        session.lock.check()


def _start_over_if_gone(session: Session) -> list[str]:
    """Pulls, or makes everything pending where the remote is gone.

    Returns:
        Ids of unresolved pushes that turned out to have succeeded.
    """
    applied: list[str] = []
    try:
        applied = pull(session).applied
    except RemoteMissingError:
        start_over(session.local, session.remote.root_place)
    return applied


__all__ = [
    "MAX_ROUNDS",
    "PushResult",
    "check_fence",
    "contention",
    "note_fence",
    "push",
    "raise_fence",
    "recheck_lock",
    "backoff",
]
