"""The whole index of the base commit, brought to this machine and held there.

The invariant: when this returns, every question about the keys of the base commit is answered without the remote,
until the journal stands on another commit; the cache's bound does not drop what answers it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from ebooklet_tx.errors import ContentionError, Error, LockTimeoutError, ObjectMissingError
from ebooklet_tx.index.commit_index import CommitIndex
from ebooklet_tx.index.pieces import Piece
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.progress import Reporter
from ebooklet_tx.sync.read.reader import Reader, reader_of
from ebooklet_tx.sync.session import Session

_log = logging.getLogger("ebooklet_tx")

MAX_MOVES = 20
WAIT_SECONDS = 5.0
"""How long a session that only reads waits for the local lock, which a writer beside it may have."""


def load_index(reader: Reader) -> None:
    """Brings the whole index of the base commit here; what is here already is not fetched again.

    Raises:
        OfflineError: A part is not here, and the remote can't be reached. What came before it is kept.
        RemoteIntegrityError: A part is damaged or missing.
        LockTimeoutError: Another session on this machine writes, and this one can't keep anything.
        InvalidArgumentError: A transaction is at work, and the base has to move.
    """
    for _ in range(MAX_MOVES):
        base = read_base(reader.local.journal)
        view = reader.base_index.of_base(base)
        try:
            if view is not None:
                _hold_all(reader.local, view, reader.remote.reporter)
        except ObjectMissingError as error:
            reader.move_on(base, error)
            continue
        if read_base(reader.local.journal).commit_id == base.commit_id:
            return
    raise ContentionError(
        f"the remote's index was replaced {MAX_MOVES} times while all of it was read; try again"
    )


def refresh_index(session: Session) -> None:
    """Brings the whole index here where the session is to have it; it does without where that fails."""
    if session.holds_index and not session.remote.offline:
        try_load_index(reader_of(session))


def try_load_index(reader: Reader) -> None:
    """Like `load_index`; a failure is logged, and what arrived is kept."""
    try:
        load_index(reader)
    except Error as error:
        _log.warning("not all of the index of %s is at hand: %s", reader.local.path, error)


def _hold_all(local: LocalStore, view: CommitIndex, reporter: Reporter) -> None:
    """Fetches and holds every piece of a commit's index, then releases those of other commits."""
    all_digests: set[bytes] = set()
    is_changed = False
    with reporter.phase("load index", kept="loading the index again fetches the rest") as phase:
        for pieces in view.pieces():
            wanted = {piece.digest: piece for piece in pieces}
            all_digests.update(wanted)
            if local.pieces.not_held(wanted):
                is_changed = True
                _hold_some(local, view, wanted)
            phase.advance(0, sum(piece.length_bytes for piece in pieces))
    if is_changed:
        _release_others(local, all_digests)


def _hold_some(local: LocalStore, view: CommitIndex, wanted: Mapping[bytes, Piece]) -> None:
    for _ in range(MAX_MOVES):
        missing = local.pieces.missing(wanted.keys())
        if _hold(local, wanted.keys(), view.remote.reader.fetch(wanted[digest] for digest in missing)):
            return
    raise ContentionError(
        f"other sessions with {local.path} dropped parts of the index {MAX_MOVES} times while all of it was "
        "brought here; try again"
    )


def _hold(local: LocalStore, wanted: Collection[bytes], fetched: Mapping[bytes, bytes]) -> bool:
    """Holds some pieces; False where another session has dropped some of them since they were asked for."""
    is_held = False

    def work() -> None:
        nonlocal is_held
        with local.journal.transaction() as transaction:
            is_held = local.pieces.hold(transaction, wanted, fetched)

    _maintain(local, work)
    return is_held


def _release_others(local: LocalStore, held: Collection[bytes]) -> None:
    def work() -> None:
        with local.journal.transaction() as transaction:
            local.pieces.release_others(transaction, held)

    _maintain(local, work)


def _maintain(local: LocalStore, work: Callable[[], object]) -> None:
    if local.try_maintain(work, WAIT_SECONDS):
        return
    raise LockTimeoutError(
        f"another session has {local.path} open for writing, so this one can't keep the index; ask for it "
        "there, or when that session is closed",
        path=local.path,
        operation="load_index",
    )


__all__ = ["load_index", "refresh_index", "try_load_index"]
