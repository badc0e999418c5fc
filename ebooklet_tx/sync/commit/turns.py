"""Turns: the tickets that an optimistic writer takes for a commit, where conditional writes don't work.

Owns `Session.turn`. The invariant: a ticket stands there from before it is taken until it was given back, so that
whatever interrupts its holder, the next turn, or the end of the session, gives it back.
"""

from __future__ import annotations

from ebooklet_tx.sync.session import Session, WriterLock


def acquire_turn(session: Session) -> WriterLock | None:
    """Waits for a turn to commit; None where commits take none.

    Raises:
        LockTimeoutError: Another writer kept his.
    """
    release_turn(session)
    if session.commit_lock is None:
        return None
    turn = session.turn = session.commit_lock()
    turn.acquire(session.commit_timeout_seconds)
    return turn


def release_turn(session: Session) -> None:
    """Gives back the turn that a session has; one that was not had, or only in part, is no error."""
    if session.turn is not None:
        session.turn.release()
        session.turn = None


__all__ = ["release_turn", "acquire_turn"]
