"""Working without the remote: what a session that is opened offline has, and what it says of the rest."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.errors import TransientStoreError
from tests.pairs import Bench
from tests.store_wrappers import PassingStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a", "c", value_serializer="orjson") as db:
        db.update({"small": 1, "large": "x" * 100_000})
        db.set_metadata({"owner": "me"})
        db.changes().push()
    with bench.open("b", "r") as db:
        assert db.load_items() == {}
    with bench.open("c", "r") as db:
        assert db["small"] == 1
    return bench


def away(bench: Bench) -> None:
    (bench.folder / "remote").rename(bench.folder / "elsewhere")


def back(bench: Bench) -> None:
    shutil.rmtree(bench.folder / "remote", ignore_errors=True)
    (bench.folder / "elsewhere").rename(bench.folder / "remote")


class UnreachableStore(PassingStore):
    """Lets no request through."""

    def _pass(self, kind: str, key: str, send: Any) -> Any:
        raise TransientStoreError(f"{kind} {key!r}: no route to the host", may_have_applied=False)


def test_what_is_here_can_be_read(bench: Bench) -> None:
    away(bench)
    with bench.open("b", "r", offline=True) as db:
        assert db.offline
        assert not db.writable
        assert dict(db.items()) == {"large": "x" * 100_000, "small": 1}
        assert db.get_metadata() == {"owner": "me"}
        assert len(db) == 2


def test_what_is_not_here_says_so_and_leaves_the_rest(bench: Bench) -> None:
    with bench.open("c", "r", offline=True) as db:
        assert "large" in db
        with pytest.raises(ebooklet_tx.OfflineError, match="opened offline"):
            db["large"]
        assert db["small"] == 1
        failures = db.load_items()
        assert set(failures) == {"large"}
        assert "offline" in failures["large"]
        with pytest.raises(ebooklet_tx.OfflineError):
            db.changes().pull()


def test_a_session_with_its_remote_is_not_offline(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        assert not db.offline


@pytest.mark.parametrize("flag", ["r", "w", "c"])
def test_without_a_local_file_there_is_nothing_to_open(bench: Bench, flag: str) -> None:
    with pytest.raises(ebooklet_tx.OfflineError, match="does not exist"):
        bench.open("never", flag, offline=True)
    assert not bench.path("never").exists()


def test_beginning_anew_needs_the_remote(bench: Bench) -> None:
    before = bench.path("a").read_bytes()
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="offline"):
        bench.open("a", "n", offline=True)
    assert bench.path("a").read_bytes() == before


@pytest.mark.parametrize("wrong", ["yes", 2, None])
def test_a_wrong_word_is_refused(bench: Bench, wrong: Any) -> None:
    with pytest.raises(ebooklet_tx.InvalidArgumentError, match="offline"):
        bench.open("a", "r", offline=wrong)


def test_what_is_written_offline_is_pushed_later(bench: Bench) -> None:
    away(bench)
    with bench.open("a", "w", offline=True) as db:
        db["new"] = 2
        del db["small"]
        with pytest.raises(ebooklet_tx.OfflineError):
            db.changes().push()
        assert [c["key"] for c in db.changes().iter_changes()] == ["new", "small"]
    back(bench)
    with bench.open("a", "w") as db:
        assert db.changes().push()
    assert bench.fresh_contents() == {"large": "x" * 100_000, "new": 2, "": {"owner": "me"}}


def test_writing_offline_meets_another_writer_as_a_conflict(bench: Bench) -> None:
    with bench.open("a", "w", offline=True) as db:
        db["small"] = "mine"
    with bench.open("b", "w") as db:
        db["small"] = "theirs"
        db.changes().push()
    with bench.open("a", "w") as db, pytest.raises(ebooklet_tx.ConflictError, match="small"):
        db.changes().push()


def test_auto_uses_the_remote_that_is_there(bench: Bench) -> None:
    with bench.open("b", "w") as db:
        db["later"] = 3
        db.changes().push()
    with bench.open("c", "r", offline="auto") as db:
        assert not db.offline
        assert db["later"] == 3


@pytest.mark.parametrize("flag", ["r", "w"])
def test_auto_falls_back_with_a_warning(bench: Bench, flag: str) -> None:
    with pytest.warns(ebooklet_tx.OfflineWarning, match="is unreachable") as caught:
        db = bench.open("b", flag, offline="auto", wrap_store=UnreachableStore)
    with db:
        assert db.offline
        assert db["small"] == 1
    assert Path(caught[0].filename).name == "doors.py"


def test_auto_without_a_local_file_raises_and_leaves_none(bench: Bench) -> None:
    with pytest.raises(ebooklet_tx.OfflineError):
        bench.open("never", "r", offline="auto", wrap_store=UnreachableStore)
    assert not bench.path("never").exists()


def test_auto_is_not_for_other_faults(bench: Bench) -> None:
    bench.root.write_bytes(b"something else")
    with pytest.raises(ebooklet_tx.UnsupportedFormatError):
        bench.open("b", "r", offline="auto")


def test_a_plain_file_can_be_read_offline(bench: Bench) -> None:
    bench.journal("b").unlink()
    with bench.open("b", "r", offline=True) as db:
        assert db["large"] == "x" * 100_000
