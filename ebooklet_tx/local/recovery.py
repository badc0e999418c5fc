"""What happens at open: file and journal are brought to one sound state.

The invariant: only the guard in the file and the facts in the journal
decide what to do, so dying anywhere in here and starting again ends in the same state. Nothing is
deleted that could hold a user's value: a journal that can't be used is set aside under a new name.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ebooklet_tx.errors import JournalDamagedError, JournalUnusableError
from ebooklet_tx.html_tables import counted
from ebooklet_tx.limits import RESERVED_KEYS
from ebooklet_tx.local.booklet.layout import FIXED_HEADER_FIELDS, GUARD_BYTES, Scan, parse_header
from ebooklet_tx.local.booklet.value_file import (
    FileState,
    ValueFile,
    new_append_number,
    put_in_place,
)
from ebooklet_tx.local.commit import file_facts
from ebooklet_tx.local.files.file_calls import size_of
from ebooklet_tx.local.files.own_files import copy_new
from ebooklet_tx.local.journal.integrity.lost_commits import mend_wal
from ebooklet_tx.local.journal.integrity.row_checks import ENDS, misplaced
from ebooklet_tx.local.journal.integrity.set_aside import check_damage, is_damaged, set_aside
from ebooklet_tx.local.journal.journal import Journal, driver, is_open_here, journal_path, put_meta, side_files
from ebooklet_tx.local.journal.operations import ADOPTED, LAST_NUMBER, adopt_all
from ebooklet_tx.local.plain_edits import Edits, find_edits, record_edits
from ebooklet_tx.local.rebuild import RebuildReport, finished_rebuild, is_file_of, rebuild
from ebooklet_tx.timestamps import now_us

_log = logging.getLogger("ebooklet_tx")


@dataclass(slots=True)
class RecoveryReport:
    """What opening a local pair found and did, for `recover` to tell."""

    actions: list[str] = field(default_factory=list)
    adopted_keys: int = 0
    changed_keys: list[str] = field(default_factory=list)
    deleted_keys: list[str] = field(default_factory=list)
    missing_keys: list[str] = field(default_factory=list)
    outdated_keys: list[str] = field(default_factory=list)
    damaged_keys: list[str] = field(default_factory=list)
    lost_keys: list[str] = field(default_factory=list)
    damage: list[str] = field(default_factory=list)

    def note(self, action: str, level: int = logging.WARNING) -> None:
        """Adds a sentence to the account and to the log."""
        self.actions.append(action)
        _log.log(level, "%s", action)


def open_journal(path: Path, report: RecoveryReport, *, replace: bool = False) -> Journal:
    """Opens or makes the journal of a locked file; one that is proven damaged is set aside first.

    Args:
        path: The Booklet file.
        report: Where to say what was done.
        replace: Whether the whole journal is looked through for damage, and one that is sound but of no use
            is set aside too.

    Raises:
        LocalStorageError: It can't be used now, or is of no use, and was left as it is.
        UnsupportedFormatError: It was written by a newer ebooklet_tx.
    """
    location = journal_path(path)
    lost = _mend(location, report)
    try:
        if replace and size_of(location) is not None and is_damaged(location):
            raise JournalDamagedError(f"{location} is damaged")
        journal = Journal.open(location, create=True)
        if replace:
            journal.check_columns()
        if lost is not None:
            journal.catch_up(lost)
        return journal
    except JournalDamagedError as error:
        replace_damaged(path, report, error)
    except JournalUnusableError as error:
        if not replace:
            raise
        report.note(f"the journal could not be used: {error}")
        set_journal_aside(path, report)
    return Journal.open(location, create=True)


def _mend(location: Path, report: RecoveryReport) -> int | None:
    """Looks whether a journal has all that was acknowledged; returns its mark where some of it is lost."""
    if is_open_here(location):
        # Its WAL is not read anew then, and so not cut short.
        return None
    files = side_files(location)
    mending = mend_wal(location, files.wal, files.mark)
    for sentence in mending.told:
        report.note(sentence)
    return mending.lost


def replace_damaged(path: Path, report: RecoveryReport, error: JournalDamagedError) -> None:
    """Sets a journal aside if it is damaged indeed.

    Raises:
        LocalStorageError: That can't be proven; nothing was changed.
    """
    check_damage(journal_path(path), error)
    report.note(f"the journal could not be used: {error}")
    set_journal_aside(path, report)


def set_journal_aside(path: Path, report: RecoveryReport) -> None:
    """Renames a journal and its WAL so that a new one can be made in its place."""
    aside = set_aside(journal_path(path))
    report.note(f"the old journal is kept as {aside.name}; a new one is made from the file")


def reconcile(file: ValueFile, journal: Journal, report: RecoveryReport) -> tuple[ValueFile, Journal]:
    """Brings a locked file and its journal to one sound state.

    Returns:
        The file and the journal to continue with; a rebuild or an adoption replaces them.
    """
    found, known = file, journal
    try:
        journal = _own_journal(file, journal, report)
        finished = finished_rebuild(file, journal)
        if finished is not None:
            file = finished
            put_in_place(file)
            report.note("a rebuilt file was put in place")
        if journal.get_meta("file_uuid") is None:
            _check_unfilled(journal)
            adopt(file, journal, report)
        return _reconcile_guard(file, journal, report), journal
    except BaseException:
        # The caller closes what it gave; it does not know of what took its place.
        if file is not found:
            file.close()
        if journal is not known:
            journal.close()
        raise


def _check_unfilled(journal: Journal) -> None:
    """Refuses to fill a journal that was filled already, and only looks empty because its facts are misplaced."""
    # A filling that was cut short has noted the ends of its keys, and numbered its operations.
    known = journal.all_meta().keys() - {*ENDS, LAST_NUMBER}
    if known or journal.rows("SELECT 1 FROM entry WHERE remote_seq IS NOT NULL LIMIT 1"):
        raise misplaced(journal.path, "it does not say whose it is")


def _own_journal(file: ValueFile, journal: Journal, report: RecoveryReport) -> Journal:
    """Sets a journal aside that belongs to another file, and makes a new one."""
    if not is_file_of(journal.all_meta(), file):
        report.note(f"{journal.path.name} belongs to another file than {file.path.name}")
        journal.close()
        set_journal_aside(file.path, report)
        journal = Journal.open(journal_path(file.path), create=True)
    return journal


def _reconcile_guard(file: ValueFile, journal: Journal, report: RecoveryReport) -> ValueFile:
    facts = journal.all_meta()
    guard = file.guard_number()
    if guard is not None and guard == facts.get("applied_append"):
        report.note("a finished append was released")
        file.release(FileState(0, int(facts["file_mtime_ns"]), 0))
        guard = None
    if guard is not None:
        report.note("an interrupted append was taken back: the file is rebuilt from the journal")
        return _rebuild(file, journal, report)
    if as_recorded(file, facts):
        return file
    # Booklet never syncs, and what the journal says of the file from here on has to survive.
    file.make_durable()
    damage = _restore_header(file, facts)
    scan = file.scan()
    scan.damage.extend(damage)
    edits = _take_in_edits(file, journal, scan, report)
    if scan.damage:
        report.damage.extend(scan.damage)
        if "file_length_bytes" not in facts:
            _keep_original(file, "damaged", report)
        report.note(f"the file was damaged by another program ({scan.damage[0]}): it is rebuilt")
        return _rebuild(file, journal, report)
    if not edits.continued:
        # An offset that was recorded for one history of the file means nothing in another.
        file.renew_generation()
    _record_file(file, journal)
    return file


def _keep_original(file: ValueFile, kind: str, report: RecoveryReport) -> None:
    """Copies a file whose bytes may be of worth and lie in no other place."""
    kept = file.path.with_name(f"{file.path.name}.{kind}-{now_us()}")
    copy_new(file.fd, kept)
    report.note(f"the {kind} file is kept as {kept.name}")


def _rebuild(file: ValueFile, journal: Journal, report: RecoveryReport) -> ValueFile:
    new, outcome = rebuild(file, journal)
    try:
        put_in_place(new)
    except BaseException:
        new.close()
        raise
    report_rebuild(outcome, report)
    return new


def report_rebuild(outcome: RebuildReport, report: RecoveryReport) -> None:
    """Adds what a rebuild found damaged to an account."""
    report.damaged_keys.extend(outcome.refetchable)
    _report_lost(outcome.lost, "damaged beyond repair", report)


def _report_lost(keys: list[str], how: str, report: RecoveryReport) -> None:
    report.lost_keys.extend(keys)
    if keys:
        report.note(
            f"{counted(len(keys), 'value that was never pushed is', 'values that were never pushed are')} {how}, "
            f"the first is of key {keys[0]!r}; set or delete what is lost"
        )


def as_recorded(file: ValueFile, facts: dict[str, Any]) -> bool:
    """True while no other program has changed the file."""
    header = facts.get("file_header")
    same_header = header is None or header[GUARD_BYTES:] == file.header.raw[GUARD_BYTES:]
    return same_header and _untouched(file, facts)


def _untouched(file: ValueFile, facts: dict[str, Any]) -> bool:
    state = file.state()
    return (
        facts.get("file_generation") == file.generation
        and facts.get("file_length_bytes") == state.length_bytes
        and facts.get("file_mtime_ns") == state.mtime_ns
        and facts.get("file_inode") == state.inode
    )


def _restore_header(file: ValueFile, facts: dict[str, Any]) -> list[str]:
    """Goes by the recorded header where the file's own was altered in a way that no session does."""
    header = parse_header(facts.get("file_header") or b"")
    if header is None or header.generation != file.generation:
        return []
    raw = file.header.raw
    fixed = all(header.raw[start:end] == raw[start:end] for start, end in FIXED_HEADER_FIELDS)
    if fixed and not _untouched(file, facts):
        return []
    file.header = header
    return ["its header was altered"]


