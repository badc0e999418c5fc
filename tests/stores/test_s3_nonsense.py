"""Answers that no S3 store gives, as portals and broken servers do: none becomes an exception not of ours."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

import ebooklet_tx
from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import Error, OfflineError, RemoteAccessError, TransientStoreError
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.object_store import UploadState
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3 import S3Store, client
from tests.quick_clients import SharedClients
from tests.servers import http_server

ETAG = {"ETag": '"e"'}
PAGE = b"<!DOCTYPE html><html><body>Sign in <br> first</body></html>"


@dataclass
class Given:
    """What the server answers to whatever it is asked.

    Attributes:
        status: The answer's status.
        body: Its body.
        headers: Its headers, beside the length.
        has_length: Whether its length is announced.
        asked: The methods of the requests.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    has_length: bool = True
    asked: list[str] = field(default_factory=list)


def listing(inside: str) -> bytes:
    return f"<?xml version='1.0'?><ListBucketResult>{inside}</ListBucketResult>".encode()


ENTRY = "<Contents><Key>db</Key><Size>1</Size></Contents>"
NONSENSE = {
    "nothing": Given(),
    "a page": Given(body=PAGE),
    "a page with an ETag": Given(body=PAGE, headers=ETAG),
    "part of a page": Given(206, PAGE, ETAG),
    "other XML": Given(body=b"<?xml version='1.0'?><Other/>", headers=ETAG),
    "no length": Given(body=b"abcd", headers=ETAG, has_length=False),
    "a length in words": Given(body=b"abcd", headers=ETAG | {"Content-Length": "four"}, has_length=False),
    "a time in words": Given(body=b"abcd", headers=ETAG | {"Last-Modified": "yesterday"}),
    "a time past all times": Given(body=b"abcd", headers=ETAG | {"Last-Modified": "9" * 400}),
    "a count in words": Given(body=b"abcd", headers=ETAG | {"x-amz-missing-meta": "many"}),
    "no content": Given(204),
    "unchanged": Given(304, headers=ETAG),
    "a redirect": Given(302, headers={"Location": "http://127.0.0.1:1/login"}),
    "a redirect to itself": Given(307, headers={"Location": "/"}),
    "an error of two codes": Given(403, b"<?xml version='1.0'?><Error><Code>A</Code><Code>B</Code></Error>"),
    "a listing without sizes": Given(body=listing("<Contents><Key>db</Key></Contents>")),
    "a listing without names": Given(body=listing("<Contents><Size>1</Size></Contents>")),
    "a listing of odd times": Given(body=listing("<Contents><LastModified>never</LastModified></Contents>")),
    "a listing that breaks off": Given(body=listing(f"<IsTruncated>true</IsTruncated>{ENTRY}")),
    "a listing without an end": Given(
        body=listing(f"<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>{ENTRY}")
    ),
    "an upload without a name": Given(
        body=b"<?xml version='1.0'?><InitiateMultipartUploadResult><UploadId/></InitiateMultipartUploadResult>"
    ),
}


@dataclass
class Place:
    """The server of all tests, and the client of all their stores.

    Attributes:
        url: The server's.
        given: What it answers at present.
        clients: The one client.
    """

    url: str
    given: Given
    clients: SharedClients


