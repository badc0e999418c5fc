"""Runs measured processes one at a time, and keeps the states of databases that they start from.

Owns a scratch folder and the saved states of the stub. The invariants: every measurement is a fresh process
of the adapter's own Python; a state is made once, and each measurement starts from an untouched copy of it.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scripts.bench.environments import python_for
from scripts.bench.stub_process import Counts, StubControl, child_environment

BUCKET = "bench"
DB_KEY = "db"
EMPTY = "empty"
OURS, GROUPED, PER_KEY, FSMAP, BARE = "ours", "grouped", "per key", "fsmap", "bare"
MAPPINGS = (OURS, GROUPED, PER_KEY)
ALL_ADAPTERS = (*MAPPINGS, FSMAP, BARE)


@dataclass(frozen=True)
class Measured:
    """What one measured section took."""

    seconds: float
    cpu_seconds: float
    peak_rss_bytes: int
    counts: Counts


@dataclass(frozen=True)
class Row:
    """One result.

    Attributes:
        phase: What was done, as in `push`.
        adapter: By which adapter.
        n: How many keys the database held.
        variant: What distinguishes rows of one phase, as in `k=10`.
        measured: The fastest of the repeats, with the highest memory and the counts of the first.
        facts: What else the process told.
    """

    phase: str
    adapter: str
    n: int
    variant: str
    measured: Measured
    facts: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Returns the row in a form for JSON."""
        m = self.measured
        return {
            "phase": self.phase,
            "adapter": self.adapter,
            "n": self.n,
            "variant": self.variant,
            "seconds": m.seconds,
            "cpu_seconds": m.cpu_seconds,
            "peak_rss_bytes": m.peak_rss_bytes,
            "counts": m.counts.by_kind,
            "facts": dict(self.facts),
        }


@dataclass(frozen=True)
class State:
    """A database that was pushed: how it lies in the stub, and a local copy of it."""

    name: str
    adapter: str
    n: int
    value_bytes: int
    folder: Path


@dataclass
class Options:
    """What the user chose.

    Attributes:
        sizes: Numbers of keys to show growth over, ascending.
        adapters: Which to measure.
        latency_ms: The latency of the phases that have one.
        repeats: How often the quick measurements are taken.
        profile: A folder for profiles of every measured section, None for none.
    """

    sizes: list[int]
    adapters: list[str]
    latency_ms: float
    repeats: int
    profile: Path | None = None

    @property
    def main_size(self) -> int:
        """The size of phases that have one: the largest up to 100,000."""
        return max((size for size in self.sizes if size <= 100_000), default=self.sizes[0])


