"""Reading a database from its public address, from end to end, on servers that can more or less."""

from __future__ import annotations

import contextlib
import gzip
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

import ebooklet_tx
from ebooklet_tx import Database
from ebooklet_tx.connection import Connection, DirectoryConnection, S3Connection
from ebooklet_tx.errors import Error, ReadOnlyError, RemoteAccessError, RemoteMissingError
from ebooklet_tx.stores.retry import RetryPolicy
from tests.places import new_place
from tests.servers import folder_handler, http_server

VALUES = {f"k{number}": bytes([number]) * 150_000 for number in range(6)}
SMALL = {"small": b"s", "ü?#%41": b"", "p/q": b"x" * 100}
ODD_KEYS = ("db", "a b", "ü日本", "p%41", "q?z=1#f", "a+b&c=d;e")


@dataclass
class Answered:
    """One answer of a server: what was asked, the status, and how many bytes of body."""

    path: str
    status: int
    body_bytes: int


@dataclass
class Site:
    """A writable place of a database, and where the web shows it.

    Attributes:
        connection: The place to write to.
        url: The public address.
        folder: Where local copies go.
        answered: The answers of the web server, where it is one of the tests' own.
    """

    connection: Connection
    url: str
    folder: Path
    answered: list[Answered] = field(default_factory=list)

    def write(self, flag: str = "w") -> Database:
        return self._open(self.connection, "writer", flag, lock=None, conditional_writes=True)

    def read(self, name: str = "reader", source: Any = None) -> Database:
        return self._open(self.url if source is None else source, name, "r")

    def _open(self, source: Any, name: str, flag: str, **options: Any) -> Database:
        policy = RetryPolicy.without_backoff()
        return ebooklet_tx.open(source, self.folder / f"{name}.blt", flag, retry=policy, **options)

    def leave_no_copy(self, name: str = "reader") -> bool:
        return not list(self.folder.glob(f"{name}.blt*"))


def _plain_python(folder: Path) -> type[BaseHTTPRequestHandler]:
    class Handler(SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named, directory=str(folder))

        def copyfile(self, source: Any, outputfile: Any) -> None:
            # The reader hangs up once it has the bytes it wants.
            with contextlib.suppress(ConnectionError):
                super().copyfile(source, outputfile)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def _ranged(folder: Path, answered: list[Answered]) -> type[BaseHTTPRequestHandler]:
    class Handler(folder_handler(folder)):  # type: ignore[misc]
        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            answered.append(Answered(self.path, status, len(body)))
            super()._answer(status, body, **headers)

    return Handler


@contextlib.contextmanager
def site_of(kind: str, key: str, request: pytest.FixtureRequest, folder: Path) -> Iterator[Site]:
    """Serves an empty place for a database of that key."""
    if kind == "ministack":
        place = new_place("ministack", request, folder).connection
        assert isinstance(place, S3Connection)
        yield Site(replace(place, db_key=key), f"{place.endpoint_url}/{place.bucket}/{quote(key)}", folder)
        return
    remote = folder / "remote"
    remote.mkdir()
    answered: list[Answered] = []
    handler = _plain_python(remote) if kind == "http.server" else _ranged(remote, answered)
    with http_server(handler) as url:
        yield Site(DirectoryConnection(remote, key), f"{url}/{quote(key)}", folder, answered)


KINDS = ("http.server", "ministack", "ranged")


@pytest.fixture(params=KINDS)
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site_of(request.param, "db", request, tmp_path) as site:
        yield site


