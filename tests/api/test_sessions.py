"""Sessions side by side: threads, processes, forks, and sessions that nobody closed."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from pathlib import Path

import booklet
import pytest

from ebooklet_tx.database import Database
from ebooklet_tx.errors import LockTimeoutError, ReadOnlyError, SessionClosedError
from tests.pairs import Bench
from tests.processes import first_to_speak, fork, workers
from tests.reader_processes import read_in_rounds

VALUES = {f"k{number:03}": random.Random(number).randbytes(3000) for number in range(60)}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    """A pushed database, with all values in copy "a"."""
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db.update(VALUES)
        db.changes().push()
    return bench


def in_child(work: Callable[[], object]) -> str:
    """Forks, and returns what the work in the child returned or raised, as text."""
    read_end, write_end = os.pipe()
    pid = fork()
    if pid == 0:
        try:
            answer = repr(work())
        except BaseException as error:
            answer = type(error).__name__
        os.write(write_end, answer.encode())
        # As a program ends that nobody told to skip its finalizers.
        gc.collect()
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as pipe:
        answer = pipe.read()
    assert os.waitpid(pid, 0)[1] == 0
    return answer


# -- forks and closed sessions -------------------------------------------------------------------


def what_it_raises(use: Callable[[Database], object], db: Database) -> str:
    try:
        use(db)
    except Exception as error:
        return type(error).__name__
    return "nothing"


USES: list[Callable[[Database], object]] = [
    lambda db: db["k001"],
    lambda db: db.get("k001"),
    lambda db: "k001" in db,
    len,
    list,
    lambda db: list(db.items()),
    lambda db: db.keys(),
    lambda db: list(db.get_items(["k001"])),
    lambda db: db.load_items(),
    lambda db: db.get_metadata(),
    lambda db: db.get_timestamp("k001"),
    lambda db: db.set("k001", b"2"),
    lambda db: db.update({"k001": b"2"}),
    lambda db: db.__delitem__("k001"),
    lambda db: db.clear(),
    lambda db: db.prune(),
    lambda db: db.sync(),
    lambda db: db.changes(),
    lambda db: db.uuid,
    lambda db: db.__enter__(),
    lambda db: db.transaction().__enter__(),
]


def test_a_forked_child_may_not_use_the_session(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["before"] = b"in memory"
        # One child for them all: to fork is what takes long.
        assert in_child(lambda: [what_it_raises(use, db) for use in USES]) == repr(
            ["SessionClosedError"] * len(USES)
        )
        assert "of another process>" in in_child(lambda: db)
        assert in_child(db._ipython_key_completions_) == "[]"
        assert in_child(db.close) == "None"
        assert in_child(lambda: db.closed) in ("True", "False")
        # The parent's lock holds, in the child's eyes as well, and its work goes on.
        with pytest.raises(LockTimeoutError):
            bench.open("a", "w", lock_timeout=0)
        assert in_child(lambda: bench.open("a", "w", lock_timeout=0)) == "LockTimeoutError"
        db["after"] = b"1"
        db.sync()
        assert dict(db.items()) == VALUES | {"before": b"in memory", "after": b"1"}
    with booklet.open(bench.path()) as blt:
        assert len(blt) == len(VALUES) + 2
    assert bench.contents("a") == VALUES | {"before": b"in memory", "after": b"1"}


def test_a_forked_child_may_open_its_own(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["committed"] = b"1"
        db.sync()

        def read() -> tuple[bytes, int]:
            with bench.open("a", "r") as own:
                return own["committed"], len(own)

        assert in_child(read) == repr((b"1", len(VALUES) + 1))
        db["more"] = b"1"
    assert len(bench.contents("a")) == len(VALUES) + 2


def test_a_child_that_ends_normally_leaves_the_parent_unharmed(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["uncommitted"] = b"1"
        # Finalizers, atexit and all; warnings are no errors in there.
        child = multiprocessing.get_context("fork").Process(target=list, args=([],))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child.start()
        child.join()
        assert child.exitcode == 0
        with pytest.raises(LockTimeoutError):
            bench.open("a", "w", lock_timeout=0)
        assert db["uncommitted"] == b"1"
    with booklet.open(bench.path()) as blt:
        assert blt["uncommitted"] == b"1"


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_closed_session_says_so(bench: Bench, use: Callable[[Database], object], flag: str) -> None:
    db = bench.open("a", flag)
    db.close()
    db.close()
    assert db.closed
    with pytest.raises(SessionClosedError, match="open it again"):
        use(db)


@pytest.mark.parametrize("what", ["the file", "its journal"])
def test_a_session_that_is_closed_while_it_is_used_says_so(bench: Bench, what: str) -> None:
    uses: list[Callable[[Database], object]] = [
        lambda db: db["k001"],
        lambda db: list(db.items()),
        lambda db: db.changes().push(),
    ]
    for use in uses:
        db = bench.open("a", "w")
        if what == "the file":
            db.close()
            # As a thread has it that looked before.
            db._closed = False
        else:
            db._session.journal.raw.close()
        with pytest.raises(SessionClosedError, match="open the database again"):
            use(db)
        db._session.local.abandon()
        db.close()


def test_a_reading_session_does_not_write(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert not db.writable
        for use in USES[11:16]:
            with pytest.raises(ReadOnlyError, match="flag 'w'"):
                use(db)


def test_a_child_that_was_forked_inside_a_transaction_can_not_end_it(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        block = db.transaction()
        block.__enter__()
        db["inside"] = b"1"
        assert in_child(lambda: block.__exit__(None, None, None)) == "SessionClosedError"
        block.__exit__(None, None, None)
        assert db["inside"] == b"1"


def test_a_session_that_is_not_closed_warns(bench: Bench) -> None:
    db = bench.open("a", "w")
    db["committed"] = b"1"
    db.sync()
    opened = [db]
    del db
    with pytest.warns(ResourceWarning, match="not closed"):
        opened.clear()
    gc.collect()
    # Its lock and its files are let go of.
    with bench.open("a", "w", lock_timeout=0) as db:
        assert db["committed"] == b"1"


def test_an_exception_in_the_block_closes_the_session(bench: Bench) -> None:
    def fail() -> None:
        with bench.open("a", "w") as db:
            db["kept"] = b"1"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert bench.contents("a")["kept"] == b"1"


# -- side by side --------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["w", "c", "n"])
def test_a_second_writer_waits_and_gives_up(bench: Bench, flag: str) -> None:
    with bench.open("a", "w") as db:
        with pytest.raises(LockTimeoutError, match=r"0\.05 seconds"):
            bench.open("a", flag, lock_timeout=0.05)
        db["k"] = b"1"
    with bench.open("a", "w", lock_timeout=0) as db:
        assert db["k"] == b"1"


def test_a_second_writer_gets_its_turn(bench: Bench) -> None:
    first = bench.open("a", "w")
    opened: list[Database] = []
    thread = threading.Thread(target=lambda: opened.append(bench.open("a", "w", lock_timeout=60)))
    thread.start()
    first["k"] = b"1"
    first.close()
    thread.join()
    assert opened[0]["k"] == b"1"
    opened[0].close()


def test_a_lock_of_another_process(bench: Bench) -> None:
    program = (
        "import sys, booklet\n"
        "blt = booklet.open(sys.argv[1], 'w')\n"
        "print('open', flush=True)\n"
        "sys.stdin.read()\n"
        "blt.close()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(bench.path())], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        assert child.stdin is not None
        assert child.stdout.readline() == b"open\n"
        with pytest.raises(LockTimeoutError):
            bench.open("a", "w", lock_timeout=0)
        # Reading waits for nobody.
        assert bench.contents("a") == VALUES
        child.stdin.close()
        assert child.wait() == 0


def test_readers_beside_a_writer(bench: Bench) -> None:
    with bench.open("a", "w") as writer, bench.open("a", "r") as one, bench.open("a", "r") as two:
        writer["k000"] = b"new"
        assert one["k000"] == VALUES["k000"]
        writer.sync()
        assert one["k000"] == two["k000"] == b"new"
        del writer["k001"]
        writer.sync()
        assert "k001" not in one
        assert len(two) == len(VALUES) - 1
        writer.changes().push()
        assert one["k000"] == b"new"
        one.changes().pull()
        assert dict(one.items()) == dict(two.items()) == dict(writer.items())


def test_readers_follow_a_rebuild(bench: Bench) -> None:
    with bench.open("a", "w") as writer, bench.open("a", "r") as reader:
        assert reader["k059"] == VALUES["k059"]
        for number in range(30):
            del writer[f"k{number:03}"]
        writer.sync()
        inode = bench.path().stat().st_ino
        writer.prune()
        assert bench.path().stat().st_ino != inode
        assert reader["k059"] == VALUES["k059"]
        assert dict(reader.items()) == dict(writer.items())
        writer["k059"] = b"after"
        writer.prune()
        writer["k058"] = b"after"
        writer.prune()
        assert (reader["k059"], reader["k058"]) == (b"after", b"after")


def test_a_reader_keeps_what_it_fetched(bench: Bench) -> None:
    with bench.open("b", "r") as db:
        assert db["k007"] == VALUES["k007"]
    for pack in bench.objects("pack"):
        pack.unlink()
    with bench.open("b", "r") as db:
        assert db["k007"] == VALUES["k007"]


def test_sync_brings_what_a_reader_fetched_into_the_file(bench: Bench) -> None:
    with bench.open("new", "r") as db:
        value = db["k000"]
        db.sync()
        with booklet.open(bench.path("new")) as blt:
            assert dict(blt.items()) == {"k000": value}
    with bench.open("a", "w", lock=None) as writer, bench.open("a", "r") as reader:
        writer["k000"] = b"more"
        reader.sync()
        assert reader["k000"] == value


def test_a_reader_beside_a_writer_keeps_nothing_and_reads_all(bench: Bench) -> None:
    with bench.open("b", "w"), bench.open("b", "r") as reader:
        assert dict(reader.items()) == VALUES
    with bench.open("b", "r") as reader:
        assert dict(reader.items()) == VALUES


def test_threads_of_one_session(bench: Bench) -> None:
    errors: list[BaseException] = []
    done = threading.Event()

    def guarded(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            try:
                work()
            except BaseException as error:
                errors.append(error)

        return run

    with bench.open("a", "w") as db:

        def write(name: str) -> None:
            for number in range(60):
                value = f"{name} {number}".encode()
                db[f"{name}{number % 20}"] = value
                assert db[f"{name}{number % 20}"] == value
                if number % 10 == 9:
                    db.sync()
                if number % 25 == 24:
                    with db.transaction():
                        db[f"{name} in"] = b"1"
                        db[f"{name} out"] = b"1"
                if number % 30 == 29:
                    db.prune()

        def read() -> None:
            while not done.is_set():
                found = dict(db.items())
                assert all(found[key] == value for key, value in VALUES.items())
                assert ("t0 in" in found) or ("t0 out" not in found)
                len(db)

        writers = [threading.Thread(target=guarded(lambda n=n: write(f"t{n}"))) for n in range(3)]
        readers = [threading.Thread(target=guarded(read)) for _ in range(2)]
        for thread in [*writers, *readers]:
            thread.start()
        for thread in writers:
            thread.join()
        done.set()
        for thread in readers:
            thread.join()
        assert errors == []
        expected = VALUES | {
            key: value
            for n in range(3)
            for key, value in [
                *((f"t{n}{number % 20}", f"t{n} {number}".encode()) for number in range(40, 60)),
                (f"t{n} in", b"1"),
                (f"t{n} out", b"1"),
            ]
        }
        assert dict(db.items()) == expected
        db.changes().push()
    assert bench.fresh_contents() == expected


def test_processes_reading_beside_a_busy_writer(bench: Bench) -> None:
    values = {key: key.encode() + value for key, value in VALUES.items()}
    with bench.open("a", "w") as writer, workers() as start:
        writer.update(values)
        writer.changes().push()
        readers = [start(read_in_rounds, bench.url, bench.path(), 15) for _ in range(2)]
        for reader in readers:
            assert reader.receive() == "ready"
        rng = random.Random(1)
        turns = 0
        while len(first_to_speak(readers, 0)) < len(readers):
            key = rng.choice(sorted(values))
            writer[key] = key.encode() + rng.randbytes(2000)
            turns += 1
            if turns % 7 == 0:
                writer._session.local.commit(fold=True)
            if turns % 20 == 0:
                writer.prune()
            if turns % 33 == 0:
                writer.changes().push()
        for reader in readers:
            assert reader.finish() == [15]
        assert turns > 20
