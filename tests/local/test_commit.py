"""Commits: what is in the overlay becomes durable, and what a key's operations amount to."""

from __future__ import annotations

from pathlib import Path

import booklet
import pytest

from ebooklet_tx.errors import ReadOnlyError
from ebooklet_tx.local.commit import Fetched
from ebooklet_tx.local.journal.entries import entries_where
from ebooklet_tx.local.journal.staged import count_staged
from ebooklet_tx.local.local_store import STAGE_COMMIT_BYTES, LocalStore
from ebooklet_tx.local.overlay import Overlay
from ebooklet_tx.records import digest_of


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "a.blt"
    LocalStore.open_writer(path, create=True).close()
    return path


def write(path: Path, *, fold: bool, **values: bytes | None) -> None:
    """Commits in one session that ends without closing, as if it were killed."""
    store = LocalStore.open_writer(path, create=False)
    for number, (key, value) in enumerate(values.items()):
        store.overlay.put(key, value, 100 + number)
    store.commit(fold=fold)
    store.abandon()


def contents(path: Path) -> dict[str, bytes | None]:
    store = LocalStore.open_writer(path, create=False)
    entries = [entry for entry in entries_where(store.journal, "1") if entry.digest is not None]
    found = {entry.key: store.read(entry) for entry in entries}
    store.abandon()
    return found


def test_the_overlay_counts_its_bytes() -> None:
    overlay = Overlay()
    assert not overlay
    overlay.put("a", b"123", 1)
    overlay.put("a", b"1", 2)
    overlay.put("", b"12", 3)
    overlay.put("b", None, 4)
    overlay.put("longer", b"", 5)
    # An empty value, and a delete, count as their keys.
    assert overlay.waiting_bytes == 3 + 1 + 6
    copy = overlay.copy()
    overlay.put_all({"a": (None, 6), "longer": (b"12", 6), "c": (b"", 6)})
    assert (overlay.waiting_bytes, len(overlay.operations)) == (1 + 2 + 1 + 2 + 1, 5)
    assert (len(copy.operations), copy.waiting_bytes) == (4, 3 + 1 + 6)
    overlay.forget()
    assert not overlay


@pytest.mark.parametrize("fold", [True, False])
def test_a_commit_outlives_its_session(path: Path, fold: bool) -> None:
    write(path, fold=fold, a=b"1", b=b"2")
    write(path, fold=fold, a=b"3", b=None, c=b"")
    assert contents(path) == {"a": b"3", "c": b""}
    LocalStore.open_writer(path, create=False).close()
    with booklet.open(path) as blt:
        assert {key: blt.get_timestamp(key, include_value=True, decode_value=False) for key in blt} == {
            "a": (100, b"3"),
            "c": (102, b""),
        }


def test_what_was_not_committed_is_absent(path: Path) -> None:
    store = LocalStore.open_writer(path, create=False)
    store.overlay.put("a", b"1", 1)
    store.abandon()
    assert contents(path) == {}


def test_a_large_commit_goes_to_the_file_at_once(path: Path) -> None:
    before = path.stat().st_size
    write(path, fold=False, small=b"1")
    assert path.stat().st_size == before
    write(path, fold=False, large=bytes(STAGE_COMMIT_BYTES + 1))
    assert path.stat().st_size > before + STAGE_COMMIT_BYTES
    assert contents(path) == {"small": b"1", "large": bytes(STAGE_COMMIT_BYTES + 1)}


def test_a_crowded_journal_is_unloaded(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ebooklet_tx.local.local_store.STAGED_LIMIT_KEYS", 3)
    store = LocalStore.open_writer(path, create=False)
    for number in range(4):
        store.overlay.put(f"k{number}", b"1", 1)
        store.commit()
        assert bool(count_staged(store.journal)[1]) == (number < 3)
    store.close()
    assert len(contents(path)) == 4


def test_deleting_every_key_leaves_the_metadata(path: Path) -> None:
    write(path, fold=True, a=b"1", b=b"2", **{"": b"{}"})
    store = LocalStore.open_writer(path, create=False)
    store.overlay.put_all({"a": (None, 500), "b": (None, 500)})
    store.overlay.put("c", b"3", 501)
    store.close()
    assert contents(path) == {"": b"{}", "c": b"3"}


def test_fetched_values_are_kept_only_where_they_belong(path: Path) -> None:
    write(path, fold=True, mine=b"1")
    store = LocalStore.open_writer(path, create=False)
    for key, value in [("unknown", b"2"), ("mine", b"other")]:
        store.keep([Fetched(key, 1, digest_of(value), value)])
    store.close()
    assert contents(path) == {"mine": b"1"}
    with booklet.open(path) as blt:
        assert list(blt) == ["mine"]


def test_a_reader_commits_nothing(path: Path) -> None:
    reader = LocalStore.open_reader(path)
    with pytest.raises(ReadOnlyError, match="flag 'w'"):
        reader.commit()
    reader.close()