@pytest.fixture
def ranged(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    with site_of("ranged", "db", request, tmp_path) as site:
        yield site


def test_a_public_database_is_read_and_followed(site: Site) -> None:
    with site.write("c") as db:
        db.update(VALUES | SMALL)
        db.set_metadata({"made": "here"})
        db.changes().push()
    with site.read() as reader:
        assert reader["k3"] == VALUES["k3"]
        assert dict(reader.get_items(["k1", "k5"])) == {"k1": VALUES["k1"], "k5": VALUES["k5"]}
        assert not reader.writable
        assert len(reader) == 9
        with site.write() as db:
            db["k0"] = b"changed" * 30_000
            del db["k1"]
            db.changes().push()
        assert reader.changes().pull().changed
        expected = VALUES | SMALL | {"k0": b"changed" * 30_000}
        del expected["k1"]
        assert dict(reader.items()) == expected
        assert reader.get_metadata() == {"made": "here"}
        assert not reader.changes().pull().changed
    for number, source in enumerate(
        (
            S3Connection(db_url=site.url),
            {"db_url": site.url},
            {"remote_conn": {"db_url": site.url, "bucket": None}},
        )
    ):
        with site.read(f"again{number}", source) as reader:
            assert reader.load_items() == {}
            assert dict(reader.items()) == expected


@pytest.mark.parametrize("key", ODD_KEYS)
@pytest.mark.parametrize("kind", KINDS)
def test_odd_database_keys_are_read(kind: str, key: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    key = f"deep/er {key}/{key}" if kind == "ministack" else key
    with site_of(kind, key, request, tmp_path) as site:
        with site.write("c") as db:
            db.update({"big": VALUES["k1"], "small": b"s"})
            db.changes().push()
        with site.read() as reader:
            assert dict(reader.items()) == {"big": VALUES["k1"], "small": b"s"}


def test_an_unchanged_database_costs_one_answer_without_a_body(ranged: Site) -> None:
    with ranged.write("c") as db:
        db.update(VALUES)
        db.changes().push()
    with ranged.read() as reader:
        assert reader["k2"] == VALUES["k2"]
    root, pack = ranged.answered
    assert (root.path, root.status) == ("/db", 200)
    # The one value, not the pack.
    assert (pack.path[:11], pack.status, pack.body_bytes) == ("/db.d/pack/", 206, 150_000)
    ranged.answered.clear()
    with ranged.read() as reader:
        assert reader["k2"] == VALUES["k2"]
        reader.changes().pull()
    assert ranged.answered == [Answered("/db", 304, 0)] * 2


def test_a_database_may_move_to_another_address(ranged: Site, tmp_path: Path) -> None:
    with ranged.write("c") as db:
        db.update(VALUES)
        db.changes().push()
    with ranged.read() as reader:
        assert reader["k1"] == VALUES["k1"]
    with http_server(_plain_python(tmp_path / "remote")) as url, ranged.read(source=f"{url}/db") as reader:
        assert dict(reader.items()) == VALUES


def _words(error: Error) -> str:
    return f"{error} {error.__cause__}"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_missing_is_told_of(kind: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    with site_of(kind, "db", request, tmp_path) as site:
        with pytest.raises(RemoteMissingError, match="'db' at http") as caught:
            site.read()
        assert "404" in _words(caught.value)
        assert site.leave_no_copy()


class _Forbidding(BaseHTTPRequestHandler):
    """Answers as S3 does for what is missing in a bucket that may not be listed."""

    def do_GET(self) -> None:
        self.send_error(403)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


def test_403_is_missing_or_not_public(tmp_path: Path, ranged: Site) -> None:
    with http_server(_Forbidding) as url:
        with pytest.raises(RemoteMissingError) as caught:
            ranged.read(source=f"{url}/db")
        assert "missing or not public" in _words(caught.value)
        assert ranged.leave_no_copy()


def _compressing(folder: Path, only: str) -> type[BaseHTTPRequestHandler]:
    """Serves a folder, and compresses unasked what has a word in its path."""

    class Handler(folder_handler(folder)):  # type: ignore[misc]
        def _answer(self, status: int, body: bytes, **headers: str) -> None:
            if only in self.path and body:
                body, headers = gzip.compress(body), headers | {"Content-Encoding": "gzip"}
            super()._answer(status, body, **headers)

    return Handler


@pytest.mark.parametrize("only", ["/db", "/pack/"])
def test_a_server_that_compresses_unasked_is_refused_and_gives_no_wrong_bytes(
    ranged: Site, tmp_path: Path, only: str
) -> None:
    with ranged.write("c") as db:
        db.update(VALUES | SMALL)
        db.changes().push()
    with http_server(_compressing(tmp_path / "remote", only)) as url:
        if only == "/db":
            with pytest.raises(RemoteAccessError, match="without compression"):
                ranged.read(source=f"{url}/db")
            assert ranged.leave_no_copy()
            return
        with ranged.read(source=f"{url}/db") as reader:
            assert set(reader) == set(VALUES | SMALL)
            with pytest.raises(RemoteAccessError, match="without compression"):
                reader["k1"]
            failures = reader.load_items(["k2"])
            assert set(failures) == {"k2"}
    # Nothing of it was kept.
    with ranged.read() as reader:
        assert dict(reader.items()) == VALUES | SMALL


def test_a_site_that_shows_its_front_page_for_everything_is_refused(ranged: Site) -> None:
    class FrontPage(_Forbidding):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"<html>Welcome</html>")

    with http_server(FrontPage) as url:
        with pytest.raises(ebooklet_tx.UnsupportedFormatError, match="foreign object"):
            ranged.read(source=f"{url}/db")
        assert ranged.leave_no_copy()


@pytest.mark.parametrize("flag", ["w", "c", "n"])
def test_nothing_is_written_through_an_address(ranged: Site, flag: str) -> None:
    path = ranged.folder / f"{uuid.uuid4().hex}.blt"
    for source in (ranged.url, S3Connection(db_url=ranged.url)):
        with pytest.raises(ReadOnlyError, match="can only be read"):
            ebooklet_tx.open(source, path, flag)
    assert not path.exists()
    assert ranged.answered == []


def test_a_bucket_and_an_address_are_two_ways_to_one_database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    with site_of("ministack", "deep/db", request, tmp_path) as site:
        assert isinstance(site.connection, S3Connection)
        site.connection = replace(site.connection, db_url=site.url)
        with site.write("c") as db:
            db.update(VALUES)
            db.changes().push()
        # What a group holds of it: no keys, so that it is read over plain HTTP.
        without_keys = site.connection.to_dict()
        assert set(without_keys) == {"db_key", "bucket", "endpoint_url", "db_url"}
        with site.read(source=without_keys) as reader:
            assert dict(reader.items()) == VALUES
