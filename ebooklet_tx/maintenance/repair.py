"""Repairing a database after a crash: the local pair first, then what an interrupted push left.

The invariant: a dry run changes nothing, here or at the remote; `recover` leaves a sound local
pair whatever becomes of its remote part, and says what it did and what it could not do.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import replace

from ebooklet_tx.connection import Connection, RemoteConn, parse_connection
from ebooklet_tx.errors import Error, PartialCopyError
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local import plain_edits
from ebooklet_tx.local.ebooklet_index import PartialCopy
from ebooklet_tx.local.files.own_files import local_path
from ebooklet_tx.local.inspection import Inspection, inspect_pair
from ebooklet_tx.local.journal.facts import note_connection
from ebooklet_tx.local.journal.journal import journal_path
from ebooklet_tx.local.journal.pending.discard import discard
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.local.recovery import RecoveryReport
from ebooklet_tx.maintenance.recover import RemoteOutcome, ask_whether_applied, lost_values, reconcile_remote
from ebooklet_tx.maintenance.reports import ConflictSides, PushedCommit, RecoverReport
from ebooklet_tx.maintenance.root_repair import repair_session
from ebooklet_tx.maintenance.status import is_push_interrupted, repairs_of, unresolved_pushes
from ebooklet_tx.progress import ProgressOption, telling
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.sync.commit.push import PushResult
from ebooklet_tx.sync.connecting import noted_connection, remote_at
from ebooklet_tx.sync.locking import reconcile_mode
from ebooklet_tx.sync.origin import undecided_partial_copy
from ebooklet_tx.sync.pull.conflicts import Conflict, conflicts_in
from ebooklet_tx.sync.root_object import DamagedRoot, inspect_root
from ebooklet_tx.tracebacks import at_edge

LOCK_TIMEOUT_SECONDS = 10.0


@at_edge
def recover(
    file_path: str | os.PathLike[str],
    remote_conn: RemoteConn | None = None,
    *,
    dry_run: bool = False,
    resume: bool = True,
    accept_deletes: bool = False,
    retry: RetryPolicy | None = None,
    lock_timeout: float = LOCK_TIMEOUT_SECONDS,
    accept_partial: bool = False,
    repair_remote: bool = False,
    remember_remote: bool = True,
    progress: ProgressOption = None,
) -> RecoverReport:
    """Repairs a local pair, then resumes an interrupted push or rolls it back.

    Changes that were pending and not being pushed stay pending. Nothing is pushed over another
    writer's change, and nothing is given up: what needs a decision is reported.

    Args:
        file_path: The local Booklet file.
        remote_conn: As for `open`; None for the remote that the journal remembers. Credentials come
            from it, or from boto3's own chain (environment, shared files, role).
        dry_run: Only tell what would be done. At most the root is read, when a push is unresolved.
        resume: Whether an interrupted push is pushed again; otherwise it is rolled back: its
            operations stay pending, and what it had sent is kept for the next push.
        accept_deletes: Whether the keys are deleted that were missing from the file, now or when it was opened
            last with any missing, although nothing tells their deletion from an older file. What was written
            since then, here or elsewhere, stays.
        retry: How failing requests are tried again; None for the connection's own.
        lock_timeout: Seconds to wait for a session that has the file open for writing.
        accept_partial: Take a file of ebooklet's as it is although it lacks keys of ebooklet's remote, so that
            it can be pushed.
        repair_remote: Write the remote's root anew if it is damaged, as this machine knew it last. Commits that
            others made since then are missing from it: run this where the newest of them was pulled or pushed.
        remember_remote: Whether the journal notes `remote_conn`, as in `open`.
        progress: As for `open`.

    Returns:
        What was done. A remote that can't be reached is reported, not raised.

    Raises:
        LocalMissingError: There is no such file.
        UnsupportedFormatError: It is no Booklet that can be used here, or is newer than this code.
        LockTimeoutError: Another session has it open for writing.
        LocalStorageError: The local disk refuses; run it again when there is room.

    Examples:
        >>> db.close()
        >>> ebooklet_tx.recover("db.blt").failed
        False
    """
    path = local_path(file_path)
    given = None if remote_conn is None else parse_connection(remote_conn)
    found = inspect_pair(path, conflicts=conflicts_in, check_values=dry_run)
    if dry_run:
        place = given or noted_connection(found.facts, journal_path(path))
        told = _told(found, place, resume, accept_deletes, retry)
        return _told_of_root(told, place, retry) if repair_remote and place is not None else told
    local = LocalStore.open_writer(path, create=False, timeout_seconds=lock_timeout, replace_journal=True)
    report = local.report
    accepted: list[str] = []
    moved = False
    try:
        if accept_deletes:
            accepted, moved = plain_edits.accept_deletes(local.journal)
            report.deleted_keys.extend(accepted)
            report.lost_keys = [key for key in report.lost_keys if key not in set(accepted)]
            report.actions.append(f"the deletion of {_missing(accepted)} was accepted")
        # A journal that had to be set aside may still have told where the remote is.
        connection = (
            given
            or noted_connection(local.journal.all_meta(), journal_path(path))
            or noted_connection(found.facts, journal_path(path))
        )
        outcome = None
        if connection is not None:
            with telling(progress):
                outcome = _reconcile_remote(local, connection, resume, repair_remote, retry)
            if moved:
                _keep_written_since(local, accepted, outcome, report)
            if outcome.failure is None and remember_remote:
                note_connection(local.journal, json.dumps(connection.to_dict(), sort_keys=True))
        lost = sorted({*report.lost_keys, *lost_values(local)})
        with local.journal.reading() as raw:
            missing = plain_edits.missing_keys(raw)
        lack = _undecided_lack(local, accept_partial)
    except BaseException:
        local.abandon()
        raise
    local.close()
    now = inspect_pair(path, conflicts=conflicts_in)
    return RecoverReport(
        file=str(path),
        dry_run=False,
        actions=(*(report.actions or ["the local pair is sound"]), *_remote_actions(outcome, resume, lost)),
        adopted_keys=report.adopted_keys,
        edited_keys=tuple(report.changed_keys),
        deleted_keys=tuple(report.deleted_keys),
        missing_keys=tuple(missing),
        outdated_keys=tuple(report.outdated_keys),
        damaged_keys=tuple(report.damaged_keys),
        refetched_keys=0 if outcome is None else outcome.refetched,
        lost_keys=tuple(lost),
        partial_keys=0 if lack is None else lack.missing_keys,
        remote=None if connection is None else connection.url,
        failure=None if outcome is None else outcome.failure,
        remote_damage=None if outcome is None else outcome.damage,
        repaired_seq=outcome.repair.seq if outcome is not None and outcome.repair else None,
        missing_objects=outcome.repair.missing_objects if outcome is not None and outcome.repair else (),
        applied=() if outcome is None else tuple(outcome.applied),
        dropped=() if outcome is None else tuple(outcome.dropped),
        pushed=None if outcome is None else _pushed(outcome.pushed),
        conflicts=() if outcome is None else tuple(map(_sides, outcome.conflicts)),
        pending_sets=now.pending_sets,
        pending_deletes=now.pending_deletes,
        pending_bytes=now.pending_bytes,
        unresolved=unresolved_pushes(now),
        base_seq=int(now.facts.get("base_seq", 0)),
        base_commit_id=now.facts.get("base_commit_id"),
    )


# -- settling ----------------------------------------------------------------------------------


def _reconcile_remote(
    local: LocalStore,
    connection: Connection,
    resume: bool,
    repair_remote: bool,
    retry: RetryPolicy | None,
) -> RemoteOutcome:
    try:
        remote = remote_at(connection, retry=retry, for_writing=True)
    except Error as error:
        return RemoteOutcome(failure=str(error))
    with contextlib.closing(remote.store):
        session = repair_session(local, remote)
        try:
            reconcile_mode(local.journal, remote)
        except Error as error:
            return RemoteOutcome(failure=str(error))
        report = local.report
        gone = [*report.damaged_keys, *report.missing_keys, *report.outdated_keys]
        return reconcile_remote(session, resume=resume, damaged=gone, repair_remote=repair_remote)


def _keep_written_since(
    local: LocalStore, accepted: list[str], outcome: RemoteOutcome, report: RecoveryReport
) -> None:
    """Takes accepted deletes back of keys that another writer has written since they were found missing."""
    keys = {conflict.key for conflict in outcome.conflicts} & set(accepted)
    discard(local.journal, sorted(keys))
    outcome.conflicts = [conflict for conflict in outcome.conflicts if conflict.key not in keys]
    report.deleted_keys = [key for key in report.deleted_keys if key not in keys]
    if keys:
        report.actions.append(f"{len(keys)} of them stay, as another writer has written them since")


def _undecided_lack(local: LocalStore, accept_partial: bool) -> PartialCopy | None:
    """Tells which keys a file of ebooklet's does not have, and notes that in the account."""
    try:
        lack = undecided_partial_copy(local, accept_partial=accept_partial)
    except PartialCopyError as error:
        local.report.note(str(error))
        return None
    if lack is not None:
        local.report.note(f"{lack}; nothing is pushed until it is loaded, or accepted (--accept-partial)")
    return lack


