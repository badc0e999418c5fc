"""Map: a function over the items in several processes."""

from __future__ import annotations

import copyreg
import multiprocessing
import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.database import parallel
from ebooklet_tx.database.parallel import map_items
from tests.api.map_functions import (
    TwoWordsError,
    answering_with_a_lock,
    dying,
    failing,
    in_a_clean_process,
    leaving,
    odd_only,
    raising,
    same,
    twice,
    value_alone,
    where,
)
from tests.pairs import Bench


@pytest.fixture(autouse=True)
def _no_main_to_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker process loads the main module again, which is pytest's."""
    for name in ("__spec__", "__file__"):
        monkeypatch.setattr(sys.modules["__main__"], name, None, raising=False)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="pickle") as db:
        db.update({f"k{number:02}": number for number in range(20)})
        db.changes().push()
    return bench


def test_each_item_comes_once(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert dict(db.map(twice, n_workers=2)) == {f"k{n:02}" * 2: 2 * n for n in range(20)}


def test_it_runs_elsewhere(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert os.getpid() not in dict(db.map(where, ["k00"], n_workers=1)).values()


def test_none_leaves_out(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert sorted(value for _, value in db.map(odd_only, n_workers=1)) == list(range(1, 20, 2))


@pytest.mark.parametrize("threads", [True, False])
def test_what_is_no_pair_is_yielded_as_it_is(bench: Bench, threads: bool) -> None:
    with bench.open("a", "r") as db, ThreadPoolExecutor(1) as pool:
        found = db.map(value_alone, ["k03", "k00", "k07"], n_workers=1, executor=pool if threads else None)
        assert sorted(found) == [0, 3, 7]


def test_some_keys_are_fetched_and_missing_ones_left_out(bench: Bench) -> None:
    with bench.open("fresh", "r", allow_pickle=True) as db:
        assert dict(db.map(same, keys=["k03", "nothing", "k07"], n_workers=1)) == {"k03": 3, "k07": 7}


def test_values_that_are_not_committed_and_none_are_taken(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        db["none"] = None
        assert dict(db.map(same, keys=iter(["none"]), n_workers=1)) == {"none": None}
        db["k00"] = "new"
        del db["k01"]
        found = dict(db.map(same, n_workers=1))
        assert found == dict(db.items())


def test_writing_while_it_runs(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        for key, value in db.map(twice, n_workers=1):
            db[key] = value
            if len(db) > 30:
                break
        assert db["k05k05"] == 10 or len(db) > 30


def test_what_the_function_raises_comes_out(bench: Bench) -> None:
    with bench.open("a", "r") as db, pytest.raises(ArithmeticError):
        list(db.map(failing, n_workers=1))


@pytest.mark.parametrize("wrong", [0, -1, True, 1.5, "2"])
def test_a_wrong_number_of_processes(bench: Bench, wrong: Any) -> None:
    with bench.open("a", "r") as db, pytest.raises(ebooklet_tx.InvalidArgumentError, match="n_workers"):
        db.map(same, n_workers=wrong)


def test_items_are_taken_as_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "ITEMS_IN_FLIGHT", 2)
    taken = 0

    def items() -> Any:
        nonlocal taken
        for number in range(100):
            taken += 1
            yield str(number), number

    results = map_items(same, items(), 1)
    next(results)
    assert taken == 2
    results.close()  # type: ignore[attr-defined]
    assert taken == 2


# -- what can't be sent, loaded, or come back --------------------------------------------------


def local_function() -> Any:
    return lambda key, value: (key, value)


@pytest.fixture
def shelf(bench: Bench) -> Iterator[ebooklet_tx.Database]:
    """A session with the lock, which is free at once when the map has failed and the session is closed."""
    with bench.open("a", "w", lock="exclusive") as db:
        yield db
    with bench.open("a", "w", lock="exclusive", lock_timeout=0.0):
        pass


@pytest.mark.parametrize("function", [lambda key, value: None, local_function(), threading.Lock().acquire])
def test_a_function_that_has_no_name_is_refused_before_anything_starts(
    shelf: ebooklet_tx.Database, function: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)
    with pytest.raises(ebooklet_tx.InvalidTypeError, match="top level of a module"):
        shelf.map(function)


def test_what_is_no_function_is_refused(shelf: ebooklet_tx.Database) -> None:
    with pytest.raises(TypeError, match="needs a function of key and value, not a str"):
        shelf.map("upper")  # type: ignore[arg-type]


def worked(function: Any) -> Any:
    """What a worker sends back, computed in this process."""
    return pickle.loads(parallel._work(pickle.dumps(function), pickle.dumps(("k", 1))))


@pytest.mark.parametrize(
    ("function", "words"),
    [(raising, "raised TwoWordsError for the key 'k': no k"), (leaving, "raised SystemExit for the key 'k': 3")],
)
def test_what_cannot_come_back_is_told(function: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Dask, where another test has imported it, makes pickle load every exception.
    monkeypatch.delitem(copyreg.dispatch_table, TwoWordsError, raising=False)
    with pytest.raises(ebooklet_tx.WorkerError, match=words):
        worked(function)


def test_an_answer_that_cannot_be_sent_back_names_the_key() -> None:
    with pytest.raises(ebooklet_tx.InvalidValueError, match="made of the key 'k' can't be sent back"):
        worked(answering_with_a_lock)


def test_a_function_that_a_worker_cannot_load_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("only_here")
    exec("def function(key, value): return key, value", vars(module))
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "only_here", module)
        pickled = parallel._pickled(module.function)
    with pytest.raises(ebooklet_tx.WorkerError, match="can't be loaded in a worker process: No module named"):
        parallel._work(pickled, pickle.dumps(("k", 1)))


@pytest.mark.parametrize(
    ("function", "words"), [(leaving, "raised SystemExit"), (dying, "ended in the middle of its work")]
)
def test_a_worker_that_fails_ends_the_map(shelf: ebooklet_tx.Database, function: Any, words: str) -> None:
    with pytest.raises(ebooklet_tx.WorkerError, match=words):
        list(shelf.map(function, n_workers=1))


def test_a_value_that_cannot_be_sent_names_its_key() -> None:
    with pytest.raises(ebooklet_tx.InvalidValueError, match=r"value of key 'k' \(a lock\) can't be sent"):
        list(map_items(same, [("k", threading.Lock())], 1))


def test_workers_are_no_forks_of_this_process(shelf: ebooklet_tx.Database) -> None:
    assert dict(shelf.map(in_a_clean_process, keys=["k00"], n_workers=1)) == {"k00": 0}


# -- executors -----------------------------------------------------------------------------------


class OneOfAnothersKind:
    """An executor that is none of the standard library's, as Dask's: it has `submit`, and runs threads."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(2)
        self.submitted = 0

    def submit(self, function: Any, *arguments: Any) -> Any:
        self.submitted += 1
        return self.pool.submit(function, *arguments)


@pytest.mark.parametrize("kind", [ThreadPoolExecutor, OneOfAnothersKind])
def test_executors_that_take_lambdas_and_closures(bench: Bench, kind: Any) -> None:
    executor, factor = kind(), 3
    with bench.open("a", "r") as db:
        for _ in range(2):
            found = dict(db.map(lambda key, value: (key, factor * value) if value else None, executor=executor))
            assert found == {f"k{n:02}": 3 * n for n in range(1, 20)}
        with pytest.raises(TypeError, match="needs a function"):
            db.map("upper", executor=executor)  # type: ignore[arg-type]
    getattr(executor, "pool", executor).shutdown()


def test_what_is_no_executor_is_refused(bench: Bench) -> None:
    with bench.open("a", "r") as db, pytest.raises(ebooklet_tx.InvalidTypeError, match="get_executor"):
        db.map(same, executor="threads")  # type: ignore[call-overload]


@pytest.mark.parametrize("executor", [None, ThreadPoolExecutor])
def test_an_exception_names_the_key(shelf: ebooklet_tx.Database, executor: Any) -> None:
    pool = executor and executor(1)
    with pytest.raises(ArithmeticError) as caught:
        list(shelf.map(failing, keys=["k03"], n_workers=1, executor=pool))
    assert caught.value.__notes__ == ["raised by the function that map applied to the key 'k03'"]
    if pool:
        with pytest.raises(ebooklet_tx.WorkerError, match="raised SystemExit for the key 'k03'"):
            list(shelf.map(leaving, keys=["k03"], executor=pool))
        # It is the caller's, and still at work.
        assert pool.submit(abs, -1).result() == 1
        pool.shutdown()


def test_threads_take_items_as_there_is_room_and_what_waits_is_cancelled() -> None:
    taken = 0

    def items() -> Any:
        nonlocal taken
        for number in range(1000):
            taken += 1
            yield str(number), number

    with ThreadPoolExecutor(2) as pool:
        results = map_items(same, items(), None, pool)
        next(results)
        results.close()  # type: ignore[attr-defined]
        assert taken <= 2 * 2 * parallel.ITEMS_IN_FLIGHT


def test_processes_of_the_callers(shelf: ebooklet_tx.Database) -> None:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        for function in (lambda key, value: (key, value), local_function()):
            with pytest.raises(ebooklet_tx.InvalidTypeError, match="or give an executor of threads"):
                shelf.map(function, executor=pool)
        assert dict(shelf.map(twice, keys=["k03"], executor=pool)) == {"k03k03": 6}
        fork = shelf.fork()
        receipts = list(shelf.map(twice, keys=["k01", "k02"], executor=pool, into=fork))
        assert shelf.merge(*receipts).set_count == 2
        assert shelf["k02k02"] == 4
        with pytest.raises(ebooklet_tx.WorkerError, match="ended in the middle of its work"):
            list(shelf.map(dying, executor=pool, into=fork))


def test_results_go_into_a_fork(bench: Bench) -> None:
    progress: list[ebooklet_tx.Progress] = []
    with bench.open("a", "w", progress=progress.append) as db, ThreadPoolExecutor(3) as pool:
        db["pending"] = 7
        fork = db.fork()
        keys = [*(f"k{n:02}" for n in range(20)), "missing", "pending"]
        receipts = list(db.map(odd_only, keys, executor=pool, into=fork))
        assert len(receipts) > 3
        assert db.merge(*receipts).set_count == 10
        assert ("map", 10, 22) in {(event.phase, event.keys_done, event.keys_total) for event in progress}
        db.changes().discard()
        everything = list(db.map(twice, executor=pool, into=fork))
        assert sum(receipt.set_count for receipt in everything) == 20
        with pytest.raises(ArithmeticError) as caught:
            list(db.map(failing, ["k03"], executor=pool, into=fork))
        assert "'k03'" in caught.value.__notes__[0]
        for made in (7, "ab", (1, 2, 3)):
            with pytest.raises(ebooklet_tx.InvalidTypeError, match=r"of the key 'k03', .* return \(key, value\)"):
                list(db.map(lambda key, value, made=made: made, ["k03"], executor=pool, into=fork))
        with pytest.raises(ebooklet_tx.InvalidTypeError, match="into must be a fork"):
            db.map(twice, executor=pool, into=db)  # type: ignore[call-overload]
        with pytest.raises(ebooklet_tx.InvalidArgumentError, match="not of this one"):
            db.map(twice, executor=pool, into=replace(fork, uuid="0" * 32))


class Words:
    """A serializer of one's own."""

    @staticmethod
    def dumps(value: str) -> bytes:
        return value.encode()

    @staticmethod
    def loads(data: bytes) -> str:
        return data.decode()


def test_a_serializer_class_travels_with_the_task(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer=Words) as db, ThreadPoolExecutor(1) as pool:
        db["a"] = "text"
        db.changes().push()
        receipts = db.map(lambda key, value: (key, value + "!"), executor=pool, into=db.fork())
        db.merge(*receipts)
        assert db["a"] == "text!"


def test_a_program_that_is_not_guarded_is_told(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    (tmp_path / "program.py").write_text(
        "import math, ebooklet_tx\n"
        f"with ebooklet_tx.open({bench.url!r}, {str(bench.path())!r}, 'c') as db:\n"
        "    db['k'] = b'v'\n"
        "    list(db.map(math.pow, n_workers=1))\n"
    )
    done = subprocess.run([sys.executable, tmp_path / "program.py"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "put what the program does under if __name__ == '__main__'" in done.stderr
    assert "WorkerError: a worker process of map ended" in done.stderr