def _handler(current: Callable[[], Given]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            given = current()
            given.asked.append(self.command)
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            if given.has_length and given.status != 304:
                self.send_header("Content-Length", str(len(given.body)))
            self.close_connection = not given.has_length
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(given.body)

        do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    clients = SharedClients()
    with http_server(_handler(lambda: found.given)) as url:
        found = Place(url, Given(), clients)
        yield found
        clients.close()


@pytest.fixture
def connection(place: Place) -> S3Connection:
    return S3Connection("key", "secret", "db", "bkt", place.url, read_timeout=10)


@pytest.fixture
def store(place: Place, connection: S3Connection) -> Iterator[S3Store]:
    with place.clients.taken():
        opened = S3Store(connection)
    yield opened
    opened.close()


class Zeros:
    """A source of two parts."""

    size_bytes = (5 << 20) + 1

    def read_at(self, offset_bytes: int, length_bytes: int) -> bytes:
        return bytes(length_bytes)


def operations(store: S3Store, url: str) -> dict[str, Callable[[], object]]:
    web = HTTPStore(f"{url}/db")
    begun = UploadState("upload", ((1, "0" * 32),))
    return {
        "get": lambda: store.get("db"),
        "get_range": lambda: store.get_range("db", 0, 4, if_match="e"),
        "head": lambda: store.head("db"),
        "put": lambda: store.put("db", b"x"),
        "if_match": lambda: store.put("db", b"x", if_match="e"),
        "if_absent": lambda: store.put("db", b"x", if_absent=True),
        "list": lambda: list(store.list("db")),
        "delete": lambda: store.delete("db"),
        "copy": lambda: store.copy("db", "db.d/x"),
        "put_parts": lambda: store.put_parts("db", Zeros(), part_bytes=5 << 20),
        "resume": lambda: store.put_parts("db", Zeros(), part_bytes=5 << 20, resume=begun),
        "web get": lambda: web.get("db"),
        "web get_range": lambda: web.get_range("db", 0, 4),
        "web head": lambda: web.head("db"),
    }


@pytest.mark.parametrize("kind", NONSENSE)
def test_nonsense_is_an_answer_or_an_error_of_ours(place: Place, store: S3Store, kind: str) -> None:
    place.given = NONSENSE[kind]
    for ask in operations(store, place.url).values():
        try:
            ask()
        except Error as error:
            assert error.operation  # noqa: PT017
            assert error.object_name  # noqa: PT017


WRITES = ("put", "if_match", "if_absent", "put_parts", "resume")


@pytest.mark.parametrize("operation", ["get", "get_range", "head", *WRITES])
@pytest.mark.parametrize("kind", ["nothing", "no content", "a page", "unchanged"])
def test_a_success_without_an_etag_is_none(place: Place, store: S3Store, operation: str, kind: str) -> None:
    place.given = NONSENSE[kind]
    with pytest.raises(TransientStoreError) as caught:
        operations(store, place.url)[operation]()
    if kind != "unchanged":
        assert caught.value.may_have_applied == (operation in WRITES)


@pytest.mark.parametrize("kind", ["a listing that breaks off", "a listing without an end"])
def test_a_listing_that_does_not_go_on_is_no_whole_one(place: Place, store: S3Store, kind: str) -> None:
    place.given = NONSENSE[kind]
    with pytest.raises(TransientStoreError, match="does not say how it goes on"):
        list(store.list("db"))


def test_a_listing_has_only_names_that_were_asked_for(place: Place, store: S3Store) -> None:
    place.given = Given(body=listing(f"{ENTRY}<Contents><Key>other</Key><Size>1</Size></Contents>"))
    assert [found.key for found in store.list("db")] == ["db"]


@pytest.mark.parametrize("status", [301, 302, 307])
def test_a_redirect_is_told_after_one_search_for_the_region(place: Place, store: S3Store, status: int) -> None:
    place.given = given = Given(status, headers={"Location": "/"})
    with pytest.raises(RemoteAccessError, match="the bucket is elsewhere"):
        store.put("db", b"x")
    assert given.asked == ["PUT", "HEAD"]


@pytest.mark.parametrize("operation", ["get", "get_range", "put", "list"])
@pytest.mark.parametrize("option", ["access_key_id", "session_token"])
def test_credentials_with_a_line_break_are_told_at_once(
    place: Place, connection: S3Connection, option: str, operation: str
) -> None:
    store = S3Store(dataclasses.replace(connection, **{option: "key\n"}))
    place.given = given = Given(200, b"abcd", ETAG)
    with pytest.raises(RemoteAccessError, match="line break") as caught:
        operations(store, place.url)[operation]()
    assert "key" not in str(caught.value).replace("access_key", "")
    assert not given.asked
    store.close()


@pytest.mark.parametrize("operation", ["get", "get_range"])
def test_bytes_that_were_compressed_on_the_way_are_refused(place: Place, store: S3Store, operation: str) -> None:
    place.given = Given(body=b"\x1f\x8b12", headers=ETAG | {"Content-Encoding": "gzip"})
    with pytest.raises(RemoteAccessError, match="without compression"):
        operations(store, place.url)[operation]()
    place.given = Given(body=b"abcd", headers=ETAG | {"Content-Encoding": "aws-chunked"})
    operations(store, place.url)[operation]()


@pytest.mark.parametrize(("operation", "status"), [("get", 500), ("get_range", 403), ("put", 500), ("list", 200)])
def test_what_is_held_of_an_answer_has_a_bound(
    place: Place, connection: S3Connection, monkeypatch: pytest.MonkeyPatch, operation: str, status: int
) -> None:
    monkeypatch.setattr(client, "_MOST_ANSWER_BYTES", 1000)
    store = S3Store(connection)
    place.given = Given(200, b"abcd", ETAG)
    store.get("db")  # From here on ranges are read on another way.
    place.given = Given(status, b" " * 1001, ETAG)
    with pytest.raises(TransientStoreError, match="longer than 1000 bytes"):
        operations(store, place.url)[operation]()
    place.given = Given(200, b"x" * 2000, ETAG)
    blob = store.get("db")
    assert blob is not None
    assert len(blob.data) == 2000
    store.close()


@pytest.mark.parametrize("kind", ["nothing", "a page", "no length", "a redirect", "a time in words"])
def test_a_session_behind_a_portal_raises_what_is_documented(
    place: Place, connection: S3Connection, tmp_path: Path, kind: str
) -> None:
    place.given = NONSENSE[kind]
    policy = RetryPolicy.without_backoff(2)
    with place.clients.taken(), pytest.raises(Error) as caught:
        ebooklet_tx.open(connection, tmp_path / "db.blt", "c", conditional_writes=True, retry=policy)
    assert isinstance(caught.value, OfflineError | RemoteAccessError | ebooklet_tx.UnsupportedFormatError)