def _remote_actions(outcome: RemoteOutcome | None, resume: bool, lost: list[str]) -> list[str]:
    """Says in sentences what was done about the remote."""
    if outcome is None:
        return ["no remote is remembered and none was given: only the local pair was looked after"]
    actions = [] if outcome.repair is None else [outcome.repair.words()]
    actions += [f"the interrupted push {commit_id} had taken effect" for commit_id in outcome.applied]
    actions += [f"the interrupted push {commit_id} had not taken effect" for commit_id in outcome.dropped]
    if outcome.missing:
        actions.append("there is no remote database yet")
    if outcome.refetched:
        actions.append(f"{counted(outcome.refetched, 'value was', 'values were')} fetched again from the remote")
    if outcome.pushed is not None:
        done = outcome.pushed
        actions.append(
            f"the push was resumed as commit {done.seq}: {counted(done.set_count, 'set')} and "
            f"{counted(done.deleted_count, 'delete')}, "
            f"packs that had arrived and were not sent again: {done.resumed_packs}"
        )
    elif outcome.failure is not None or outcome.damage is not None:
        return actions
    elif outcome.interrupted and not outcome.applied:
        actions.append(_not_resumed(resume, undecided=bool(outcome.conflicts or lost)))
    elif not outcome.interrupted:
        actions.append("no push was interrupted")
    return actions


