"""Ctrl-C and SIGTERM over a slow line: how soon a push or a load ends, what is kept, and what the next run sends.

The whole run (`-m slow`) has 80 MB at 1 MB/s; the default one has a little of it, in smaller packs.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

import ebooklet_tx
from ebooklet_tx.progress import ProgressOption
from ebooklet_tx.sync.commit import packing
from scripts.bench.stub_process import Counts, StubControl, stub_server
from tests import stopping
from tests.campaigns import CI
from tests.processes import Worker, workers
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID
from tests.slow_line import SlowLine, slow_line

SECONDS = 2.0
"""How long a stopped operation may take on a machine that does nothing else."""

BYTES_PER_SECOND = 1_000_000
VALUE_BYTES = 20_000
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@dataclass
class Amount:
    """How much is sent or loaded, in packs of how many bytes, and when the signal comes."""

    total_bytes: int
    pack_bytes: int
    stopped_at_bytes: int


LITTLE = Amount(2_000_000, 200_000, 900_000)
ALL = Amount(80_000_000, 16 * 2**20, 50_000_000)
AMOUNTS = [pytest.param(LITTLE, id="little"), pytest.param(ALL, id="all", marks=CI[0])]


@dataclass
class Stand:
    """A bucket behind a slow line, and a folder for the local files."""

    stub: StubControl
    line: SlowLine
    folder: Path
    start: Callable[..., Worker]

    @property
    def path(self) -> Path:
        return self.folder / "here.blt"

    def url(self, *, slow: bool = True) -> str:
        endpoint = self.line.url if slow else self.stub.endpoint
        return f"s3://stopping/{self.folder.name}?endpoint_url={quote(endpoint, safe='')}"

    def fill(self, path: Path, amount: Amount) -> None:
        """Makes a local file with values that are pending, and pushes the first commit."""
        values = random.Random(7)
        with ebooklet_tx.open(self.url(slow=False), path, "c", None, remember_remote=False) as db:
            db["first"] = b"of all"
            db.changes().push()
            count = amount.total_bytes // VALUE_BYTES
            db.update({f"k{number:05}": values.randbytes(VALUE_BYTES) for number in range(count)})

    def command(self, amount: Amount, *arguments: object) -> Worker:
        given = [*map(str, arguments), "--remote", self.url()]
        return self.start(stopping.command, given, amount.pack_bytes, CREDENTIALS, amount.stopped_at_bytes)

    def moved(self, work: Callable[[], object]) -> Counts:
        """Returns what the store counts of some work."""
        before = self.stub.counts()
        work()
        return self.stub.counts().since(before)


@pytest.fixture(scope="module")
def stub() -> Iterator[StubControl]:
    with stub_server(memory_mib=256) as control:
        control.create_bucket("stopping")
        yield control


@pytest.fixture
def stand(stub: StubControl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stand]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    with slow_line(stub.endpoint, BYTES_PER_SECOND) as line, workers() as start:
        yield Stand(stub, line, tmp_path, start)


def most_seconds() -> float:
    """Returns how long a stopped operation may take here, where others may be at work."""
    return SECONDS * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def stop(child: Worker, number: signal.Signals = signal.SIGINT) -> float:
    """Waits until the child is in the middle of its work, and sends a signal; returns when that was."""
    child.receive()
    at = time.monotonic()
    child.send_signal(number)
    return at


# -- pushes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", AMOUNTS)
@pytest.mark.parametrize(
    ("number", "code"),
    [
        pytest.param(signal.SIGINT, 130, id="SIGINT"),
        pytest.param(signal.SIGTERM, 143, id="SIGTERM", marks=CI),
    ],
)
def test_a_push_that_is_stopped_keeps_the_packs_that_arrived(
    stand: Stand, amount: Amount, number: signal.Signals, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand.fill(stand.path, amount)
    child = stand.command(amount, "push", stand.path)
    at = stop(child, number)
    ended_code, ended_at, out, errors = child.receive()
    stand.line.cut()
    assert ended_at - at < most_seconds()
    assert (ended_code, out) == (code, "")
    word = "interrupted" if code == 130 else "terminated"
    assert errors.startswith(f"ebooklet_tx: {word}: ")
    assert errors.rstrip().endswith(" arrived; push again sends the rest")
    arrived = int(errors.split(", ")[1].split(" of ")[0].replace(",", ""))
    # What is on its way is lost: so many packs as are sent at once.
    assert arrived >= amount.stopped_at_bytes - (packing.PACKS_IN_FLIGHT + 1) * amount.pack_bytes

    monkeypatch.setattr(packing, "PACK_BYTES", amount.pack_bytes)
    began = time.monotonic()
    with ebooklet_tx.open(stand.url(slow=False), stand.path, "w", remember_remote=False, lock_timeout=0) as db:
        assert time.monotonic() - began < most_seconds(), "the lock was let go"
        rest = stand.moved(lambda: db.changes().push())
    assert amount.total_bytes - arrived <= rest.bytes_up < amount.total_bytes - arrived + 200_000
    with ebooklet_tx.open(stand.url(slow=False), stand.folder / "copy.blt", "r") as copy:
        assert len(copy) == amount.total_bytes // VALUE_BYTES + 1
    print(
        f"push, {number.name}: {ended_at - at:.2f} s until the end, {arrived:,} bytes kept, "
        f"the next push sends {rest.bytes_up:,}"
    )


def test_a_second_signal_ends_a_push_at_once(stand: Stand) -> None:
    stand.fill(stand.path, LITTLE)
    child = stand.command(LITTLE, "push", stand.path)
    at = stop(child)
    while child.send_signal(signal.SIGINT) and time.monotonic() < at + most_seconds():
        time.sleep(0.01)
    code = child.wait_until_gone()
    stand.line.cut()
    print(f"push, two signals: {time.monotonic() - at:.2f} s until the end, exit code {code}")
    assert time.monotonic() - at < most_seconds() / 2
    assert code == 130
    with ebooklet_tx.open(stand.url(slow=False), stand.path, "w", remember_remote=False, force_lock=True) as db:
        assert db.changes().push()
    with ebooklet_tx.open(stand.url(slow=False), stand.folder / "copy.blt", "r") as copy:
        assert len(copy) == LITTLE.total_bytes // VALUE_BYTES + 1


# -- loads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("amount", AMOUNTS)
def test_a_load_that_is_stopped_keeps_what_arrived_and_the_session(
    stand: Stand, amount: Amount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", amount.pack_bytes)
    stand.fill(stand.folder / "there.blt", amount)
    with ebooklet_tx.open(stand.url(slow=False), stand.folder / "there.blt", "w") as db:
        db.changes().push()
    arguments = stand.url(), str(stand.path), amount.pack_bytes, CREDENTIALS, amount.stopped_at_bytes
    child = stand.start(stopping.program, *arguments)
    at = stop(child)
    ended_at, notes = child.receive()
    assert ended_at - at < most_seconds()
    here, closed_at = child.receive()
    assert closed_at - ended_at < most_seconds()
    child.finish()
    assert notes[0].endswith(" arrived; loading again fetches the rest")
    # What a thread had not read yet of a connection is lost, and values that had come in part.
    assert here >= amount.stopped_at_bytes * 0.5
    with ebooklet_tx.open(stand.url(slow=False), stand.path, "w", remember_remote=False, lock_timeout=0) as db:
        rest = stand.moved(lambda: db.load_items())
        assert db["afterwards"] == b"still usable"
        assert len(db) == amount.total_bytes // VALUE_BYTES + 2
    assert rest.bytes_down < amount.total_bytes - here + 200_000
    print(
        f"load, SIGINT: {ended_at - at:.2f} s until the end, {here:,} bytes kept ({notes[0]}), "
        f"the next load fetches {rest.bytes_down:,}"
    )


# -- every other operation ---------------------------------------------------------------------


class Interrupter:
    """A function for `progress=` that interrupts this thread soon after a phase has moved some bytes.

    Attributes:
        sent_at: When it did.
    """

    def __init__(self, phase: str) -> None:
        self.sent_at = 0.0
        self._phase = phase
        self._timer = threading.Timer(0.05, self._interrupt)

    def __call__(self, event: ebooklet_tx.Progress) -> None:
        if event.phase == self._phase and event.bytes_done > 60_000 and not self._timer.ident:
            # From another thread, when the operation waits for its requests.
            self._timer.start()

    def _interrupt(self) -> None:
        self.sent_at = time.monotonic()
        os.kill(os.getpid(), signal.SIGINT)


def copied(stand: Stand, db: ebooklet_tx.Database, progress: ProgressOption) -> object:
    return db.copy_remote(stand.url(slow=False).replace("?", "-copy?"), progress=progress)


def verified(stand: Stand, _db: ebooklet_tx.Database, progress: ProgressOption) -> object:
    return ebooklet_tx.verify(stand.url(), read_values=True, progress=progress)


def compacted(_stand: Stand, db: ebooklet_tx.Database, progress: ProgressOption) -> object:
    return db.compact(live_share=1.0, progress=progress)


def loaded(_stand: Stand, db: ebooklet_tx.Database, progress: ProgressOption) -> object:
    return db.load_items([f"k{number:05}" for number in range(10, 50)], progress=progress)


@pytest.mark.usefixtures("heard_sigint")
@pytest.mark.parametrize(
    ("operation", "phase"),
    [
        pytest.param(copied, "copy", id="copy"),
        pytest.param(verified, "verify", id="verify", marks=CI),
        pytest.param(compacted, "repack", id="compact", marks=CI),
        pytest.param(loaded, "fetch", id="fetch", marks=CI),
    ],
)
def test_any_operation_ends_soon_and_can_be_called_again(
    stand: Stand, operation: Callable[..., object], phase: str
) -> None:
    there = stand.folder / "there.blt"
    stand.fill(there, LITTLE)
    with ebooklet_tx.open(stand.url(slow=False), there, "w") as db:
        db.changes().push()
        db["k00000"] = b"another"
        db.changes().push()
    with ebooklet_tx.open(stand.url(), stand.path, "w") as db:
        interrupter = Interrupter(phase)
        with pytest.raises(KeyboardInterrupt):
            operation(stand, db, interrupter)
        db["mine"] = b"still usable"
        db.sync()
    assert time.monotonic() - interrupter.sent_at < most_seconds()
    with ebooklet_tx.open(stand.url(slow=False), stand.path, "w", lock_timeout=0, remember_remote=False) as db:
        assert db["mine"] == b"still usable"
        operation(stand, db, None)
        assert len(db) == LITTLE.total_bytes // VALUE_BYTES + 2
