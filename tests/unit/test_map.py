"""Map: a function over the items in several processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import parallel
from ebooklet_tx.parallel import map_items
from tests.pairs import Bench


def twice(key: str, value: int) -> tuple[str, int]:
    return key + key, 2 * value


def odd_only(key: str, value: int) -> tuple[str, int] | None:
    return (key, value) if value % 2 else None


def where(key: str, value: Any) -> tuple[str, int]:
    return key, os.getpid()


def failing(key: str, value: int) -> tuple[str, int]:
    raise ArithmeticError(key)


def same(key: str, value: Any) -> tuple[str, Any]:
    return key, value


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
        assert os.getpid() not in dict(db.map(where, n_workers=2)).values()


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
        found = dict(db.map(same, n_workers=2))
        assert found == dict(db.items())


def test_writing_while_it_runs(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        for key, value in db.map(twice, n_workers=2):
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
