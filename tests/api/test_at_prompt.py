"""What a prompt and a notebook show: counts and places, at no request, bounded, escaped, and never an error."""

from __future__ import annotations

import threading
import tomllib
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.database import at_prompt
from ebooklet_tx.local.journal.pending import glance as glances
from ebooklet_tx.maintenance.check_reports import CollectReport, Damage, Tally, VerifyReport
from ebooklet_tx.stores.object_store import ObjectStore
from ebooklet_tx.values.serializers import _PACKAGES, EXTRAS
from tests.documents.page_blocks import REPOSITORY
from tests.pairs import Bench, push
from tests.store_wrappers import CountingStore


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def checked_html(text: str) -> list[str]:
    """Returns the texts of a table, after a look at its tags."""
    texts: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert tag in ("table", "caption", "tr", "th", "td")

        def handle_data(self, data: str) -> None:
            if data.strip():
                texts.append(data)

    Reader().feed(text)
    return texts


@pytest.fixture
def counted(bench: Bench) -> Iterator[tuple[ebooklet_tx.Database, CountingStore]]:
    """A fresh copy of a database of three keys, with a count of its requests."""
    push(bench, "maker", {"a": b"1", "b": b"2", "c": b"3"})
    made: list[CountingStore] = []

    def wrap(inner: ObjectStore) -> CountingStore:
        made.append(CountingStore(inner))
        return made[-1]

    with bench.open(wrap_store=wrap) as db:
        made[-1].reset()
        yield db, made[-1]
        assert made[-1].total == 0, made[-1].log


def test_a_database_tells_counts_and_places_without_a_request(
    counted: tuple[ebooklet_tx.Database, CountingStore], bench: Bench
) -> None:
    db, _ = counted
    place = f"<ebooklet_tx database '{bench.path()}' of {bench.url}"
    assert repr(db) == f"{place}, writable: 3 keys, nothing to push>"
    db["d"] = b"4"
    assert repr(db) == f"{place}, writable: 3 keys, nothing to push, 1 write not committed>"
    db.sync()
    # Whether the remote has this key was not asked.
    assert repr(db) == f"{place}, writable: ? keys, 1 change to push>"
    db.set_metadata({"owner": "me"})
    db.sync()
    assert repr(db) == f"{place}, writable: ? keys, 1 change and the metadata to push>"
    db.close()
    assert repr(db) == f"{place}, closed>"


def test_pending_keys_that_are_known_are_counted(bench: Bench) -> None:
    with bench.open() as db:
        assert ": 0 keys, nothing to push>" in repr(db)
        db.update({"a": b"1", "b": b"2"})
        db.changes().push()
        assert ": 2 keys, nothing to push>" in repr(db)
        del db["a"]
        db.sync()
        assert len(db) == 1
        assert ": 1 key, 1 change to push>" in repr(db)
    with bench.open(flag="r") as db:
        assert "read-only" in repr(db)


def test_changes_tell_counts_and_list_keys_escaped(bench: Bench) -> None:
    push(bench, "a", {"k": b"1"})
    with bench.open() as db:
        changes = db.changes()
        db.update({"k": b"ours", "<script>": b"x"})
        push(bench, "b", {"k": b"theirs"})
        assert "nothing to push, 0 conflicts, on commit 1, 2 writes not committed>" in repr(changes)
        changes.pull()
        place = f"<ebooklet_tx changes of '{bench.path()}' to {bench.url}"
        assert repr(changes) == f"{place}: 2 changes to push, 1 conflict, on commit 2>"
        shown = checked_html(changes._repr_html_())
        assert shown[1:] == ["key", "operation", "<script>", "set", "k", "set"]
        assert "2 changes to push, 1 conflict" in shown[0]
        db.update({f"k{number:02}": b"" for number in range(40)})
        db.sync()
        assert len(checked_html(changes._repr_html_())) == 1 + 2 + 2 * 20 + 1
    assert repr(changes).endswith(": closed>")
    assert "closed" in checked_html(changes._repr_html_())


