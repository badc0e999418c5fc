"""Asking the index of the base commit what the remote has of single keys.

The invariants: an answer is noted in the journal only while the base is still the commit that it is right for. An
index that is gone, because its commit is an old one, is never taken for one without the key: the journal is
pulled on, and the key is looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from ebooklet_tx.errors import ContentionError, ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.local.journal.base import read_base
from ebooklet_tx.local.journal.facts import is_replacing
from ebooklet_tx.local.journal.journal import driver
from ebooklet_tx.local.journal.known import keys_to_look_up, learn
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.sync.base_index import Answer, BaseIndex, check_readable, sides_of

MAX_TRIES = 20


def look_up(local: LocalStore, index: BaseIndex, pull: Callable[[], object], keys: Collection[str]) -> Answer:
    """Returns what the base commit says of some keys, and which commit that is.

    Args:
        local: The local store.
        index: Reads the remote's index, through the pieces that are here.
        pull: Moves the journal to the remote's newest commit.
        keys: The keys.

    Raises:
        OfflineError: A part of the index is not on this machine, and the remote can't be reached.
        RemoteIntegrityError: A part is damaged or missing.
        InvalidArgumentError: A transaction is at work, and the base has to move.
        UnsupportedFormatError: Some keys are in a remote of format 1 alone.
    """
    for _ in range(MAX_TRIES):
        base = read_base(local.journal)
        check_readable(local.journal, base)
        view = index.of_base(base)
        if view is None:
            return Answer(base.commit_id, {})
        try:
            answer = Answer(base.commit_id, view.lookup(keys))
        except ObjectMissingError as error:
            move_on(local, pull, base.etag, error)
            continue
        if local.pieces.is_full:
            local.keep_pieces()
        return answer
    raise _contention(local.path)


def move_on(local: LocalStore, pull: Callable[[], object], etag: str | None, error: ObjectMissingError) -> None:
    """Pulls on from a base whose index is gone.

    Args:
        local: This machine's half of the database.
        pull: Moves the journal to the remote's newest commit.
        etag: The ETag of the base's root.
        error: What was missing.

    Raises:
        RemoteIntegrityError: It is the newest one.
    """
    pull()
    if read_base(local.journal).etag == etag:
        raise RemoteIntegrityError(
            f"a part of the remote's index is missing although its root names it: {error}; restore it from a "
            "backup, or push(force_push=True) from a complete copy"
        ) from error


def learn_keys(local: LocalStore, answer: Answer, keys: Collection[str]) -> bool:
    """Notes what was found out about keys that have an entry; False where the base has moved since.

    A session that only reads leaves it to a writer that has the lock.
    """
    noted = True

    def note() -> None:
        nonlocal noted
        with local.journal.transaction() as transaction:
            noted = learn(driver(transaction), sides_of(answer.rows, keys), commit_id=answer.commit_id)
            local.pieces.write(transaction)

    local.try_maintain(note)
    return noted


def know_pending(local: LocalStore, index: BaseIndex, pull: Callable[[], object]) -> None:
    """Makes the remote side of every pending key known, unless all of that is replaced: conflicts are told by it.

    Raises:
        OfflineError, RemoteIntegrityError, InvalidArgumentError: As for `look_up`.
        ContentionError: The base moves on all the time.
    """
    if is_replacing(local.journal):
        return
    if not keys_to_look_up(local.journal, None):
        return
    moves = 0
    after: str | None = None
    with index.reporter.phase("look up") as phase:
        while keys := keys_to_look_up(local.journal, after):
            answer = look_up(local, index, pull, keys)
            if learn_keys(local, answer, keys):
                after = keys[-1]
                phase.advance(len(keys))
                continue
            # The base has moved: what is not known of it is asked for again.
            after, moves = None, moves + 1
            if moves == MAX_TRIES:
                raise _contention(local.path)


def _contention(path: Path) -> ContentionError:
    return ContentionError(
        f"the index of {path} was replaced {MAX_TRIES} times while some keys were looked up; try again"
    )


__all__ = ["know_pending", "learn_keys", "look_up", "move_on"]