def _record_file(file: ValueFile, journal: Journal) -> None:
    """Notes the file as it is now, leaving a time that no other program's write leaves."""
    state = file.state_to_record()
    number = journal.get_meta("applied_append") or new_append_number()
    with journal.transaction() as connection:
        put_meta(connection, file_facts(file, state, number))
    file.release(state)


def adopt(file: ValueFile, journal: Journal, report: RecoveryReport, *, in_place: bool = True) -> None:
    """Makes a journal out of a Booklet that has none: every key is an operation to be pushed.

    Until the remote has been heard, `adopted` says that nothing is known about a common base.

    Args:
        file: The Booklet file.
        journal: A journal that holds nothing.
        report: Where to tell it.
        in_place: Whether the file may be written.
    """
    if in_place:
        file.make_durable()
    scan = file.scan()
    report.adopted_keys = sum(key not in RESERVED_KEYS for key in scan.live)
    _take_in_edits(file, journal, scan, RecoveryReport())
    with journal.transaction() as connection:
        facts: dict[str, object] = {"file_uuid": file.header.uuid}
        if scan.live:
            facts[ADOPTED] = 1
            adopt_all(driver(connection))
        if not scan.damage and file.guard_number() is None:
            state = file.state_to_record()
            facts |= file_facts(file, state, new_append_number())
        put_meta(connection, facts)
    if in_place and "file_mtime_ns" in facts:
        file.release(state)
    if scan.live:
        # Nothing is amiss: so a file of booklet's or ebooklet's own is taken over.
        adopted = counted(report.adopted_keys, "key")
        report.note(f"a Booklet without a journal was adopted, {adopted}", logging.INFO)


def _take_in_edits(file: ValueFile, journal: Journal, scan: Scan, report: RecoveryReport) -> Edits:
    """Turns the difference between a file and its journal into pending operations, as far as it is known."""
    edits = find_edits(file, journal, scan)
    if edits.outdated:
        _keep_original(file, "older", report)
    record_edits(journal, edits)
    report.changed_keys.extend(row[0] for row in edits.sets)
    report.deleted_keys.extend(key for key, _ in edits.deletes)
    report.damaged_keys.extend(edits.damaged)
    report.missing_keys.extend(entry.key for entry in edits.missing)
    report.outdated_keys.extend(edits.outdated)
    name = file.path.name
    if edits.missing:
        report.note(
            f"{counted(len(edits.missing), 'key is', 'keys are')} missing from {name}, and nothing tells whether "
            "by a deletion or because it is an older file: nothing is deleted, and all is fetched again; after a "
            "deletion, recover --accept-deletes makes that pending"
        )
    if edits.outdated:
        report.note(
            f"{counted(len(edits.outdated), 'value')} in {name} not known to its journal, and not newer, so not "
            f"taken for a change: the first is of key {edits.outdated[0]!r}"
        )
    _report_lost(edits.lost, f"in {name} no more", report)
    return edits
