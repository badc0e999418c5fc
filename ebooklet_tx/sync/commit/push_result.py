"""What a push did, and how threads that push together share it.

The invariant: a push is told as having done something where the changes that were pending when it was called are
in the remote, whichever thread's commit took them there.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ebooklet_tx.html_tables import ShownAsTable
from ebooklet_tx.records import CommitRecord


@dataclass(frozen=True, slots=True, repr=False)
class PushResult(ShownAsTable):
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


def result_of(record: CommitRecord, resumed: int) -> PushResult:
    """Returns what a push did that made a commit; `resumed` packs had been sent before."""
    return PushResult(
        True,
        commit_id=record.commit_id,
        seq=record.seq,
        set_count=record.set_count,
        deleted_count=record.deleted_count,
        resumed_packs=resumed,
        value_bytes=record.value_bytes,
    )


@dataclass(slots=True)
class Together:
    """The pushes of one session: those that wait for one at work find their changes sent by the next.

    `finish` is called by the push at work alone.
    """

    _finished: int = 0
    _last: PushResult | None = None

    def arrive(self) -> int:
        """Returns how many pushes had done something when one is called."""
        return self._finished

    def finish(self, arrival: int | None, result: PushResult) -> PushResult:
        """Returns what a push did, or, where it had nothing left to do, the one that did it meanwhile.

        Args:
            arrival: What `arrive` returned when it was called; None where nothing was pending then.
            result: What it found to do.
        """
        if result:
            self._finished += 1
            self._last = result
        elif arrival is not None and self._finished > arrival and self._last is not None:
            return self._last
        return result


__all__ = ["PushResult", "Together", "result_of"]
