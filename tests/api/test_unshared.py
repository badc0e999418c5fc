"""A session is neither copied nor pickled, and nothing but its own end ends it."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.connection import parse_connection
from ebooklet_tx.errors import InvalidTypeError
from tests.pairs import Bench

WAYS = {"copy": copy.copy, "deepcopy": copy.deepcopy, "pickle": pickle.dumps}
PARTS: dict[str, Callable[[Any], Any]] = {
    "database": lambda db: db,
    "changes": lambda db: db.changes(),
    "keys": lambda db: db.keys(),
    "items": lambda db: db.items(),
    "values": lambda db: db.values(),
}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[ebooklet_tx.Database]:
    with Bench(tmp_path).open() as db:
        db["k"] = b"unsaved"
        yield db


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("part", PARTS)
def test_a_session_is_refused(db: ebooklet_tx.Database, way: str, part: str) -> None:
    with pytest.raises(InvalidTypeError, match=r"can't be copied or pickled.*map\(function\)") as refused:
        WAYS[way](PARTS[part](db))
    assert isinstance(refused.value, TypeError)
    del refused
    gc.collect()
    assert db["k"] == b"unsaved"
    db.sync()


@pytest.mark.parametrize("way", WAYS)
def test_a_group_and_a_session_on_a_remote_are_refused(tmp_path: Path, way: str) -> None:
    bench = Bench(tmp_path)
    with bench.open(remote_conn_group=True) as group, pytest.raises(TypeError, match="RemoteConnGroup"):
        WAYS[way](group)
    with parse_connection(bench.url).open("r") as remote, pytest.raises(TypeError, match="RemoteSession"):
        WAYS[way](remote)


def test_what_is_in_a_database_can_be_copied(db: ebooklet_tx.Database) -> None:
    assert copy.deepcopy(dict(db)) == {"k": b"unsaved"}
