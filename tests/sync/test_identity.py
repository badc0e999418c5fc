"""Whether the public address of a database shows the database that is in its bucket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.connection import Connection, DirectoryConnection, HTTPConnection, S3Connection
from ebooklet_tx.errors import UnsupportedFormatError, UUIDMismatchError
from ebooklet_tx.sync.pull.public_url import MAX_ADDRESSES, check_public_side
from tests.pairs import Bench
from tests.servers import folder_handler, http_server


class Site:
    """A web server over a bench's folder; counts requests, and answers otherwise when told to."""

    def __init__(self, folder: Path) -> None:
        self.asked: list[str] = []
        self.instead: tuple[int, bytes] | None = None
        self.url = ""
        site = self

        class Handler(folder_handler(folder)):  # type: ignore[misc]
            def do_GET(self) -> None:  # noqa: N802
                site.asked.append(f"{self.command} {self.path}")
                if site.instead is None:
                    super().do_GET()
                else:
                    self._answer(*site.instead)

        self.handler: type[BaseHTTPRequestHandler] = Handler

    def connection(self, path: str = "db", key: str = "db", bucket: str | None = "bkt") -> S3Connection:
        return S3Connection(db_key=key, bucket=bucket, db_url=f"{self.url}/{path}")


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    with bench.open("a") as db:
        db["k"] = b"v"
        db.changes().push()
    return bench


@pytest.fixture
def site(bench: Bench) -> Iterator[Site]:
    site = Site(bench.folder / "remote")
    with http_server(site.handler) as site.url:
        yield site


def _session(db: Any) -> Any:
    return db._session


def _check(session: Any, connection: Any) -> None:
    check_public_side(session.local, session.remote.root_place, connection)


def _other(bench: Bench, name: str = "other") -> str:
    """Makes another database beside the bench's and returns its uuid."""
    other = Bench(bench.folder, name)
    with other.open(f"copy-of-{name}") as db:
        db["k"] = b"v"
        db.changes().push()
        return str(_session(db).local.file.header.uuid.hex())


def test_the_same_database_is_asked_about_once(bench: Bench, site: Site) -> None:
    with bench.open("a", "w") as db:
        _check(_session(db), site.connection())
        _check(_session(db), site.connection())
    with bench.open("a", "w") as db:
        _check(_session(db), site.connection())
    assert site.asked == ["GET /db"]


def test_another_address_is_asked_about_too(bench: Bench, site: Site) -> None:
    (bench.folder / "remote" / "again").write_bytes(bench.root.read_bytes())
    with bench.open("a", "w") as db:
        for path in ("db", "again", "db", "again"):
            _check(_session(db), site.connection(path))
    assert site.asked == ["GET /db", "GET /again"]


def test_another_database_is_refused_naming_both(bench: Bench, site: Site) -> None:
    other = _other(bench)
    with bench.open("a", "w") as db:
        session = _session(db)
        own = session.local.file.header.uuid.hex()
        before = session.journal.all_meta()
        for _ in range(2):
            with pytest.raises(UUIDMismatchError) as caught:
                _check(session, site.connection("other"))
            for named in (f"{site.url}/other", other, "'db' at", own):
                assert named in str(caught.value)
        assert session.journal.all_meta() == before
    assert site.asked == ["GET /other"] * 2


@pytest.mark.parametrize("status", [401, 403, 404, 410, 500, 503])
def test_what_is_not_public_yet_is_fine_and_asked_about_again(bench: Bench, site: Site, status: int) -> None:
    site.instead = (status, b"no")
    with bench.open("a", "w") as db:
        _check(_session(db), site.connection())
        _check(_session(db), site.connection())
        assert len(site.asked) == 2
        site.instead = None
        for _ in range(2):
            _check(_session(db), site.connection())
        assert len(site.asked) == 3


def test_a_root_that_is_cut_short_or_damaged_tells_nothing(bench: Bench, site: Site) -> None:
    data = bench.root.read_bytes()
    with bench.open("a", "w") as db:
        for damaged in (data[:-1], data[:10], data[:-1] + bytes([data[-1] ^ 1])):
            site.instead = (200, damaged)
            _check(_session(db), site.connection())
        assert _session(db).journal.get_meta("public_sides") is None


def test_nobody_listening_is_fine(bench: Bench) -> None:
    with bench.open("a", "w") as db:
        _check(_session(db), S3Connection(db_key="db", bucket="bkt", db_url="http://127.0.0.1:1/db"))


def test_something_that_is_no_database_is_refused(bench: Bench, site: Site) -> None:
    site.instead = (200, b"<html>Welcome</html>")
    with (
        bench.open("a", "w") as db,
        pytest.raises(UnsupportedFormatError, match=f"db_url {site.url}/db does not show"),
    ):
        _check(_session(db), site.connection())


def test_what_has_one_side_only_is_not_asked_about(bench: Bench, site: Site) -> None:
    _other(bench)
    alone: list[Connection] = [
        S3Connection(db_key="db", bucket="bkt"),
        site.connection("other", bucket=None),
        HTTPConnection(f"{site.url}/other"),
        DirectoryConnection(bench.folder / "remote", "other"),
    ]
    with bench.open("a", "w") as db:
        for connection in alone:
            _check(_session(db), connection)
    assert site.asked == []


def test_a_database_that_is_to_be_replaced_may_still_show_the_old_one(bench: Bench, site: Site) -> None:
    with bench.open("a", "n") as db:
        _check(_session(db), site.connection())
        assert site.asked == []
        db["new"] = b"v"
        db.changes().push()
        _check(_session(db), site.connection())
        assert site.asked == ["GET /db"]


def test_a_replaced_database_is_asked_about_anew(bench: Bench, site: Site) -> None:
    with bench.open("a", "w") as db:
        _check(_session(db), site.connection())
    old = bench.root.read_bytes()
    with bench.open("a", "n", value_serializer="str") as db:
        db["new"] = "v"
        db.changes().push()
        site.instead = (200, old)
        with pytest.raises(UUIDMismatchError, match="cache"):
            _check(_session(db), site.connection())


def test_a_reader_remembers_nothing(bench: Bench, site: Site) -> None:
    with bench.open("a", "r") as db:
        for _ in range(2):
            _check(_session(db), site.connection())
    assert len(site.asked) == 2


def test_no_credential_of_the_address_is_kept_and_no_end_of_addresses(bench: Bench, site: Site) -> None:
    with bench.open("a", "w") as db:
        for number in range(MAX_ADDRESSES + 5):
            _check(_session(db), site.connection(f"db?v={number}&token=SECRET"))
        kept = json.loads(_session(db).journal.get_meta("public_sides"))
    numbers = range(5, MAX_ADDRESSES + 5)
    assert list(kept) == [f"{site.url}/db?v={number}" for number in numbers]
    assert site.asked[0] == "GET /db?v=0&token=SECRET"


def test_the_key_in_the_bucket_need_not_be_the_name_in_the_address(bench: Bench, site: Site) -> None:
    with bench.open("a", "w") as db:
        _check(_session(db), site.connection("db", key="deep/folder/key"))
    assert site.asked == ["GET /db"]