def test_much_that_is_pending_is_not_counted_through(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(glances, "LIMIT", 3)
    with bench.open() as db:
        db.update({f"k{number}": b"" for number in range(4)})
        db.sync()
        assert ": ? keys, more than 3 changes to push>" in repr(db)
        assert "? conflicts" in repr(db.changes())
        assert db._ipython_key_completions_() == ["k0", "k1", "k2", "k3"]


def test_another_thread_at_work_and_damage_show_as_not_known(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(glances, "WAIT_SECONDS", 0.01)
    monkeypatch.setattr(at_prompt, "LOCK_WAIT_SECONDS", 0.01)
    with bench.open() as db:
        db["k"] = b"1"
        changes, shown = db.changes(), []

        def look() -> None:
            shown.extend([repr(db), repr(changes), changes._repr_html_(), db._ipython_key_completions_()])

        with db.transaction():
            thread = threading.Thread(target=look)
            thread.start()
            thread.join()
        assert ": ? keys, ? to push>" in shown[0]
        assert shown[3] == []
        with monkeypatch.context() as broken:
            broken.setattr(glances, "_PENDING", "SELECT nonsense FROM entry LIMIT ?")
            assert "? keys, ? to push" in repr(db)
            assert db._ipython_key_completions_() == []


def test_keys_are_completed_without_a_request(counted: tuple[ebooklet_tx.Database, CountingStore]) -> None:
    db, _ = counted
    db["d"] = b"4"
    del db["a"]
    assert db._ipython_key_completions_() == ["b", "c", "d"]
    db.sync()
    assert db._ipython_key_completions_() == ["b", "c", "d"]
    with db.transaction():
        del db["d"]
        assert db._ipython_key_completions_() == ["b", "c"]
    db.close()
    assert db._ipython_key_completions_() == []


def test_keys_are_completed_offline_and_boundedly(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    push(bench, "a", {f"k{number}": b"" for number in range(9)})
    monkeypatch.setattr(at_prompt, "MAX_COMPLETIONS", 4)
    with bench.open(offline=True) as db:
        assert db._ipython_key_completions_() == ["k0", "k1", "k2", "k3"]


def test_a_remote_session_tells_what_it_has_read(bench: Bench) -> None:
    connection = ebooklet_tx.connect(bench.url)
    with connection.open() as session:
        assert not session
        assert repr(session) == f"<ebooklet_tx remote session '{bench.url}', read-only: no database>"
    push(bench, "a", {"k": b"1"})
    with connection.open() as session:
        assert repr(session).endswith("read-only>")
        assert session
        assert repr(session).endswith("read-only: 1 key, commit 1>")


def test_reports_print_boundedly_and_escaped() -> None:
    names = tuple(f"db.d/pack/{number}" for number in range(1000))
    report = CollectReport(
        "s3://b/<db>", False, 3, 3600.0, Tally(2, 1500), Tally(), Tally(1000, 5), Tally(), names
    )
    assert "deleted=Tally(objects=1000, size_bytes=5)" in repr(report)
    assert "'db.d/pack/4', ... and 995 more)" in repr(report)
    assert "young_names=()" in repr(report)
    shown = checked_html(report._repr_html_())
    assert shown[0] == "CollectReport"
    assert {"s3://b/<db>", "2 objects, 1,500 bytes", "no"} <= set(shown)
    assert "<db>" not in report._repr_html_()
    assert any(text.startswith("1,000: ") and text.endswith("and 995 more") for text in shown)
    assert "deleted_names" in shown
    assert "young_names" not in shown
    damage = Damage("db.d/pack/1", "is <gone>", ("a",), 1)
    assert "1: db.d/pack/1: is <gone> (keys: 'a')." in checked_html(
        VerifyReport("there", 1, "c", damage=(damage,))._repr_html_()
    )


def test_every_report_has_a_table(bench: Bench) -> None:
    with bench.open() as db:
        db["k"] = b"1"
        pushed = db.changes().push()
        pulled = db.changes().pull()
        made = db.snapshot("monday", message="<b>as delivered</b>")
        restored = db.restore("monday")
        compacted = db.compact()
    reports: list[Any] = [
        *(pushed, pulled, made, restored, compacted, ebooklet_tx.status(bench.path())),
        *(ebooklet_tx.verify(bench.url), ebooklet_tx.collect(bench.url), ebooklet_tx.fsck(bench.url)),
    ]
    for report in reports:
        assert checked_html(report._repr_html_())[0] == type(report).__name__
        assert repr(report).startswith(f"{type(report).__name__}(")
    assert f"folder: {bench.folder}/remote, name: db" in checked_html(
        ebooklet_tx.status(bench.path())._repr_html_()
    )
    assert "<b>as delivered</b>" in checked_html(made._repr_html_())
    assert any(text.endswith(" UTC") for text in checked_html(made._repr_html_()))
    assert repr(pushed) == (
        f"PushResult(updated=True, failures={{}}, commit_id={pushed.commit_id!r}, seq=1, set_count=1, "
        "deleted_count=0, resumed_packs=0, value_bytes=1)"
    )


def test_the_extras_that_messages_name_exist() -> None:
    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for package, extra in EXTRAS.items():
        assert any(wanted.startswith(package) for wanted in extras[extra])
    assert set(_PACKAGES.values()) <= set(EXTRAS)
