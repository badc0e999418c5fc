"""The queue of one machine's writers: who goes next, and that none keeps the others waiting for long."""

from __future__ import annotations

import fcntl
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

import pytest

from ebooklet_tx.descriptors import Descriptor
from ebooklet_tx.locks import machine_queue, private_folder
from ebooklet_tx.locks.machine_queue import FILE_NAME, LEAST_PATIENCE_SECONDS, MachineQueue, _held
from ebooklet_tx.stores.retry import RetryPolicy
from tests.processes import fork, say, workers

pytestmark = pytest.mark.skipif(not hasattr(fcntl, "F_OFD_SETLK"), reason="there is no queue without such locks")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the file lies in these tests."""
    _held.starts.clear()
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(private_folder, "SHARED_MEMORY", tmp_path / "none")
    return tmp_path


class Waits:
    """What a queue has asked its policy to sleep; called at each."""

    def __init__(self, then: Callable[[], object] = lambda: None) -> None:
        self.seconds: list[float] = []
        self.then = then

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)
        self.then()


def queue_of(waits: Callable[[float], None] = time.sleep, name: str = "remote") -> MachineQueue:
    return MachineQueue(name, RetryPolicy(sleep=waits))


def hold(pipe: Pipe, folder: str, fork_a_child: bool) -> None:
    """In a process: enters, says so, and keeps the place until it is killed or told to leave."""
    os.environ["XDG_RUNTIME_DIR"] = folder
    queue = queue_of()
    queue._take()
    if fork_a_child and fork() == 0:
        queue.forget_in_child()
        say(pipe, os.getpid())
        time.sleep(60)
        os._exit(0)
    if not fork_a_child:
        say(pipe, os.getpid())
    pipe.recv()
    queue.leave()
    say(pipe, "left")


def in_thread(queue: MachineQueue, done: Callable[[], object]) -> threading.Thread:
    """Lets a thread enter; returns once it has a place."""

    def work() -> None:
        queue.enter(0.001)
        done()
        queue.leave()

    thread = threading.Thread(target=work)
    thread.start()
    while not queue.is_in and thread.is_alive():
        time.sleep(0.0005)
    return thread


def test_one_that_meets_nobody_never_waits(folder: Path) -> None:
    waits = Waits()
    queue = queue_of(waits)
    for _ in range(3):
        assert queue.enter(0.0) is False
        assert queue.is_in
        assert queue.enter(0.0) is False
        queue.leave()
    assert not waits.seconds
    assert (folder / FILE_NAME).stat().st_size == 0


def test_they_go_one_after_another_as_they_came() -> None:
    first, order, at_work = queue_of(), [], []
    first.enter(0.0)

    def noted(number: int) -> Callable[[], None]:
        def work() -> None:
            at_work.append(number)
            order.append((number, len(at_work)))
            time.sleep(0.002)
            at_work.pop()

        return work

    threads = [in_thread(queue_of(), noted(number)) for number in range(6)]
    assert not order
    first.leave()
    for thread in threads:
        thread.join(30)
    assert order == [(number, 1) for number in range(6)]


def test_others_of_other_remotes_are_not_waited_for() -> None:
    first, other = queue_of(), queue_of(name="other")
    first.enter(0.0)
    assert other.enter(0.0) is False
    assert other.is_in
    other.leave()
    first.leave()


def test_one_within_another_of_its_thread_goes_at_once() -> None:
    outer, inner = queue_of(), queue_of(Waits())
    outer.enter(0.0)
    assert inner.enter(0.0) is False
    assert not inner.is_in
    outer.leave()


def test_numbers_are_above_all_that_are_held() -> None:
    queues = [queue_of() for _ in range(40)]
    for queue in queues:
        queue._take()
    numbers = [queue._number or 0 for queue in queues]
    assert numbers == list(range(numbers[0], numbers[0] + 40))
    for queue in queues[5:39]:
        queue.leave()
    queues[7]._take()
    assert queues[7]._number == numbers[39] + 1
    for queue in queues:
        queue.leave()
    queues[3]._take()
    assert queues[3]._number == numbers[0]
    queues[3].leave()


def test_a_killed_process_keeps_nobody_waiting(folder: Path) -> None:
    with workers() as start:
        holder = start(hold, str(folder), False)
        holder.receive()
        waits = Waits(lambda: holder.kill() if len(waits.seconds) == 2 else None)
        queue = queue_of(waits)
        assert queue.enter(0.01) is True
        assert len(waits.seconds) == 2
        queue.leave()


def test_a_killed_process_with_a_forked_child_keeps_nobody_waiting(folder: Path) -> None:
    with workers() as start:
        holder = start(hold, str(folder), True)
        child = holder.receive()
        waits = Waits(lambda: holder.kill() if len(waits.seconds) == 2 else None)
        queue = queue_of(waits)
        try:
            assert queue.enter(0.01) is True
            assert len(waits.seconds) == 2
        finally:
            os.kill(child, signal.SIGKILL)
        queue.leave()


def test_a_place_that_is_given_back_is_free_although_a_forked_child_has_the_file(folder: Path) -> None:
    first = queue_of()
    first.enter(0.0)
    reading, writing = os.pipe()
    if fork() == 0:
        # As one that is forked without Python's knowledge: nothing is closed there.
        os.close(writing)
        os.read(reading, 1)
        os._exit(0)
    first.leave()
    assert queue_of(Waits()).enter(0.0) is False
    os.close(writing)
    os.close(reading)
    os.wait()


def test_a_killed_waiter_keeps_nobody_waiting(folder: Path) -> None:
    first = queue_of()
    first.enter(0.0)
    with workers() as start:
        waiter = start(hold, str(folder), False)
        waiter.receive()
        last, order = queue_of(), []
        thread = in_thread(last, lambda: order.append("last"))
        first.leave()
        assert not order
        waiter.kill()
        thread.join(LEAST_PATIENCE_SECONDS)
        assert order == ["last"]


def test_a_frozen_process_is_waited_for_once_and_no_longer_than_the_patience(folder: Path) -> None:
    with workers() as start:
        holder = start(hold, str(folder), False)
        holder.receive()
        holder.freeze()
        waits = Waits()
        queue, second = queue_of(waits), queue_of()
        assert queue.enter(0.002) is True
        assert LEAST_PATIENCE_SECONDS <= sum(waits.seconds) < LEAST_PATIENCE_SECONDS + 0.1
        # Those behind it keep their order: the second waits for the first, not for the frozen one alone.
        second._passed, order = queue._passed, []
        thread = in_thread(second, lambda: order.append("second"))
        assert not order
        queue.leave()
        thread.join(30)
        assert order == ["second"]
        waits.seconds.clear()
        assert queue.enter(0.002) is False
        assert not waits.seconds
        queue.leave()
        holder.thaw()
        holder.send("leave")
        assert holder.receive() == "left"
        queue.enter(0.002)
        assert queue._passed == -1
        queue.leave()


@pytest.mark.parametrize(("commit_seconds", "expected"), [(0.0, 0.5), (0.05, 1.0), (10.0, 5.0)])
def test_the_patience_grows_with_what_a_commit_takes(
    monkeypatch: pytest.MonkeyPatch, commit_seconds: float, expected: float
) -> None:
    monkeypatch.setattr(machine_queue, "LEAST_PATIENCE_SECONDS", 0.5)
    first, waits = queue_of(), Waits()
    first._take()
    queue = queue_of(waits)
    _held.starts.clear()
    assert queue.enter(commit_seconds) is True
    assert expected <= sum(waits.seconds) < expected * 1.1 + 0.3
    queue.leave()
    first.leave()


def test_it_is_looked_again_soon_only_where_the_one_in_front_is_about_to_end() -> None:
    first, second = queue_of(), queue_of()
    pauses: list[float] = []
    shown: list[bytes] = []

    def wait(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            first.leave("etag", b"root")
        if len(pauses) == 4:
            second.announce(b"next root")
        if len(pauses) == 6:
            second.leave("etag", b"next root")

    for each in (first, second):
        each._take()
    _held.starts.clear()
    queue = queue_of(wait)
    assert queue.enter(0.1, shown.append) is True
    # One commit comes before that of the one in front; then its beginning, its middle, and its end.
    assert pauses == pytest.approx([0.07, 0.07, 0.025, 0.005, 0.001, 0.001])
    assert shown == [b"next root"]
    assert queue.handed() == ("etag", b"next root")
    queue.leave()


def test_a_closed_session_stops_waiting() -> None:
    first, waits = queue_of(), Waits(lambda: queue.close())
    first._take()
    _held.starts.clear()
    queue = queue_of(waits)
    queue.enter(0.01)
    assert len(waits.seconds) == 1
    queue.leave()
    assert queue.enter(0.01) is False
    assert not queue.is_in
    first.leave()


def test_an_interrupt_ends_the_wait_and_gives_the_place_back() -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    first = queue_of()
    first._take()
    _held.starts.clear()
    queue = queue_of(Waits(interrupt))
    with pytest.raises(KeyboardInterrupt):
        queue.enter(0.01)
    queue.leave()
    first.leave()
    assert queue_of(Waits()).enter(0.0) is False


# -- where there is no queue -------------------------------------------------------------------


def open_to_others(folder: Path) -> None:
    folder.chmod(0o755)


def planted_link(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(b"kept")
    (folder / FILE_NAME).symlink_to(folder / "elsewhere")


def planted_folder(folder: Path) -> None:
    (folder / FILE_NAME).mkdir()


def planted_fifo(folder: Path) -> None:
    os.mkfifo(folder / FILE_NAME)


def foreign_lock(folder: Path) -> None:
    file = Descriptor()
    file.open(folder / FILE_NAME, os.O_RDWR | os.O_CREAT)
    fcntl.fcntl(file.number, fcntl.F_OFD_SETLK, machine_queue._FLOCK.pack(fcntl.F_WRLCK, 0, 0, 0, 0))
    _kept.append(file)


def no_locks(folder: Path) -> None:
    machine_queue._SET = None


_kept: list[Descriptor] = []


@pytest.mark.parametrize(
    "spoil", [open_to_others, planted_link, planted_folder, planted_fifo, foreign_lock, no_locks]
)
def test_without_a_sound_file_everybody_goes_at_once(
    folder: Path, monkeypatch: pytest.MonkeyPatch, spoil: Callable[[Path], None]
) -> None:
    monkeypatch.setattr(machine_queue, "_SET", machine_queue._SET)
    spoil(folder)
    for queue in (queue_of(Waits()), queue_of(Waits())):
        assert queue.enter(0.0) is False
        assert not queue.is_in
    if (folder / "elsewhere").exists():
        assert (folder / "elsewhere").read_bytes() == b"kept"
    _kept.clear()


def test_a_folder_that_is_a_link_is_not_used(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path_factory.mktemp("real")
    real.chmod(0o700)
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    monkeypatch.setattr(private_folder, "SHARED_MEMORY", folder)
    (folder / f"ebooklet_tx-{os.geteuid()}").symlink_to(real)
    queue_of(Waits()).enter(0.0)
    assert not list(real.iterdir())


def test_without_a_folder_of_the_session_one_is_made_in_shared_memory(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    monkeypatch.setattr(private_folder, "SHARED_MEMORY", folder)
    queue = queue_of()
    queue.enter(0.0)
    assert queue.is_in
    queue.leave()
    made = folder / f"ebooklet_tx-{os.geteuid()}"
    assert made.stat().st_mode & 0o777 == 0o700
    assert (made / FILE_NAME).stat().st_mode & 0o777 == 0o600


def test_a_wait_that_fails_leaves_no_place_of_its_thread(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> bool:
        raise OSError("the file went")

    queue = queue_of()
    monkeypatch.setattr(queue, "_await", fail)
    assert queue.enter(0.0) is False
    assert not queue.is_in
    assert _held.starts == set()
