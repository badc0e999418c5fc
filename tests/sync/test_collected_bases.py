"""A commit on a base of which the index has been collected: it is made on the newest one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx import Database, RemoteIntegrityError
from ebooklet_tx.errors import ObjectMissingError
from ebooklet_tx.sync.commit import publish
from ebooklet_tx.sync.commit.push import raise_fence
from tests.pairs import Bench, push

VALUES = {f"k{number:04}": b"%d" % number for number in range(6000)}


def push_one(db: Database) -> None:
    db["ours"] = b"1"
    assert db.changes().push()


def fence(db: Database) -> None:
    raise_fence(db._session)


def merge(db: Database) -> None:
    db.compact(live_share=1.0)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    push(bench, "a", VALUES)
    push(bench, "a", {f"m{number:03}": b"more" for number in range(700)})
    return bench


def is_missing_once(monkeypatch: pytest.MonkeyPatch, meanwhile: Callable[[], object]) -> list[str]:
    """Lets the first commit find a part of the index missing; returns what took place."""
    build = publish.build
    noted: list[str] = []

    def missing(*args: Any, **options: Any) -> Any:
        noted.append("built")
        if len(noted) == 1:
            monkeypatch.setattr(publish, "build", build)
            meanwhile()
            monkeypatch.setattr(publish, "build", missing)
            raise ObjectMissingError("get_range of 'db.d/index/0': there is no such object")
        return build(*args, **options)

    monkeypatch.setattr(publish, "build", missing)
    return noted


@pytest.mark.parametrize("work", [push_one, fence, merge])
def test_it_is_made_on_the_newest_base(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, work: Callable[[Database], None]
) -> None:
    with bench.open("b", "w", lock=None) as db:
        noted = is_missing_once(monkeypatch, lambda: push(bench, "a", {"theirs": b"2"}))
        work(db)
        assert len(noted) >= 2
        assert db["theirs"] == b"2"
    assert bench.fresh_contents().items() >= {**VALUES, "theirs": b"2"}.items()


@pytest.mark.parametrize("work", [push_one, fence, merge])
def test_what_the_newest_root_names_and_is_missing_is_damage(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, work: Callable[[Database], None]
) -> None:
    with bench.open("b", "w", lock=None) as db:
        noted = is_missing_once(monkeypatch, lambda: None)
        with pytest.raises(RemoteIntegrityError, match="a part of the remote's index is missing"):
            work(db)
        assert noted == ["built"]
