"""Recover: what an interrupted push left behind is resumed or rolled back.

The invariant: nothing is pushed that was not being pushed when the process died, nothing is pushed over a
conflict or without its bytes, and what is not settled stays pending. Every step can be repeated, so dying in here
and starting again ends in the same state. The session is the recovery's own: no other thread uses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ebooklet_tx.errors import Error, LocalIntegrityError, ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.local.journal.entries import PENDING_SET, pending_entries
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.intents import drop_intents, read_intents
from ebooklet_tx.local.journal.journal import Journal, driver
from ebooklet_tx.local.journal.uploads import arrived_numbers, forget_uploads, read_uploads
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.root_repair import RootRepair, repair_root
from ebooklet_tx.sync.commit.push import PushResult, push
from ebooklet_tx.sync.pull.conflicts import Conflict, ConflictError, find_conflicts
from ebooklet_tx.sync.pull.pull import pull
from ebooklet_tx.sync.read.fetch import fetch_many
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import read_root
from ebooklet_tx.sync.session import Session

_FETCH_PAGE_KEYS = 1000


@dataclass(slots=True)
class RemoteOutcome:
    """What became of the remote's part of a recovery.

    Attributes:
        interrupted: Whether a push had been interrupted.
        applied: Ids of interrupted commits that had taken effect.
        dropped: Ids of interrupted commits that had not.
        missing: Whether there is no database at the remote, and never was one as far as is known.
        pushed: What the resumed push did, None when there was none.
        refetched: How many damaged or missing values were fetched again.
        conflicts: Keys that were changed here and by another writer.
        failure: Why the remote's part could not be done, None when it could.
        damage: What is damaged at the remote, in words; None when nothing was found so.
        repair: What the repair of the remote's root did, None when there was none.
    """

    interrupted: bool = False
    applied: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    missing: bool = False
    pushed: PushResult | None = None
    refetched: int = 0
    conflicts: list[Conflict] = field(default_factory=list)
    failure: str | None = None
    damage: str | None = None
    repair: RootRepair | None = None


def reconcile_remote(
    session: Session, *, resume: bool, damaged: Sequence[str] = (), repair_remote: bool = False
) -> RemoteOutcome:
    """Settles interrupted pushes against the remote, then resumes them or rolls them back.

    Args:
        session: A session that writes.
        resume: Whether an interrupted push is pushed again; otherwise its operations stay pending.
        damaged: Keys whose local copies were found damaged or missing, to be fetched again.
        repair_remote: Whether a damaged root is written anew first, as this machine knew it last.

    Returns:
        What was done, up to the failure if there was one.
    """
    outcome = RemoteOutcome()
    try:
        if repair_remote:
            outcome.repair = repair_root(session)
        _reconcile(session, outcome, resume=resume)
        outcome.refetched = _refetch(reader_of(session), damaged)
    except ConflictError as error:
        outcome.conflicts = error.conflicts
    except RemoteIntegrityError as error:
        outcome.damage = str(error)
    except Error as error:
        outcome.failure = str(error)
    return outcome


def interrupted_push(journal: Journal) -> bool:
    """True when a push began here whose end is not known."""
    return bool(read_intents(journal) or read_uploads(journal))


def _reconcile(session: Session, outcome: RemoteOutcome, *, resume: bool) -> None:
    journal = session.journal
    outcome.interrupted = interrupted_push(journal)
    intents = [intent.commit_id for intent in read_intents(journal)]
    pulled = pull(session)
    outcome.missing = pulled.missing
    outcome.applied = [commit_id for commit_id in intents if commit_id in pulled.applied]
    outcome.dropped = [commit_id for commit_id in intents if commit_id not in pulled.applied]
    outcome.conflicts = find_conflicts(reader_of(session), session.decode)
    lost = bool(lost_values(session.local))
    unfinished = bool(outcome.dropped) or interrupted_push(journal)
    # A first push, and one that replaces, may publish an empty database.
    wanted = has_pending(journal) or is_replacing(journal) or bool(outcome.dropped)
    if resume and unfinished and wanted and not lost and not outcome.conflicts:
        outcome.pushed = push(session) or None
    # The answers are in: what did not take effect by now is pushed anew, under another id.
    with journal.transaction() as transaction:
        drop_intents(driver(transaction))
    if not has_pending(journal):
        forget_uploads(journal)


def _refetch(reader: Reader, keys: Sequence[str]) -> int:
    """Fetches values of which the local copy is gone; returns how many came."""
    count = 0
    for start in range(0, len(keys), _FETCH_PAGE_KEYS):
        for _, value in fetch_many(reader, keys[start : start + _FETCH_PAGE_KEYS]):
            if isinstance(value, Error) and not isinstance(value, LocalIntegrityError):
                raise value
            # One that the remote does not have either is reported as lost.
            count += isinstance(value, bytes)
    return count


def has_pending(journal: Journal) -> bool:
    """True when there is an operation still to be pushed."""
    return bool(pending_entries(journal))


def lost_values(local: LocalStore) -> list[str]:
    """Reads every pending value; returns the keys of those of which no sound copy is left.

    What an interrupted push has sent, and what the base commit holds, is not lost.
    """
    arrived = arrived_numbers(local.journal)
    return [
        entry.key
        for entry in pending_entries(local.journal)
        if entry.pending == PENDING_SET
        and entry.digest != entry.remote_digest
        and entry.pending_number not in arrived
        and local.read(entry) is None
    ]


def ask_whether_applied(remote: Remote, commit_ids: Sequence[str]) -> dict[str, bool | None]:
    """Tells with one GET of the root which commits have taken effect.

    Returns:
        For each commit True or False, or None where others have committed so much since that only
        the index would tell.
    """
    try:
        fetched = read_root(remote)
    except ObjectMissingError:
        return dict.fromkeys(commit_ids, False)
    if fetched is None:
        return dict.fromkeys(commit_ids)
    manifest = fetched.manifest
    seen = {commit_id for _, commit_id in manifest.recent} | {manifest.commit_id}
    otherwise = None if manifest.histories else False
    return {commit_id: True if commit_id in seen else otherwise for commit_id in commit_ids}


__all__ = [
    "RemoteOutcome",
    "ask_whether_applied",
    "has_pending",
    "interrupted_push",
    "lost_values",
    "reconcile_remote",
]
