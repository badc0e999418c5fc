"""Progress: what is told of each operation, to a function, to bars and to the log."""

from __future__ import annotations

import io
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.progress import EVERY_SECONDS, Phase, Progress, Reporter, telling
from ebooklet_tx.sync.commit import packing

REMOTE = "memory://progress"
KEYS = 40
VALUE = b"v" * 10_000
TOTAL_BYTES = KEYS * len(VALUE)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    testing.clear("progress")
    yield
    testing.clear("progress")


def opened(path: Path, flag: str = "c", **options: Any) -> ebooklet_tx.Database:
    return ebooklet_tx.open(REMOTE, path, flag, n_buckets=17, **options)  # type: ignore[arg-type]


def filled(path: Path, **options: Any) -> ebooklet_tx.Database:
    db = opened(path, **options)
    db.update({f"k{number}": VALUE + bytes([number]) for number in range(KEYS)})
    return db


def failed(reporter: Reporter) -> Exception | None:
    """Lets a phase fail after four of nine keys."""
    try:
        with reporter.phase("load", keys_total=9) as phase:
            phase.advance(4)
            raise ValueError("broken")
    except ValueError as error:
        return error


def last(events: list[Progress], phase: str) -> Progress:
    return [event for event in events if event.phase == phase][-1]


# -- one phase ---------------------------------------------------------------------------------


def test_a_phase_tells_its_begin_its_end_and_not_too_often_in_between() -> None:
    clock, told = Clock(), []
    with Reporter(told.append, clock=clock).phase("send", keys_total=100, bytes_total=1000) as phase:
        for _ in range(100):
            clock.now += EVERY_SECONDS / 10
            phase.advance(1, 10)
    assert [event.keys_done for event in (told[0], told[-1])] == [0, 100]
    assert told[-1] == Progress("send", 100, 100, 1000, 1000, pytest.approx(100 * EVERY_SECONDS / 10))
    assert len(told) == pytest.approx(12, abs=1)
    assert [event.bytes_done for event in told] == sorted(event.bytes_done for event in told)


def test_threads_advance_and_the_phase_s_own_thread_tells() -> None:
    clock, threads = Clock(), set()
    reporter = Reporter(lambda _event: threads.add(threading.get_ident()), clock=clock)
    with reporter.phase("load") as phase:

        def work() -> None:
            clock.now += 1
            phase.advance(1)

        worker = threading.Thread(target=work)
        worker.start()
        worker.join()
        phase.tick()
    assert threads == {threading.get_ident()}


def test_bytes_on_their_way_count_once_and_until_they_have_arrived() -> None:
    clock, told = Clock(), []

    def tick(phase: Phase) -> int:
        clock.now += 1
        phase.tick()
        return told[-1].bytes_done

    with Reporter(told.append, clock=clock).phase("send", bytes_total=100) as phase:
        with phase.moving(60) as moved:
            moved(40)
            assert tick(phase) == 40
            # Sent again.
            moved(40)
            assert tick(phase) == 60
        assert tick(phase) == 0
        phase.advance(0, 60)
        assert tick(phase) == 60


def test_what_a_function_raises_ends_the_phase_and_it_is_not_called_again() -> None:
    calls = []

    def refuse(event: Progress) -> None:
        calls.append(event)
        raise RuntimeError("enough")

    with pytest.raises(RuntimeError, match="enough"), Reporter(refuse).phase("load"):
        raise AssertionError("not reached")
    assert len(calls) == 1


def test_a_phase_that_fails_tells_its_last_event_as_well() -> None:
    told: list[Progress] = []
    assert isinstance(failed(Reporter(told.append)), ValueError)
    assert told[-1].keys_done == 4


def test_a_call_s_own_function_takes_the_place_of_the_session_s() -> None:
    session: list[Progress] = []
    call: list[Progress] = []
    reporter = Reporter(session.append)
    with telling(call.append), reporter.phase("push"):
        pass
    with telling(None), reporter.phase("pull"):
        pass
    assert [event.phase for event in call] == ["push", "push"]
    assert [event.phase for event in session] == ["pull", "pull"]


def test_what_is_no_function_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="progress must be"):
        opened(tmp_path / "a.blt", progress="yes")


# -- operations --------------------------------------------------------------------------------