class Runner:
    """Runs measurements on one stub.

    Attributes:
        rows: The results so far.
        failed: What could not be measured, with the reason.
    """

    def __init__(self, stub: StubControl, scratch: Path, environments: Path, options: Options) -> None:
        self.stub = stub
        self.options = options
        self.rows: list[Row] = []
        self.failed: list[str] = []
        self._scratch = scratch
        self._environments = environments
        self._states: dict[str, State] = {}
        self._number = 0
        stub.create_bucket(BUCKET)
        stub.save(EMPTY)

    # -- processes -------------------------------------------------------------------------

    def run(
        self,
        adapter: str,
        action: str,
        *,
        path: Path | None = None,
        before: Callable[[], object] | None = None,
        kill_when: Callable[[], None] | None = None,
        **spec: Any,
    ) -> tuple[dict[str, Measured], dict[str, Any]]:
        """Runs one measured process.

        Args:
            adapter: The adapter.
            action: A name of `actions.ACTIONS`.
            path: The local file; None for a new one.
            before: Called when the process waits to begin its first measured section.
            kill_when: Returns when the process is to be killed, inside its first measured section.
            spec: What the action needs to know.

        Returns:
            What was measured, by label, and the facts that the action told.

        Raises:
            RuntimeError: The process failed.
        """
        whole = {
            "adapter": adapter,
            "action": action,
            "endpoint": self.stub.endpoint,
            "bucket": BUCKET,
            "db_key": DB_KEY,
            "path": str(path if path is not None else self.new_folder() / "db.blt"),
            "profile": str(self.options.profile) if self.options.profile and adapter == OURS else None,
            **spec,
        }
        log = self._scratch / "child.log"
        command = [python_for(adapter, self._environments), "-m", "scripts.bench.child", json.dumps(whole)]
        with (
            log.open("wb") as errors,
            subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=self._scratch,
                env=child_environment(),
            ) as process,
        ):
            try:
                measured, facts = self._listen(process, before, kill_when)
            except BaseException:
                process.kill()
                raise
        if facts is None and kill_when is None:
            text = log.read_text(errors="replace")[-3000:]
            raise RuntimeError(f"{adapter} {action} failed with {process.returncode}:\n{text}")
        return measured, facts or {}

    def _listen(
        self,
        process: subprocess.Popen[str],
        before: Callable[[], object] | None,
        kill_when: Callable[[], None] | None,
    ) -> tuple[dict[str, Measured], dict[str, Any] | None]:
        measured: dict[str, Measured] = {}
        facts: dict[str, Any] | None = None
        counts = Counts({})
        for line in process.stdout or ():
            event = json.loads(line)
            if event["event"] == "done":
                facts = event["facts"]
                continue
            if event["event"] == "begin":
                if before is not None:
                    before()
                    before = None
                counts = self.stub.counts()
            else:
                measured[event["label"]] = Measured(
                    event["seconds"],
                    event["cpu_seconds"],
                    event["peak_rss_bytes"],
                    self.stub.counts().since(counts),
                )
            if process.stdin is not None:
                process.stdin.write("go\n")
                process.stdin.flush()
            if kill_when is not None:
                kill_when()
                process.kill()
                break
        return measured, facts

    def new_folder(self) -> Path:
        """Returns an empty folder."""
        self._number += 1
        folder = self._scratch / str(self._number)
        folder.mkdir()
        return folder

    # -- states ----------------------------------------------------------------------------

    def state(self, adapter: str, n: int, value_bytes: int = 100, steps: int = 0) -> State:
        """Returns a pushed database, made at the first time; its push is a result of its own."""
        measured: dict[str, Measured] = {}
        name, action = f"{adapter}-{n}-{value_bytes}-{steps}", "push_in_steps" if steps else "first_push"
        is_new = name not in self._states
        made = self.made_state(name, adapter, action, measured, n=n, value_bytes=value_bytes, steps=steps)
        if is_new and not steps:
            self.add("first push", adapter, n, f"{value_bytes} B", measured["push"])
        return made

    def made_state(
        self,
        name: str,
        adapter: str,
        action: str,
        measured: dict[str, Measured] | None = None,
        **spec: Any,
    ) -> State:
        """Returns a state, made at the first time by an action, whose measurements go into `measured`."""
        if name in self._states:
            return self._states[name]
        self.stub.restore(EMPTY)
        folder = self.new_folder()
        started = time.monotonic()
        found, _ = self.run(adapter, action, path=folder / "db.blt", **spec)
        if measured is not None:
            measured.update(found)
        self.stub.save(name)
        self._states[name] = State(name, adapter, spec["n"], spec["value_bytes"], folder)
        self.say(f"  made {name} in {time.monotonic() - started:.1f} s")
        return self._states[name]

    def enter(self, state: State, *, local: bool = True) -> Path:
        """Brings the stub to a state; returns the path of a local copy of it, or of none.

        A copied file is another file to ebooklet_tx, which looks it through at the next open for writing;
        that is done before anything is measured.
        """
        self.stub.restore(state.name)
        path = self.new_folder() / "db.blt"
        if local and state.adapter in MAPPINGS:
            shutil.copytree(state.folder, path.parent, dirs_exist_ok=True)
            if state.adapter == OURS:
                self.run(OURS, "settle", path=path, n=state.n)
        return path

    def leave(self, path: Path) -> None:
        """Removes a local copy."""
        shutil.rmtree(path.parent)

    def drop(self, state: State) -> None:
        """Lets go of a state that nothing else needs."""
        self.stub.forget(state.name)
        shutil.rmtree(state.folder)
        del self._states[state.name]

    # -- results ---------------------------------------------------------------------------

    def add(self, phase: str, adapter: str, n: int, variant: str, measured: Measured, **facts: Any) -> None:
        """Takes a result in, with the better time where the same was measured before."""
        for number, row in enumerate(self.rows):
            if (row.phase, row.adapter, row.n, row.variant) == (phase, adapter, n, variant):
                measured = Measured(
                    min(row.measured.seconds, measured.seconds),
                    min(row.measured.cpu_seconds, measured.cpu_seconds),
                    max(row.measured.peak_rss_bytes, measured.peak_rss_bytes),
                    row.measured.counts,
                )
                self.rows[number] = Row(phase, adapter, n, variant, measured, {**row.facts, **facts})
                return
        self.rows.append(Row(phase, adapter, n, variant, measured, facts))
        m = measured
        self.say(
            f"  {phase} {variant} | {adapter} | n={n:,}: {m.seconds:.3f} s, {m.cpu_seconds:.2f} s CPU, "
            f"{m.peak_rss_bytes / 2**20:.0f} MiB, {m.counts.requests} requests, up {m.counts.bytes_up:,} B, "
            f"down {m.counts.bytes_down:,} B"
        )

    def say(self, text: str) -> None:
        """Tells how far it has come."""
        print(text, file=sys.stderr, flush=True)

    def adapters(self, *wanted: str) -> list[str]:
        """Returns those of some adapters that the user chose."""
        return [adapter for adapter in wanted if adapter in self.options.adapters]

    def guarded(self, what: str, work: Callable[[], None]) -> None:
        """Notes a measurement that fails, and lets the others go on."""
        try:
            work()
        except (RuntimeError, subprocess.CalledProcessError) as error:
            self.failed.append(f"{what}: {error}")
            self.say(f"  FAILED {what}: {error}")
        finally:
            self.stub.set_latency(0)
            self.stub.release()
