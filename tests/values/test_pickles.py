"""Pickle from somebody else's remote: when it is refused, when it is warned of, and that nothing is unpickled."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.values import pickle_policy as pickles
from ebooklet_tx.values.pickle_policy import ALLOW_PICKLE_VARIABLE, pickle_allowed
from tests.pairs import Bench

unpickled: list[str] = []


def note_unpickling(word: str) -> str:
    unpickled.append(word)
    return word


class Trap:
    """Runs code when it is unpickled, as anything may."""

    def __reduce__(self) -> tuple[Any, ...]:
        return note_unpickling, ("ran",)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture(autouse=True)
def nothing_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOW_PICKLE_VARIABLE, raising=False)
    monkeypatch.setattr(pickles, "_warned", set())
    unpickled.clear()


@pytest.fixture(params=["pickle", "pickle_zstd"])
def bench(tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer=request.param) as db:
        db["trap"] = Trap()
        db.changes().push()
    return bench


@pytest.fixture
def address(bench: Bench) -> Iterator[str]:
    handler = partial(_Quiet, directory=str(bench.folder / "remote"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}/db"
        server.shutdown()
        thread.join()


def test_the_database_that_was_made_here_is_trusted(bench: Bench) -> None:
    with bench.open("a", "r") as db:
        assert db["trap"] == "ran"


def test_a_public_address_warns_once(bench: Bench, address: str) -> None:
    with pytest.warns(ebooklet_tx.PickleWarning, match="can run code on this machine") as caught:
        db = ebooklet_tx.open(address, bench.path("b"))
    assert caught[0].filename == __file__
    assert unpickled == []
    with db:
        assert db["trap"] == "ran"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ebooklet_tx.open(address, bench.path("b")) as db:
            assert db["trap"] == "ran"


def test_where_warnings_are_errors_every_opening_ends_in_one(bench: Bench) -> None:
    for _attempt in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(ebooklet_tx.PickleWarning):
                bench.open("b", "r")
    assert unpickled == []


def test_a_connection_read_through_its_address_warns_too(bench: Bench, address: str) -> None:
    with (
        pytest.warns(ebooklet_tx.PickleWarning),
        ebooklet_tx.open(ebooklet_tx.S3Connection(db_url=address), bench.path("b")),
    ):
        pass


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_a_copy_is_refused_before_it_is_made(bench: Bench, flag: str) -> None:
    with pytest.raises(ebooklet_tx.PickleRefusedError, match="nothing was unpickled"):
        bench.open("b", flag, allow_pickle=False)
    assert unpickled == []
    assert not bench.path("b").exists()
    assert not bench.journal("b").exists()


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_file_that_is_here_is_refused_as_well(bench: Bench, flag: str) -> None:
    with bench.open("b", "r", allow_pickle=True) as db:
        db.load_items()
    with pytest.raises(ebooklet_tx.PickleRefusedError):
        bench.open("b", flag, allow_pickle=False)
    with pytest.raises(ebooklet_tx.PickleRefusedError):
        bench.open("b", "r", allow_pickle=False, offline=True)
    assert unpickled == []
    with bench.open("b", flag, allow_pickle=True) as db:
        assert db["trap"] == "ran"


def test_a_new_database_is_refused(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ebooklet_tx.PickleRefusedError):
        ebooklet_tx.open(
            f"file://{tmp_path}/new/db", tmp_path / "new.blt", "c", value_serializer="pickle", allow_pickle=False
        )
    assert not (tmp_path / "new.blt").exists()


@pytest.mark.parametrize("word", ["0", "false", " No "])
def test_the_environment_refuses_for_a_whole_process(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, word: str
) -> None:
    monkeypatch.setenv(ALLOW_PICKLE_VARIABLE, word)
    with pytest.raises(ebooklet_tx.PickleRefusedError, match=ALLOW_PICKLE_VARIABLE):
        bench.open("b", "r")
    with bench.open("b", "r", allow_pickle=True) as db:
        assert db["trap"] == "ran"


def test_the_environment_allows_without_a_warning(
    bench: Bench, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ALLOW_PICKLE_VARIABLE, "1")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ebooklet_tx.open(address, bench.path("b")) as db:
            assert db["trap"] == "ran"


def test_words_that_say_neither_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pickle_allowed(None) is None
    monkeypatch.setenv(ALLOW_PICKLE_VARIABLE, "perhaps")
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="perhaps"):
        pickle_allowed(None)
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="allow_pickle"):
        pickle_allowed(0)  # type: ignore[arg-type]


def test_other_serializers_are_not_asked(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="orjson", allow_pickle=False) as db:
        db["a"] = 1
        db.changes().push()
    with bench.open("b", "r", allow_pickle=False) as db:
        assert db["a"] == 1
    assert os.environ.get(ALLOW_PICKLE_VARIABLE) is None