def test_a_push_tells_of_all_values_and_the_commit(tmp_path: Path) -> None:
    told: list[Progress] = []
    with filled(tmp_path / "a.blt") as db:
        assert db.changes().push(progress=told.append)
    sent = last(told, "send")
    assert (sent.keys_done, sent.keys_total) == (KEYS, KEYS)
    assert sent.bytes_done == sent.bytes_total == TOTAL_BYTES + KEYS
    assert last(told, "index").keys_done == KEYS
    assert [event.phase for event in told][-1] == "commit"


def test_every_operation_of_a_session_is_told_of(tmp_path: Path) -> None:
    told: list[Progress] = []
    with filled(tmp_path / "a.blt", progress=told.append) as db:
        db.changes().push()
        assert last(told, "send").bytes_done
        db.copy_remote("memory://progress-copy")
        assert last(told, "copy").bytes_done == last(told, "copy").bytes_total
        db["k0"] = b"new"
        db.changes().push()
        db.compact(live_share=1.0)
        assert last(told, "repack").keys_done == KEYS - 1
    with opened(tmp_path / "b.blt", "r", progress=told.append) as copy:
        assert not copy.load_items()
        loaded = last(told, "load")
        assert loaded.keys_done == loaded.keys_total == KEYS - 1
        assert loaded.bytes_done == loaded.bytes_total
        assert last(told, "load index")
    with opened(tmp_path / "c.blt", "r", progress=told.append) as other:
        assert len(dict(other.get_items(["k1", "k2"]))) == 2
        assert last(told, "fetch").keys_done == 2
    testing.clear("progress-copy")


def test_get_items_tells_of_what_it_fetches_alone(tmp_path: Path) -> None:
    told: list[Progress] = []
    with filled(tmp_path / "a.blt") as db:
        db.changes().push()
    with opened(tmp_path / "b.blt", "r") as copy:
        items = copy.get_items([f"k{number}" for number in range(KEYS)], progress=told.append)
        next(items)
        # What is done between two items is no part of it.
        copy.changes().pull()
        copy.load_index()
        assert len(dict(items)) == KEYS - 1
        assert last(told, "fetch").keys_done == KEYS
        assert {event.phase for event in told} == {"fetch"}


def test_looking_after_a_remote_is_told_of(tmp_path: Path) -> None:
    told: list[Progress] = []
    with filled(tmp_path / "a.blt") as db:
        db.changes().push()
        db.update({f"k{number}": VALUE for number in range(KEYS)})
        db.changes().push()
    assert ebooklet_tx.verify(REMOTE, read_values=True, progress=told.append).sound
    assert last(told, "read index").bytes_done == last(told, "read index").bytes_total
    verified = last(told, "verify")
    assert verified.keys_done == verified.keys_total == 1, "equal values lie in a pack once"
    assert verified.bytes_done == verified.bytes_total == len(VALUE)
    collected = ebooklet_tx.collect(REMOTE, grace_seconds=0, progress=told.append)
    assert last(told, "delete").bytes_done == collected.deleted.size_bytes > 0


def test_a_recovery_tells_of_the_push_that_it_resumes(tmp_path: Path) -> None:
    told: list[Progress] = []
    path, remote = tmp_path / "a.blt", f"file://{tmp_path}/remote"

    def refuse_the_root(event: Progress) -> None:
        if event.phase == "commit":
            raise RuntimeError("enough")

    with ebooklet_tx.open(remote, path, "c", n_buckets=17) as db:
        db["a"] = VALUE
        with pytest.raises(RuntimeError):
            db.changes().push(progress=refuse_the_root)
    report = ebooklet_tx.recover(path, remote, progress=told.append)
    assert report.pushed is not None
    # Its pack had arrived.
    assert last(told, "send").keys_done == 1
    assert {"send", "commit"} <= {event.phase for event in told}


def test_a_pull_is_told_of(tmp_path: Path) -> None:
    told: list[Progress] = []
    with filled(tmp_path / "a.blt", lock=None) as db:
        db.changes().push()
        with opened(tmp_path / "b.blt", "r") as copy:
            db["k1"] = b"new"
            db.changes().push()
            assert copy.changes().pull(progress=told.append)
    assert [event.phase for event in told] == ["pull", "pull"]


