"""Reading from web servers: addresses, answers, redirects and limits."""

from __future__ import annotations

import gzip
import io
import ssl
import urllib.request
from collections.abc import Callable
from email.message import Message
from functools import partial
from http.server import BaseHTTPRequestHandler

import pytest

from ebooklet_tx.errors import (
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    ObjectTooLargeError,
    PreconditionFailedError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)
from ebooklet_tx.stores.http import HTTPStore, connections
from ebooklet_tx.stores.http.opener import SafeRedirects
from tests.servers import http_server

Answer = tuple[int, dict[str, str], bytes]


def serving(answer: Callable[[str, dict[str, str]], Answer]) -> type[BaseHTTPRequestHandler]:
    """Returns a handler that answers as the function says, without a Content-Length of its own."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, sent, body = answer(self.path, headers)
            self.send_response(status)
            for name, value in sent.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def do_HEAD(self) -> None:
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


def always(status: int, body: bytes = b"", **headers: str) -> type[BaseHTTPRequestHandler]:
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    return serving(lambda _path, _headers: (status, sent, body))


def error_of(ask: Callable[[], object]) -> Error:
    with pytest.raises(Error) as caught:
        ask()
    return caught.value


@pytest.mark.parametrize(
    ("address", "key", "asked", "path"),
    [
        ("/db", None, "db", "/db"),
        ("/db", None, "db.d/pack/1", "/db.d/pack/1"),
        ("/a%20b/my%20db?alt=media&x=1", None, "my db.lock", "/a%20b/my%20db.lock?alt=media&x=1"),
        ("/a b/ü", None, "ü.d/ß?#%41+", "/a%20b/%C3%BC.d/%C3%9F%3F%23%2541%2B"),
        ("/public/x", "deep/key", "deep/key.d/index/1", "/public/x.d/index/1"),
    ],
)
def test_addresses(address: str, key: str | None, asked: str, path: str) -> None:
    paths: list[str] = []

    def answer(asked_path: str, _headers: dict[str, str]) -> Answer:
        paths.append(asked_path)
        return 200, {}, b"x"

    with http_server(serving(answer)) as url:
        HTTPStore(url + address, key=key).get(asked)
    assert paths == [path]


@pytest.mark.parametrize("key", ["db2", "other", "db/x", "", "db.d/../x", "d"])
def test_keys_of_other_databases_are_refused(key: str) -> None:
    with pytest.raises(InvalidArgumentError):
        HTTPStore("http://127.0.0.1:1/db").get(key)


@pytest.mark.parametrize(
    "url", ["ftp://h/db", "file:///db", "s3://b/db", "/db", "db", "https://", "https://u:p@h/db"]
)
def test_other_addresses_are_refused(url: str) -> None:
    with pytest.raises(InvalidArgumentError):
        HTTPStore(url)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RemoteAccessError),
        (401, RemoteAccessError),
        (403, ObjectMissingError),
        (404, ObjectMissingError),
        (408, TransientStoreError),
        (410, ObjectMissingError),
        (412, PreconditionFailedError),
        (416, NotFoundInRangeError),
        (429, TransientStoreError),
        (500, TransientStoreError),
        (503, TransientStoreError),
    ],
)
def test_answers(status: int, kind: type[Error]) -> None:
    with http_server(always(status, b"sorry", Retry_After="3")) as url:
        store = HTTPStore(f"{url}/db")
        for ask in (
            lambda: store.get("db"),
            lambda: store.head("db"),
            lambda: store.get_range("db", 0, 1, if_match="e"),
        ):
            error = error_of(ask)
            assert type(error) is kind
            assert "'db'" in str(error)
            if isinstance(error, TransientStoreError):
                assert (error.retry_after_seconds, error.may_have_applied) == (3.0, False)
            if status == 403:
                assert "missing or not public" in str(error)
            if status in (404, 410):
                assert "no such object" in str(error)


def test_redirects_are_followed_within_http() -> None:
    def answer(path: str, headers: dict[str, str]) -> Answer:
        if path == "/moved":
            return 302, {"Location": "/db"}, b""
        if path == "/round":
            return 302, {"Location": "/round"}, b""
        if path in ("/file", "/ftp"):
            return 302, {"Location": {"/file": "file:///etc/passwd", "/ftp": "ftp://127.0.0.1:1/x"}[path]}, b""
        return 200, {"ETag": '"e"', "X-Amz-Meta-Commit-Id": "c"}, headers.get("range", "none").encode()

    with http_server(serving(answer)) as url:
        moved = HTTPStore(f"{url}/moved")
        blob = moved.get("moved")
        assert blob is not None
        assert (blob.data, blob.etag, blob.metadata) == (b"none", "e", {"commit-id": "c"})
        assert moved.get_range("moved", 0, 5) == b"bytes"
        assert isinstance(error_of(lambda: HTTPStore(f"{url}/round").get("round")), RemoteAccessError)
        for name in ("file", "ftp"):
            assert isinstance(error_of(partial(HTTPStore(f"{url}/{name}").get, name)), RemoteAccessError)


@pytest.mark.parametrize(
    ("asked", "led_to", "followed"),
    [
        ("http", "http", True),
        ("http", "https", True),
        ("https", "https", True),
        ("https", "HTTPS", True),
        ("https", "http", False),
    ],
)
def test_no_redirect_gives_encryption_up(asked: str, led_to: str, followed: bool) -> None:
    request = urllib.request.Request(f"{asked}://127.0.0.1/db", headers={"Range": "bytes=0-1"})
    to = f"{led_to}://127.0.0.2/db"
    next_one = SafeRedirects().redirect_request(request, io.BytesIO(), 302, "Found", Message(), to)
    assert (next_one is not None) == followed
    if next_one is not None:
        assert (next_one.full_url, next_one.get_header("Range")) == (to, "bytes=0-1")


def test_a_redirect_that_is_not_followed_is_told_of() -> None:
    with http_server(always(302, b"", Location="file:///etc/passwd")) as url:
        error = error_of(partial(HTTPStore(f"{url}/db").get, "db"))
    assert type(error) is RemoteAccessError
    assert "redirects (302)" in str(error)


@pytest.mark.parametrize("status", [200, 206])
@pytest.mark.parametrize("encoding", ["gzip", "br", "GZIP", "deflate, gzip"])
def test_bytes_that_were_compressed_unasked_are_refused(status: int, encoding: str) -> None:
    asked: list[str] = []

    def answer(_path: str, headers: dict[str, str]) -> Answer:
        asked.append(headers["accept-encoding"])
        body = gzip.compress(b"hello world")
        sent = {"Content-Encoding": encoding, "Content-Length": str(len(body)), "ETag": '"e"'}
        return status, sent | ({"Content-Range": f"bytes 0-4/{len(body)}"} if status == 206 else {}), body

    with http_server(serving(answer)) as url:
        store = HTTPStore(f"{url}/db")
        for ask in (lambda: store.get("db"), lambda: store.head("db"), lambda: store.get_range("db", 0, 5)):
            error = error_of(ask)
            assert type(error) is RemoteAccessError
            assert "without compression" in str(error)
    assert set(asked) == {"identity"}


@pytest.mark.parametrize("encoding", ["identity", "aws-chunked", ""])
def test_encodings_that_are_none_are_read(encoding: str) -> None:
    with http_server(always(200, b"hello", Content_Encoding=encoding)) as url:
        store = HTTPStore(f"{url}/db")
        blob = store.get("db")
        assert blob is not None
        assert (blob.data, store.get_range("db", 1, 3)) == (b"hello", b"ell")


def test_a_server_that_ignores_conditions_sends_the_same_again() -> None:
    with http_server(always(200, b"hello", ETag='"e"')) as url:
        store = HTTPStore(f"{url}/db")
        assert store.get("db", if_none_match="e") is None
        other = store.get("db", if_none_match="older")
        assert other is not None
        assert (other.data, other.etag) == (b"hello", "e")


def test_a_body_over_the_limit_is_not_taken_in() -> None:
    for headers in ({}, {"Content_Length": "1001"}):
        with http_server(always(200, bytes(1001), **headers)) as url:
            store = HTTPStore(f"{url}/db", max_body_bytes=1000)
            error = error_of(partial(store.get, "db"))
            assert type(error) is ObjectTooLargeError
            assert "limit of 1000" in str(error)
            assert HTTPStore(f"{url}/db", max_body_bytes=1001).get("db") is not None


def test_a_range_of_an_endless_body_ends() -> None:
    class Endless(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            try:
                while True:
                    self.wfile.write(b"0123456789" * 1000)
            except ConnectionError:
                return

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with http_server(Endless) as url:
        assert HTTPStore(f"{url}/db").get_range("db", 1_500_003, 4) == b"3456"


def test_a_body_that_is_cut_short_is_transient() -> None:
    with http_server(always(200, b"12345", Content_Length="10")) as url:
        store = HTTPStore(f"{url}/db")
        for ask in (lambda: store.get("db"), lambda: store.get_range("db", 2, 8)):
            error = error_of(ask)
            assert type(error) is TransientStoreError
            assert not error.may_have_applied


def test_tls_that_breaks_under_a_body_is_transient(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_off(_answer: connections.Answer, _amount: int) -> bytes:
        error = ssl.SSLError(1, "bad record mac")
        error.reason = "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"
        raise error

    with http_server(always(200, b"12345")) as url:
        monkeypatch.setattr(connections.Answer, "read", break_off)
        error = error_of(partial(HTTPStore(f"{url}/db").get, "db"))
    assert type(error) is TransientStoreError
    assert "bad record mac" in str(error)


def test_without_an_etag_the_content_is_compared() -> None:
    bodies = [b"one", b"one", b"two"]
    with http_server(serving(lambda _path, _headers: (200, {}, bodies.pop(0)))) as url:
        store = HTTPStore(f"{url}/db")
        blob = store.get("db")
        assert blob is not None
        assert store.get("db", if_none_match=blob.etag) is None
        changed = store.get("db", if_none_match=blob.etag)
        assert changed is not None
        assert changed.etag != blob.etag


def test_weak_etags_keep_their_mark() -> None:
    asked: list[str] = []

    def answer(_path: str, headers: dict[str, str]) -> Answer:
        asked.append(headers.get("if-none-match", ""))
        return (304 if asked[-1] else 200), {"ETag": 'W/"e"'}, b""

    with http_server(serving(answer)) as url:
        store = HTTPStore(f"{url}/db")
        blob = store.get("db")
        assert blob is not None
        assert store.get("db", if_none_match=blob.etag) is None
    assert asked == ["", 'W/"e"']


@pytest.mark.parametrize("header", ["bytes 0-4/11", "nonsense", None])
def test_another_range_than_asked_for_is_no_answer(header: str | None) -> None:
    headers = {"Content_Range": header} if header else {}
    with http_server(always(206, b"world", **headers)) as url:
        error = error_of(lambda: HTTPStore(f"{url}/db").get_range("db", 6, 5))
        assert type(error) is RemoteIntegrityError


def test_a_size_that_is_not_told_is_no_head() -> None:
    with http_server(always(200)) as url:
        assert type(error_of(lambda: HTTPStore(f"{url}/db").head("db"))) is RemoteIntegrityError


def test_no_secret_of_the_address_shows() -> None:
    with http_server(always(500)) as url:
        error = error_of(lambda: HTTPStore(f"{url}/db?v=1&token=SECRET").get("db"))
    assert "SECRET" not in str(error)
    assert "v=1" in str(error)
