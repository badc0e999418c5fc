"""What a pull reads of a journal before it asks the remote, at one moment."""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.local.journal.base import Base, read_base
from ebooklet_tx.local.journal.facts import is_replacing, origin_uuid
from ebooklet_tx.local.journal.intents import Intent, read_intents
from ebooklet_tx.local.journal.journal import Journal
from ebooklet_tx.local.journal.pending.detachment import was_pushed


@dataclass(frozen=True, slots=True)
class PullView:
    """A journal as a pull finds it.

    Attributes:
        base: The commit that it has applied last.
        intents: The pushes whose outcome is not known.
        replacing: Whether the next push is to replace the remote.
        origin_uuid: The uuid of the database that began in this journal; None for a copy of another.
        detached: Whether there once was a remote, which was forgotten.
    """

    base: Base
    intents: tuple[Intent, ...]
    replacing: bool
    origin_uuid: bytes | None
    detached: bool


def read_pull_view(journal: Journal) -> PullView:
    """Reads what a pull has to know, while no other thread changes it; once a change."""
    return journal.found_once("pull_view", lambda: _read(journal))


def _read(journal: Journal) -> PullView:
    return PullView(
        base=read_base(journal),
        intents=tuple(read_intents(journal)),
        replacing=is_replacing(journal),
        origin_uuid=origin_uuid(journal),
        detached=was_pushed(journal),
    )
