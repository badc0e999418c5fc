"""Random programs of two writers with snapshots, restorations, collections and compactions, against dicts."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.formats.index_records import Sizes
from ebooklet_tx.index.writing import RunWriter
from ebooklet_tx.sync.commit import publish
from tests.campaigns import amounts
from tests.doors import open_database
from tests.pairs import limit_tails
from tests.yard import Yard

KEYS = [f"k{number:02}" for number in range(30)]


class Program:
    """Two writers of one remote, and what it, they and its snapshots should hold."""

    def __init__(self, yard: Yard, seed: int) -> None:
        self.yard = yard
        self.random = random.Random(seed)
        self.remote: dict[str, bytes] = {}
        self.snapshots: dict[str, dict[str, bytes]] = {}
        self.pending: list[dict[str, bytes | None]] = [{}, {}]
        self.writers: list[ebooklet_tx.Database] = []
        self.made = 0
        self.trace: list[str] = []

    def run(self, steps: int) -> None:
        with contextlib.ExitStack() as stack:
            self.writers = [stack.enter_context(self.yard.open(name)) for name in ("a", "b")]
            self.write(0)
            self.settle()
            self.push(0)
            for _ in range(steps):
                step = self.random.choices(
                    [self.write, self.push, self.pull, self.snapshot, self.restore, self.delete, self.compact],
                    [8, 4, 3, 2, 2, 1, 1],
                )[0]
                who = self.random.randrange(2)
                self.trace.append(f"{step.__name__} {who}")
                step(who)
                self.settle()
                if self.random.random() < 0.3:
                    self.collect()
            for who in (0, 1):
                self.pull(who)
        assert self.yard.fresh_contents() == self.remote, self.trace
        for name, content in self.snapshots.items():
            with open_database(
                self.yard.url, None, "r", at=name, wrap_store=lambda _inner: self.yard.store
            ) as then:
                assert dict(then.items()) == content, (name, self.trace)
        report = self.yard.verify(read_values=True)
        assert (report.sound, report.snapshots) == (True, len(self.snapshots)), (report.words(), self.trace)

    def settle(self) -> None:
        """Forgets writes that change nothing: a value set back to that of the base, or a key set and deleted."""
        for who, writer in enumerate(self.writers):
            changed = {key for key, _ in writer.diff()}
            assert changed <= self.pending[who].keys(), self.trace
            self.pending[who] = {key: self.pending[who][key] for key in changed}

    def check(self, who: int) -> None:
        """What a writer sees once it stands on the newest commit."""
        seen = dict(self.remote)
        for key, value in self.pending[who].items():
            seen.pop(key, None)
            if value is not None:
                seen[key] = value
        writer = self.writers[who]
        assert (dict(writer.items()), len(writer)) == (seen, len(seen)), self.trace

    def write(self, who: int) -> None:
        for key in self.random.sample(KEYS, self.random.choice([1, 2, 20])):
            value = self.random.randbytes(self.random.choice([3, 300, 5000]))
            if self.random.random() < 0.3:
                # What it does not see it does not delete.
                if self.writers[who].pop(key, None) is not None:
                    self.pending[who][key] = None
            else:
                self.writers[who][key] = self.pending[who][key] = value

    def push(self, who: int) -> None:
        pushed = self.writers[who].changes().push(on_conflict="ours")
        for key, value in self.pending[who].items():
            self.remote.pop(key, None)
            if value is not None:
                self.remote[key] = value
        self.pending[who] = {}
        if pushed:
            self.check(who)

    def pull(self, who: int) -> None:
        self.writers[who].changes().pull()
        self.check(who)

    def snapshot(self, who: int) -> None:
        self.made += 1
        name = f"s{self.made}"
        warned = pytest.warns(ebooklet_tx.NotPushedWarning) if self._is_pending(who) else contextlib.nullcontext()
        with warned:
            self.writers[who].snapshot(name)
        self.snapshots[name] = dict(self.remote)

    def _is_pending(self, who: int) -> bool:
        return any(True for _ in self.writers[who].changes().iter_changes())

    def restore(self, who: int) -> None:
        if self.snapshots:
            name = self.random.choice(sorted(self.snapshots))
            before = dict(self.remote)
            # It pulls first: what the remote has by now as well is no change any more.
            changes = self.pending[who].items()
            self.pending[who] = {key: value for key, value in changes if before.get(key) != value}
            self.remote = dict(self.snapshots[name])
            result = self.writers[who].restore(name)
            assert result.updated or before == self.remote, self.trace
            self.check(who)

    def delete(self, who: int) -> None:
        if self.snapshots:
            name = self.random.choice(sorted(self.snapshots))
            self.writers[who].delete_snapshot(name)
            del self.snapshots[name]

    def compact(self, who: int) -> None:
        self.writers[who].compact(live_share=1.0)
        # It leaves what is pending alone, and pulls.
        self.check(who)

    def collect(self) -> None:
        self.yard.collect(at_hours=self.yard.hours + self.random.choice([1, 30]), lock=None)


@pytest.mark.parametrize("programs", amounts(quick=[(0, 25)], ci=[(seed, 60) for seed in range(1, 40)]))
def test_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, programs: Sequence[tuple[int, int]]) -> None:
    limit_tails(monkeypatch, 400, run_list_bytes=100)
    sizes = Sizes(block_rows=4, object_blocks=3, page_entries=2)
    monkeypatch.setattr(publish, "RunWriter", partial(RunWriter, sizes=sizes))
    for seed, steps in programs:
        folder = tmp_path / str(seed)
        folder.mkdir()
        Program(Yard(folder), seed).run(steps)
