"""Map: a function over the items in several processes."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.database import parallel
from ebooklet_tx.database.parallel import map_items
from tests.api.map_functions import (
    answering_with_a_lock,
    dying,
    failing,
    in_a_clean_process,
    leaving,
    odd_only,
    raising,
    same,
    twice,
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
def test_what_cannot_come_back_is_told(function: Any, words: str) -> None:
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
        pickled = parallel._pickled_function(module.function)
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
