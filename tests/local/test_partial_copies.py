"""A copy of ebooklet's that lacks keys of its remote is not pushed as if it were all of it."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import booklet
import orjson
import pytest

import ebooklet_tx
from ebooklet_tx.cli.commands import main
from ebooklet_tx.errors import PartialCopyError
from ebooklet_tx.local.ebooklet_index import listed_keys
from tests.pairs import Bench, flip

GOLDEN = Path(__file__).parent.parent / "golden"
VERSIONS = ["0_11_1", "0_5_4"]
LISTED = {f"k{n:02}" for n in range(18)} | {"a/b", "ключ"}


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def place(bench: Bench, name: str, version: str, *, index: bool = True) -> Path:
    """Puts a file of ebooklet's, and what lay beside it, where a copy of the bench lies."""
    shutil.copyfile(GOLDEN / f"ebooklet_{version}_{name}.blt", bench.path())
    if index:
        shutil.copyfile(GOLDEN / f"ebooklet_{version}_remote_index.bin", index_of(bench))
    return bench.path()


def index_of(bench: Bench) -> Path:
    return bench.path().with_name(f"{bench.path().name}.remote_index")


@pytest.mark.parametrize("version", VERSIONS)
def test_the_index_lists_every_key(bench: Bench, version: str) -> None:
    place(bench, "partial", version)
    assert set(listed_keys(bench.path()) or {}) == LISTED


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("lock", ["exclusive", None])
def test_a_partial_copy_is_refused_with_the_count(bench: Bench, version: str, lock: str | None) -> None:
    place(bench, "partial", version)
    for flag in "cwc":
        with pytest.raises(PartialCopyError, match=r"18 of the 20 keys .*accept_partial=True"):
            bench.open("a", flag, lock=lock).close()
    assert not bench.root.exists()
    with bench.open("a", "r") as db:
        assert set(db) == {"k01", "k02"}


@pytest.mark.parametrize("version", VERSIONS)
def test_who_accepts_it_is_asked_once(bench: Bench, version: str) -> None:
    place(bench, "partial", version)
    bench.open("a", "c", accept_partial=True).close()
    with bench.open("a", "c") as db:
        assert db.changes().push()
    assert {key for key in bench.fresh_contents() if key} == {"k01", "k02"}
    with bench.open("a", "w") as db:
        db.delete_remote()
    with bench.open("a", "c") as db:
        db.changes().push()


@pytest.mark.parametrize("version", VERSIONS)
def test_a_complete_copy_passes_in_silence(bench: Bench, version: str) -> None:
    place(bench, "orjson", version)
    with bench.open("a", "c") as db:
        del db["k03"]
    with bench.open("a", "c") as db:
        db.changes().push()
    assert {key for key in bench.fresh_contents() if key} == LISTED - {"k03"}


def test_deletions_that_ebooklet_had_still_to_push_are_no_lack(bench: Bench) -> None:
    place(bench, "pending", "0_11_1")
    with bench.open("a", "c") as db:
        assert db.changes().push()
    assert {"k05", "k06"}.isdisjoint(bench.fresh_contents())


@pytest.mark.parametrize("version", VERSIONS)
def test_values_that_are_older_than_the_remote_s_are_lacking(bench: Bench, version: str) -> None:
    """Another machine has pushed since: ebooklet knows of it, and has not loaded the new values."""
    place(bench, "orjson", version, index=False)
    with booklet.open(bench.path(), "w") as plain:
        for key in ("k04", "k05"):
            plain.set(key, orjson.dumps("old"), timestamp=1_600_000_000_000_000, encode_value=False)
    place_index = GOLDEN / f"ebooklet_{version}_remote_index.bin"
    shutil.copyfile(place_index, index_of(bench))
    with pytest.raises(PartialCopyError, match="2 of the 20 keys"):
        bench.open("a", "c").close()


def test_what_is_loaded_afterwards_counts(bench: Bench) -> None:
    """The way out that the message names: ebooklet loads, and the file is opened again."""
    place(bench, "partial", "0_11_1")
    with pytest.raises(PartialCopyError):
        bench.open("a", "c").close()
    with booklet.open(bench.path(), "w") as plain:
        for key in LISTED - set(plain):
            plain[key] = "loaded"
    with bench.open("a", "c") as db:
        assert db.changes().push()
    assert {key for key in bench.fresh_contents() if key} == LISTED


def test_an_empty_copy_is_partial_too(bench: Bench) -> None:
    with booklet.open(bench.path(), "n", key_serializer="str", value_serializer="orjson"):
        pass
    shutil.copyfile(GOLDEN / "ebooklet_0_11_1_remote_index.bin", index_of(bench))
    with pytest.raises(PartialCopyError, match="20 of the 20 keys"):
        bench.open("a", "c").close()


@pytest.mark.parametrize("flag", ["c", "n"])
def test_a_database_that_begins_here_is_not_asked(bench: Bench, flag: str) -> None:
    """An index that was left lying says nothing of it."""
    shutil.copyfile(GOLDEN / "ebooklet_0_11_1_remote_index.bin", index_of(bench))
    with bench.open("a", flag) as db:
        db["k"] = b"v"
    with bench.open("a", "c") as db:
        assert db.changes().push()


def test_offline_it_is_opened_and_online_it_is_refused(bench: Bench) -> None:
    place(bench, "partial", "0_11_1")
    with bench.open("a", "w", offline=True) as db:
        db["more"] = 1
    with pytest.raises(PartialCopyError, match="18 of the 20 keys"):
        bench.open("a", "w").close()


def test_recover_tells_and_accepts(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    place(bench, "partial", "0_11_1")
    report = ebooklet_tx.recover(bench.path(), bench.url)
    assert report.partial_keys == 18
    assert report.needs_decision
    assert any("18 of the 20 keys" in action for action in report.actions)
    assert main(["recover", str(bench.path()), "--remote", bench.url]) == 1
    assert main(["push", str(bench.path()), "--remote", bench.url]) == 2
    assert "18 of the 20 keys" in capsys.readouterr().err
    assert main(["recover", str(bench.path()), "--remote", bench.url, "--accept-partial"]) == 0
    assert main(["push", str(bench.path()), "--remote", bench.url]) == 0
    assert {key for key in bench.fresh_contents() if key} == {"k01", "k02"}


def test_damaged_indexes_are_refused_and_never_served(bench: Bench) -> None:
    """Cut and flipped: each is refused, or lists keys that are whole."""
    place(bench, "orjson", "0_11_1")
    sound = index_of(bench).read_bytes()
    source = random.Random(1)
    refused = 0
    for number in range(60):
        index_of(bench).write_bytes(sound[: source.randrange(len(sound))] if number % 2 else sound)
        if number % 2 == 0:
            flip(index_of(bench), source.randrange(len(sound)), source.randrange(8))
        try:
            found = listed_keys(bench.path())
        except PartialCopyError as error:
            assert "remote_index" in str(error)  # noqa: PT017
            refused += 1
        else:
            assert set(found or {}) <= LISTED
    assert refused > 30


@pytest.mark.parametrize("content", [b"", b"x" * 50, b"x" * 500])
def test_an_index_that_is_none_is_refused_by_name(bench: Bench, content: bytes) -> None:
    place(bench, "partial", "0_11_1")
    index_of(bench).write_bytes(content)
    with pytest.raises(PartialCopyError, match=r"a\.blt\.remote_index.*accept_partial=True"):
        bench.open("a", "c").close()
    bench.open("a", "c", accept_partial=True).close()
