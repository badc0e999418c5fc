"""Push: pending operations become one commit of the remote, in one atomic step.

A push works in rounds: settle conflicts, read what is pending, send its values, build a commit on the base, swap
it in; where another writer came first, again on its base. The invariant: the swap of the root is the commit.
Before it no root names anything that was uploaded; after it the root names everything.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from ebooklet_tx.errors import (
    ContentionError,
    OfflineError,
    RemoteMissingError,
    UnsupportedFormatError,
)
from ebooklet_tx.local.detach import forget_remote, start_over
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.intents import read_intents
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.known import is_any_pending, knows_pending
from ebooklet_tx.local.journal.merged import needed_packs
from ebooklet_tx.local.journal.pending.conflicts import drop_agreeing
from ebooklet_tx.local.journal.pending.push_rows import (
    PushPlan,
    glance_at_bytes,
    look_over,
    postpone,
    read_plan,
)
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.local.pending_values import ReplacedError
from ebooklet_tx.sync.base_index import check_readable
from ebooklet_tx.sync.commit.builder import Below, Changes
from ebooklet_tx.sync.commit.packing import reconcile_uploads, send_values
from ebooklet_tx.sync.commit.publish import below, commit_rows, operation_rows
from ebooklet_tx.sync.commit.push_result import PushResult, result_of
from ebooklet_tx.sync.commit.sent_rows import SentRows
from ebooklet_tx.sync.commit.turns import backoff
from ebooklet_tx.sync.forks.protection import renew
from ebooklet_tx.sync.only_there import keys_only_there, know_copies
from ebooklet_tx.sync.pull.conflicts import Conflict, ConflictError, Decode, find_conflicts
from ebooklet_tx.sync.pull.identity import Identity, identity_of_file, identity_of_root, reconcile_identity
from ebooklet_tx.sync.pull.next_root import NextRoot
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.pull.resolve import (
    Resolution,
    Resolver,
    apply,
    check_choice,
    decided,
    resolve_all,
    undecided,
)
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import DamagedRoot, FetchedRoot, inspect_root
from ebooklet_tx.sync.session import Session

INLINE_VALUE_BYTES = 4 * 1024
"""A value up to this size may ride in the index instead of a pack."""

INLINE_TOTAL_BYTES = 8 * 1024
"""A push whose values together are up to this size sends no pack."""

MAX_ROUNDS = 200


def push(
    session: Session, *, force: bool = False, on_conflict: str | Resolver = "raise", message: str = ""
) -> PushResult:
    """Publishes every pending operation as one commit.

    Args:
        session: The session; what is in its overlay is committed locally first.
        force: Put our side on top of conflicts, write the whole database anew if the remote is gone, and
            commit also where there is nothing to push.
        on_conflict: What to do about keys that another writer changed too.
        message: What the history says of the commit.

    Returns:
        What was done; false when there was nothing to push.

    Raises:
        ConflictError: Another writer changed some of the same keys; nothing was pushed.
        LockLostError: Another writer took the lock over; every operation is pending.
        OfflineError: The store keeps failing; every operation is pending, and whether this commit
            took place is settled by the next push, pull or recover.
        UnsupportedFormatError: The remote is of format 1; `force` writes it anew where all its values are here.
        RemoteMissingError: The remote that this database came from is gone; with `force`, values of some
            keys are gone with it, and nothing was changed.
    """
    check_choice(on_conflict)
    session.local.commit()
    # In this order: a push that ends in between took along what was pending.
    arrival = session.together.arrive()
    was_pending = _is_pending(session.journal)
    with session.push_mutex:
        session.locks.check()
        session.local.commit()
        if read_base(session.journal).format == 1:
            _leave_first_format(session, force=force)
        unresolved = bool(read_intents(session.journal))
        resumed = reconcile_uploads(session.journal, session.remote)
        settled: list[str] = []
        if force or unresolved:
            try:
                settled = pull(session).applied
            except RemoteMissingError:
                if not force:
                    raise
                # Fetched values count as here once they are in the file.
                session.local.commit(fold=True)
                know_copies(session.local, session.index)
                start_over(
                    session.local, session.remote.root_place, keys_only_there(session.local, session.index)
                )
        if force:
            on_conflict = "ours"
        result = _rounds(session, resumed, on_conflict, message, always=force)
        # A pull in between may have made values stale, and a choice may have set some.
        session.local.fold_committed()
        if settled and not result:
            # A push that had succeeded unseen counts as this one's success.
            result = replace(result, updated=True, commit_id=settled[-1])
        return session.together.finish(arrival if was_pending else None, result)


def _leave_first_format(session: Session, *, force: bool) -> None:
    """Makes everything here pending, to replace a root of format 1; unless another writer has done that already.

    Raises:
        UnsupportedFormatError: The push is not forced, or values of some keys are in that remote alone.
    """
    with contextlib.suppress(RemoteMissingError):
        pull(session)
    base = read_base(session.journal)
    if base.format != 1:
        return
    if not force:
        raise UnsupportedFormatError(
            f"{session.remote.root_place} is a database of format 1, which this version of ebooklet_tx does not "
            "write to; every operation is pending. push(force_push=True) writes it anew from what is on this "
            "machine: first push from the others, with the version that they have, and pull here with it"
        )
    check_readable(session.journal, base)
    forget_remote(session.local, base_format=1)


def raise_fence(session: Session) -> None:
    """Commits a root with a higher fence, so that the commits of a lock's last holder must fail.

    A remote that does not exist has no root to fence, and no commit to protect.
    """
    with session.push_mutex:
        for number in range(MAX_ROUNDS):
            pull(session)
            base = read_base(session.journal)
            session.locks.note_fence(base.fence)
            if base.seq == 0:
                return
            fence = base.fence + 1
            on = replace(below(session.index, base), fence=fence)
            if commit_rows(session, on, base.etag, (), Changes()) is not None:
                session.locks.fence_raised(fence)
                return
            backoff(session.remote.policy, number)
    raise contention(session.remote)


# -- rounds ------------------------------------------------------------------------------------


def _rounds(
    session: Session, resumed: int, on_conflict: str | Resolver, message: str, *, always: bool
) -> PushResult:
    """Tries again on another base until the commit is in, settling conflicts as they come up."""
    reader, decode = reader_of(session), session.decode
    next_root = NextRoot(session.remote)
    await_machine = partial(
        session.turns.await_machine,
        session.locks.queue,
        lambda handed: pull(session, next_root.written(handed)),
        next_root.prepare,
    )
    try:
        for number in range(MAX_ROUNDS):
            if number and session.locks.recheck():
                pull(session)
            fresh = False
            if session.locks.is_optimistic and _is_pending(session.journal):
                # While packs are sent the others go on.
                if number or not _sends_packs(*glance_at_bytes(session.journal)):
                    fresh = await_machine()
                session.turns.await_turn(
                    lambda: session.index.records_of(read_base(session.journal)), lambda: bool(pull(session))
                )
            began, base = session.remote.policy.clock(), read_base(session.journal)
            if not base.seq:
                # Mostly all of it is known then.
                look_over(session.journal)
            reader.know_pending()
            complete = fresh or _pull_known_conflicts(reader, decode, on_conflict)
            yielding: list[Resolution] = []
            if on_conflict != "raise":
                # Only a function is asked about keys to which both sides gave the same value.
                conflicts = find_conflicts(reader, decode, agreeing=callable(on_conflict))
                yielding = resolve_all(session.journal, conflicts, on_conflict, session.encode)
            if not callable(on_conflict):
                drop_agreeing(session.journal)
            try:
                result = _one_round(
                    session,
                    resumed=resumed,
                    yielding=yielding,
                    always=always,
                    complete=complete,
                    message=message,
                    await_machine=await_machine,
                )
            except ConflictError:
                # What a pull in another thread brought since is settled in the next round.
                if on_conflict == "raise":
                    raise
                continue
            if result is not None:
                if result:
                    session.turns.won(result.seq, session.remote.policy.clock() - began)
                return result
            if session.locks.is_optimistic and read_base(session.journal).seq > base.seq:
                session.turns.lost(session.remote.policy.clock() - began)
            else:
                backoff(session.remote.policy, number)
        raise contention(session.remote)
    finally:
        session.locks.queue.leave()
        session.locks.release_turn()


def _pull_known_conflicts(reader: Reader, decode: Decode, on_conflict: str | Resolver) -> bool:
    """Pulls where conflicts are known: they are decided, or reported, by what the remote holds now.

    Returns:
        False where they are only reported, and the remote could not be asked.

    Raises:
        OfflineError: They are to be decided, and the remote can't be asked.
    """
    if not find_conflicts(reader, decode, agreeing=callable(on_conflict)):
        return True
    try:
        reader.pull()
        reader.know_pending()
    except OfflineError:
        if on_conflict != "raise":
            raise
        return False
    return True


def contention(remote: Remote) -> ContentionError:
    """Returns the error of a commit that lost every round to other writers."""
    return ContentionError(
        f"{MAX_ROUNDS} commits of other writers came first at {remote.root_place}; every operation "
        "is pending, push again when there is less traffic"
    )


def _one_round(
    session: Session,
    *,
    resumed: int,
    yielding: Sequence[Resolution],
    always: bool,
    complete: bool,
    message: str,
    await_machine: Callable[[], bool],
) -> PushResult | None:
    """One attempt on one base; None when another writer's commit came first.

    Args:
        session: The session.
        resumed: How many packs had been sent before.
        yielding: Conflicts in which our change gives way once the commit is in.
        always: Whether the commit is made although there is nothing to push.
        complete: Whether the conflicts that are known are all.
        message: What the history says of the commit.
        await_machine: Waits for the writers of this machine that came first; true where others were there.
    """
    journal, remote = session.journal, session.remote
    replacing = is_replacing(journal)
    seen = None
    if replacing:
        here = identity_of_file(session.local, session.type, session.serializer_name)
        seen = _inspect_replaced(session.local, remote, here)
    elif read_base(journal).format == 1 and not remote.offline:
        seen = inspect_root(remote)
        if isinstance(seen, FetchedRoot):
            # Another writer has written it anew.
            pull(session)
            return None
    with session.mutex:
        if replacing and not is_replacing(journal):
            # A pull in another thread has found that the replacement took place.
            return None
        base = read_base(journal)
        # A lost lock is reported before the conflicts that came of it.
        session.locks.check_fence(base.fence)
        conflicts = find_conflicts(reader_of(session), session.decode)
        if left := undecided(conflicts, yielding):
            raise ConflictError(left, remote.root_place, complete=complete)
        if not (replacing or remote.offline or knows_pending(journal)):
            # Another thread has written, or pulled, since they were looked up.
            return None
        plan = _plan(journal, decided(conflicts, yielding))
    if not plan.count and not replacing and base.seq and not always:
        # This round has read that the remote still has what our changes give way to.
        apply(journal, yielding)
        return PushResult(False, seq=base.seq)
    if remote.offline:
        raise OfflineError(
            f"nothing was pushed to {remote.root_place}: {session.local.path} was opened offline; "
            "everything stays pending, open it again without offline and push"
        )
    if base.seq and base.etag is None and not replacing:
        # The commit is known, the root object that holds it is not: an answer was lost. Read it.
        pull(session)
        return None
    if replacing or not base.seq:
        # No fence was noted of a root that is replaced, or that was not there.
        session.locks.note_fence(seen.manifest.fence if isinstance(seen, FetchedRoot) else 0)
    if isinstance(seen, FetchedRoot):
        remote.mode.follow(seen.manifest.commits)
        on = Below(seen.manifest, None, seen.manifest.fence)
    else:
        on = Below() if replacing else below(session.index, base)
    base_etag = base.etag if seen is None else seen.etag
    sent = SentRows()
    try:
        if _sends_packs(plan.new_bytes, plan.largest_bytes):
            send_values(session.local, remote, plan, sent)
        for fork_id, packs in needed_packs(journal).items():
            renew(remote, fork_id, packs)
        optimistic = session.locks.is_optimistic and plan.count > 0
        if optimistic and await_machine():
            # Those that it waited for have committed meanwhile.
            return None
        rows = operation_rows(session.local, remote, plan, on.seq + 1, sent)
        counts = (plan.set_count, plan.deleted_count, plan.value_bytes, plan.key_change, plan.count)
        changes = Changes(*counts, message)
        commit = commit_rows(session, on, base_etag, rows, changes, plan=plan, replaces=replacing)
    except ReplacedError:
        # Another thread writes and prunes meanwhile: what it wrote is pushed instead.
        return None
    finally:
        sent.close()
    if commit is None:
        return None
    apply(journal, yielding)
    return result_of(commit.record, resumed)


def _sends_packs(new_bytes: int, largest_bytes: int) -> bool:
    return new_bytes > INLINE_TOTAL_BYTES or largest_bytes > INLINE_VALUE_BYTES


def _plan(journal: Journal, left_out: Sequence[Conflict]) -> PushPlan:
    """Returns what to push: all that is pending, but for the changes that give way in some conflicts."""
    plan = read_plan(journal)
    if not left_out:
        return plan
    with journal.transaction() as transaction:
        postpone(driver(transaction), [conflict.key for conflict in left_out])
    return read_plan(journal, last_number=plan.last_number)


def _inspect_replaced(local: LocalStore, remote: Remote, here: Identity) -> FetchedRoot | DamagedRoot | None:
    """Reads the root that the push is to replace, and gives the database the uuid that it is to have there."""
    if remote.offline:
        return None
    seen = inspect_root(remote)
    if seen is not None:
        there = identity_of_root(seen.manifest, remote.root_place) if isinstance(seen, FetchedRoot) else None
        reconcile_identity(local, here, there)
    return seen


def _is_pending(journal: Journal) -> bool:
    with journal.reading() as raw:
        return is_any_pending(raw)


__all__ = ["MAX_ROUNDS", "PushResult", "contention", "push", "raise_fence"]
