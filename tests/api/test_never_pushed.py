"""What the local file holds is read by the default flag before anything was pushed."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import booklet
import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import RemoteMissingError
from ebooklet_tx.maintenance import erase
from tests.pairs import Bench, make
from tests.servers import free_port


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def open_default(bench: Bench, **options: object) -> ebooklet_tx.Database:
    """Opens as the documented page does: a connection and a path."""
    return ebooklet_tx.open(bench.url, bench.path(), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("options", [{}, {"offline": "auto"}, {"lock": None}, {"offline": True}])
def test_the_default_flag_opens_what_was_never_pushed(bench: Bench, options: dict[str, object]) -> None:
    with bench.open("a", "c", value_serializer="orjson") as db:
        db["key1"] = ["one", 2, "three", 4]
    for _attempt in range(2):
        with open_default(bench, **options) as db:
            assert db["key1"] == ["one", 2, "three", 4]
            assert not db.writable
            if not db.offline:
                assert db.changes().pull().missing
    assert not bench.root.exists()


def test_so_it_does_while_its_writer_is_at_work(bench: Bench) -> None:
    with bench.open("a", "c") as writer:
        writer["k"] = b"v"
        writer.sync()
        with open_default(bench) as reader:
            assert dict(reader) == {"k": b"v"}


def test_a_plain_booklet_s_file_is_read_too(bench: Bench) -> None:
    with booklet.open(bench.path(), "n", key_serializer="str", value_serializer="orjson") as plain:
        plain["k"] = 1
    for _attempt in range(2):
        with open_default(bench) as db:
            assert dict(db) == {"k": 1}


def test_what_is_pushed_meanwhile_is_seen_by_a_pull(bench: Bench) -> None:
    with bench.open("a", "c") as db:
        db["k"] = b"v"
    with open_default(bench) as reader:
        with bench.open("a", "w") as db:
            db["l"] = b"w"
            db.changes().push()
        reader.changes().pull()
        assert dict(reader) == {"k": b"v", "l": b"w"}


@pytest.mark.parametrize("options", [{}, {"offline": "auto"}])
def test_after_one_s_own_deletion_of_the_remote(bench: Bench, options: dict[str, object]) -> None:
    make(bench, {"k": b"v"})
    with bench.open("a", "w") as db:
        db.delete_remote()
    with open_default(bench, **options) as db:
        assert dict(db) == {"k": b"v"}


def test_after_one_s_own_deletion_that_was_cut_short(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Root gone, and the journal not told yet: the next reader finishes that."""
    make(bench, {"k": b"v"})

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(erase, "forget_remote", die)
    with bench.open("a", "w") as db, pytest.raises(KeyboardInterrupt):
        db.delete_remote()
    monkeypatch.undo()
    assert not bench.root.exists()
    with open_default(bench) as db:
        assert dict(db) == {"k": b"v"}


def test_a_remote_that_others_deleted_is_still_told(bench: Bench) -> None:
    make(bench, {"k": b"v"})
    with bench.open("b", "w") as db:
        db.delete_remote()
    with pytest.raises(RemoteMissingError):
        open_default(bench).close()


def test_without_a_local_file_there_must_be_a_remote(bench: Bench) -> None:
    with pytest.raises(RemoteMissingError):
        open_default(bench).close()
    assert not bench.path().exists()


@pytest.fixture
def missing_everything() -> Iterator[str]:
    """A store that answers 404 to whatever it is asked, as one without this database does."""

    class Nothing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Nothing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_by_a_public_address_that_shows_nothing_yet(bench: Bench, missing_everything: str) -> None:
    with bench.open("a", "c") as db:
        db["k"] = b"v"
    with closing(ebooklet_tx.open(f"{missing_everything}/db", bench.path())) as db:
        assert dict(db) == {"k": b"v"}


def test_when_the_store_can_t_be_reached_auto_reads_it_all_the_same(bench: Bench) -> None:
    with bench.open("a", "c") as db:
        db["k"] = b"v"
    nobody = S3Connection("id", "key", "db", "bucket", f"http://127.0.0.1:{free_port()}", retries=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with closing(ebooklet_tx.open(nobody, bench.path(), offline="auto")) as db:
            assert dict(db) == {"k": b"v"}
    assert [warning.category for warning in caught] == [ebooklet_tx.OfflineWarning]
