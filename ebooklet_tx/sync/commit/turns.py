"""Turns of writers that commit at once, told by the history that every root carries.

The newest commits, as long as each is of another writer, are the round: the writer whose commit in it is the
oldest goes first, the others wait in that order. A writer that is not in it goes first as well, after a random
pause. Nothing is sent for this but reads of the root, and only by a writer that has just lost to another. The
writers of one machine, which stand in a queue of their own (`locks.machine_queue`), take turns as one.

The invariant: turns spread writers in time, and nothing else rests on them; the compare-and-swap alone decides
which commit counts. Each wait ends after a number of commits and a time that are known when it begins.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ebooklet_tx.errors import OfflineError
from ebooklet_tx.locks.machine_queue import MachineQueue
from ebooklet_tx.locks.process_identity import writers_here
from ebooklet_tx.records import CommitRecord
from ebooklet_tx.stores.retry import RetryPolicy

CONTENTION_SECONDS = 0.02

ME = "this session"
"""How its own commits are signed here; processes of several hosts may sign theirs alike."""

ROUND_SECONDS = 10.0
"""Writers of commits so much older than the newest, by their own clocks, have no turn to come."""

REMEMBERED_COMMITS = 256
REMEMBERED_ROUNDS = 50
"""A writer that lost a round counts on others for so many commits of theirs, and at least a second."""

LEAST_SECONDS, MOST_SECONDS = 0.001, 2.0
"""Between these is what a commit of another writer is taken to last."""

PATIENCE = 2.0
"""A writer whose turn it is may take so many times as long as commits take."""

LOOKS = 0.25
"""How soon the root is read again for each writer whose turn comes first, in the same measure."""


def round_of(writers: Iterable[str]) -> list[str]:
    """Returns the writers of the newest commits, newest first, up to the first that comes twice."""
    found: list[str] = []
    for writer in writers:
        if writer in found:
            break
        found.append(writer)
    return found


def count_before(writers: Sequence[str], me: str) -> int | None:
    """Returns how many writers have their turn before one; None where the round does not know it."""
    found = round_of(writers)
    return len(found) - 1 - found.index(me) if me in found else None


@dataclass(slots=True)
class Turns:
    """What a session knows of the writers beside it.

    Attributes:
        policy: Waits, and tells the time.
        commit_seconds: About how long a commit takes, by those of this session.
        as_one: How the names of the writers begin that count as this one, as they commit one after another by
            themselves: those of this machine, where they have a queue. Empty where there are none.
    """

    policy: RetryPolicy
    commit_seconds: float = 0.0
    as_one: str = ""
    _writers: dict[int, str] = field(default_factory=dict)
    _lost: int = 0
    _contended_until: float = float("-inf")

    def won(self, seq: int, took_seconds: float) -> None:
        """Notes a commit of this session, made in a round that took so long."""
        self._measure(took_seconds)
        self._lost = 0
        self._writers[seq] = ME

    def lost(self, took_seconds: float) -> None:
        """Notes that another writer's commit came first, in a round that took so long."""
        self._measure(took_seconds)
        self._lost += 1
        self._contended_until = self.policy.clock() + max(1.0, REMEMBERED_ROUNDS * self.commit_seconds)

    def await_machine(
        self,
        queue: MachineQueue,
        pull: Callable[[tuple[str, bytes] | None], object],
        coming: Callable[[bytes], object] | None = None,
    ) -> bool:
        """Waits for the writers of this machine that came first; if there were any, pulls and returns True.

        False also where the remote can't be asked: what is to be told of that, the push tells.

        Args:
            queue: Where they wait.
            pull: Moves on to the newest commit; called with ETag and bytes of the root that may be that one's.
            coming: Called before with the bytes of a root that may come to be that one's.
        """
        waited = queue.enter(self.commit_seconds, coming)
        if waited:
            # Another user, or a container of the same host name, has a queue of its own, which nobody here meets.
            self.as_one = writers_here()
            try:
                pull(queue.handed())
            except OfflineError:
                return False
        return waited

    def await_turn(self, records: Callable[[], Sequence[CommitRecord]], pull: Callable[[], bool]) -> None:
        """Waits for the writers whose turn comes first; returns at once where no other was met lately.

        Args:
            records: Returns the newest commits of the base, newest first.
            pull: Moves on to the newest commit; true where there is one.
        """
        if self.policy.clock() >= self._contended_until:
            return
        pull()
        before = self._before(records())
        if before is None:
            self.policy.sleep(self.policy.random() * self.commit_seconds / max(self._lost, 1) ** 2)
            pull()
            return
        alone = True
        # Writers may come that were in no round; this one goes all the same after so many commits.
        for _ in range(2 * before + 2):
            if not before:
                break
            seen = self._next_commit(before, pull)
            if not seen:
                break
            alone = False
            before = self._before(records()) or 0
        else:
            alone = False
        if alone and before:
            self._contended_until = float("-inf")

    def _next_commit(self, before: int, pull: Callable[[], bool]) -> bool:
        """Waits for another writer's commit; False where none comes while those before this one could."""
        deadline = self.policy.clock() + before * PATIENCE * self.commit_seconds
        pause = (before - 1 + LOOKS) * self.commit_seconds
        while True:
            self.policy.sleep(pause)
            if pull():
                return True
            if self.policy.clock() >= deadline:
                return False
            pause = before * LOOKS * self.commit_seconds

    def _before(self, records: Sequence[CommitRecord]) -> int | None:
        # A root that has just written its records out has one of them; those that were seen are remembered.
        latest_us = max((record.committed_at_us for record in records), default=0) - ROUND_SECONDS * 1e6
        for record in records:
            if record.committed_at_us >= latest_us:
                is_ours = self.as_one and record.writer.startswith(self.as_one)
                self._writers.setdefault(record.seq, ME if is_ours else record.writer)
        # Of a database that was made anew there are no higher ones.
        last = max((record.seq for record in records), default=0)
        newest = sorted((seq for seq in self._writers if seq <= last), reverse=True)[:REMEMBERED_COMMITS]
        self._writers = {seq: self._writers[seq] for seq in newest}
        return count_before(list(self._writers.values()), ME)

    def _measure(self, seconds: float) -> None:
        mean = seconds if not self.commit_seconds else (self.commit_seconds + seconds) / 2
        self.commit_seconds = min(max(mean, LEAST_SECONDS), MOST_SECONDS)


def backoff(policy: RetryPolicy, number: int) -> None:
    """Spreads the writers that collided: waits a random time up to a growing bound."""
    bound_seconds = min(policy.cap_seconds, CONTENTION_SECONDS * 2 ** min(number, 6), policy.base_seconds * 10)
    policy.sleep(policy.random() * bound_seconds)


__all__ = ["Turns", "backoff", "count_before", "round_of"]