def test_a_resumed_push_begins_where_the_first_one_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "PACK_BYTES", 50_000)
    told: list[Progress] = []

    def stop_half_way(event: Progress) -> None:
        if event.phase == "send" and event.bytes_done > TOTAL_BYTES // 2:
            raise RuntimeError("enough")

    monkeypatch.setattr("ebooklet_tx.progress.reporter.EVERY_SECONDS", 0.0)
    monkeypatch.setattr("ebooklet_tx.stores.workers.EVERY_SECONDS", 0.0001)
    with filled(tmp_path / "a.blt") as db:
        with pytest.raises(RuntimeError, match="enough"):
            db.changes().push(progress=stop_half_way)
        assert not ebooklet_tx.connect(REMOTE).open(), "a push that was ended shows nothing"
        assert db.changes().push(progress=told.append).resumed_packs
        first = next(event for event in told if event.phase == "send" and event.keys_done)
        assert first.bytes_done > TOTAL_BYTES // 3
        assert last(told, "send").keys_done == KEYS
    with opened(tmp_path / "b.blt", "r") as copy:
        assert len(copy) == KEYS


@pytest.mark.parametrize("at", range(12))
def test_a_function_that_raises_leaves_nothing_half_applied(tmp_path: Path, at: int) -> None:
    """At each event of a push: the push has taken place, or it has not, and the session goes on."""
    count = 0

    def refuse(_event: Progress) -> None:
        nonlocal count
        count += 1
        if count > at:
            raise RuntimeError("enough")

    with filled(tmp_path / "a.blt") as db:
        try:
            db.changes().push(progress=refuse)
        except RuntimeError:
            there = ebooklet_tx.connect(REMOTE).open()
            assert not there or ebooklet_tx.verify(REMOTE).key_count == KEYS
        db["k0"] = b"later"
        db.changes().push()
        assert db["k0"] == b"later"
    with opened(tmp_path / "b.blt", "r") as copy:
        assert len(dict(copy)) == KEYS
        assert copy["k0"] == b"later"


# -- bars and log ------------------------------------------------------------------------------


def test_bars_show_what_takes_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("ebooklet_tx.progress.bars.UNSEEN_SECONDS", 0.0)
    with filled(tmp_path / "a.blt") as db:
        db.changes().push(progress=True)
    shown = screen.getvalue()
    assert "send: 100%" in shown
    assert f"{KEYS} of {KEYS} keys" in shown


def test_what_is_over_at_once_shows_no_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    with filled(tmp_path / "a.blt", progress=True) as db:
        db.changes().push()
    assert screen.getvalue() == ""


@pytest.mark.parametrize("shown", [True, False])
def test_a_phase_without_totals_is_shown_too(monkeypatch: pytest.MonkeyPatch, shown: bool) -> None:
    screen = io.StringIO()
    monkeypatch.setattr("sys.stderr", screen)
    monkeypatch.setattr("ebooklet_tx.progress.bars.UNSEEN_SECONDS", 0.0)
    clock = Clock()
    with Reporter(shown, clock=clock).phase("look up") as phase:
        clock.now += 1
        phase.advance(7)
        with Reporter(shown, clock=clock).phase("pull"):
            pass
    assert ("look up: 7.00 keys" in screen.getvalue()) is shown


def test_the_log_has_the_numbers_of_the_last_event(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ebooklet_tx")
    told: list[Progress] = []
    with filled(tmp_path / "a.blt") as db:
        db.changes().push(progress=told.append)
    sent = last(told, "send")
    assert f"send: {KEYS} of {KEYS} keys, {sent.bytes_done:,} of {sent.bytes_total:,} bytes in " in caplog.text


def test_an_operation_that_fails_is_logged_with_what_was_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "ebooklet_tx")
    failed(Reporter())
    assert "load: ended by ValueError after 4 of 9 keys in" in caplog.text


def test_where_nobody_listens_nothing_is_kept_of_bytes_on_their_way() -> None:
    with Reporter().phase("load") as phase, phase.moving(10) as moved:
        moved(5)
        assert phase._event().bytes_done == 0


def interrupted(work: Callable[[], object]) -> list[str]:
    with pytest.raises(KeyboardInterrupt) as caught:
        work()
    return getattr(caught.value, "__notes__", [])


def test_an_interrupt_says_what_has_arrived() -> None:
    def work() -> None:
        with Reporter().phase("send", keys_total=9, bytes_total=900, kept="push again sends the rest") as phase:
            phase.advance(4, 400)
            raise KeyboardInterrupt

    assert interrupted(work) == ["4 of 9 keys, 400 of 900 bytes arrived; push again sends the rest"]