def _not_resumed(resume: bool, *, undecided: bool) -> str:
    if not resume:
        return "the interrupted push was rolled back: its changes are pending"
    if undecided:
        return "the interrupted push was not resumed, something needs a decision first: its changes are pending"
    return "the interrupted push had nothing left to push"


# -- telling -----------------------------------------------------------------------------------


def _told(
    found: Inspection,
    connection: Connection | None,
    resume: bool,
    accept_deletes: bool,
    retry: RetryPolicy | None,
) -> RecoverReport:
    """Says what `recover` would do."""
    actions = list(repairs_of(found)) or ["the local pair is sound"]
    if accept_deletes and found.missing_keys:
        actions.append(f"the deletion of {_missing(found.missing_keys)} would be accepted")
    failure = None
    applied: list[str] = []
    dropped: list[str] = []
    ids = [commit_id for commit_id, _, _ in found.intents]
    if connection is None:
        actions.append("no remote is remembered and none was given: only the local pair would be looked after")
    elif ids:
        try:
            remote = remote_at(connection, retry=retry)
            with contextlib.closing(remote.store):
                answers = ask_whether_applied(remote, ids)
        except Error as error:
            failure = str(error)
        else:
            applied = [commit_id for commit_id, answer in answers.items() if answer]
            dropped = [commit_id for commit_id, answer in answers.items() if answer is False]
            actions += [_answer(commit_id, answer) for commit_id, answer in answers.items()]
    if connection is not None and is_push_interrupted(found):
        unresolved_work = bool(found.pending_sets or found.pending_deletes) and not applied
        if unresolved_work:
            actions.append(
                "the push would be resumed"
                if resume
                else "the push would be rolled back: its changes stay pending"
            )
    elif connection is not None:
        actions.append("no push was interrupted")
    return RecoverReport(
        file=str(found.path),
        dry_run=True,
        actions=tuple(actions),
        missing_keys=tuple(found.missing_keys),
        lost_keys=tuple(found.lost_keys),
        remote=None if connection is None else connection.url,
        failure=failure,
        applied=tuple(applied),
        dropped=tuple(dropped),
        conflicts=tuple(map(_sides, found.conflicts)),
        pending_sets=found.pending_sets,
        pending_deletes=found.pending_deletes,
        pending_bytes=found.pending_bytes,
        unresolved=unresolved_pushes(found),
        base_seq=int(found.facts.get("base_seq", 0)),
        base_commit_id=found.facts.get("base_commit_id"),
        pending_known=found.journal == "current",
    )


def _told_of_root(report: RecoverReport, connection: Connection, retry: RetryPolicy | None) -> RecoverReport:
    """Adds what a repair of the remote's root would do."""
    try:
        remote = remote_at(connection, retry=retry)
        with contextlib.closing(remote.store):
            seen = inspect_root(remote)
    except Error as error:
        return replace(report, failure=str(error))
    if not isinstance(seen, DamagedRoot):
        return report
    action = f"the remote's root is damaged and would be written anew as it was at commit {report.base_seq}"
    return replace(report, actions=(*report.actions, action), remote_damage=str(seen.error))


def _answer(commit_id: str, applied: bool | None) -> str:
    if applied is None:
        return f"whether the interrupted push {commit_id} took effect is for the index to tell"
    return f"the interrupted push {commit_id} {'had' if applied else 'had not'} taken effect"


def _pushed(result: PushResult | None) -> PushedCommit | None:
    if result is None:
        return None
    return PushedCommit(
        commit_id=result.commit_id,
        seq=result.seq,
        set_count=result.set_count,
        deleted_count=result.deleted_count,
        resumed_packs=result.resumed_packs,
        value_bytes=result.value_bytes,
    )


def _sides(conflict: Conflict) -> ConflictSides:
    return ConflictSides(
        key=conflict.key,
        our_digest=None if conflict.ours_version.digest is None else conflict.ours_version.digest.hex(),
        our_timestamp_us=conflict.ours_version.timestamp_us,
        their_digest=None if conflict.theirs_version.digest is None else conflict.theirs_version.digest.hex(),
        their_timestamp_us=conflict.theirs_version.timestamp_us,
        their_writer=conflict.theirs_version.writer,
    )


def _missing(keys: list[str] | tuple[str, ...]) -> str:
    return counted(len(keys), "key that was missing", "keys that were missing")
