"""Ranges that are read with one signature: what is sent, when it is made anew, and what refusals lead to."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

import pytest
from botocore.credentials import Credentials

from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import (
    Error,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    TransientStoreError,
)
from ebooklet_tx.stores.s3 import S3Store, ranges
from tests.quick_clients import SharedClients
from tests.servers import http_server

DATA = bytes(range(256))


@dataclass
class Server:
    """A server of one object.

    Attributes:
        url: Its address.
        asked: The headers of the requests, in lower case.
        answers: Status, code and further headers of the next answers; that of the object if there are none.
        signs_range: Whether a Range that was not signed is refused.
    """

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    answers: list[tuple[int, str, dict[str, str]]] = field(default_factory=list)
    signs_range: bool = False

    @property
    def signatures(self) -> list[str]:
        return [headers["authorization"] for headers in self.asked]

    def answer(self, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
        self.asked.append(headers)
        status, code, more = 206, "", {"ETag": '"e"'}
        if self.answers:
            status, code, more = self.answers.pop(0)
        elif self.signs_range and "range" not in headers["authorization"]:
            status, code = 403, "SignatureDoesNotMatch"
        if status != 206:
            body = f"<Error><Code>{code}</Code><Message>the store's own words</Message></Error>"
            return status, more, body.encode()
        first, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
        return 206, {**more, "Content-Range": f"bytes {first}-{last}/256"}, DATA[first : last + 1]


def _handler(server: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            asked = {name.lower(): value for name, value in self.headers.items()}
            status, headers, body = server.answer(asked)
            self.send_response(status)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


@pytest.fixture(scope="module")
def shared() -> Iterator[tuple[Server, SharedClients]]:
    clients, server = SharedClients(), Server()
    with http_server(_handler(server)) as url:
        server.url = url
        yield server, clients
        clients.close()


@pytest.fixture
def server(shared: tuple[Server, SharedClients]) -> Server:
    server = shared[0]
    server.asked, server.answers, server.signs_range = [], [], False
    return server


@pytest.fixture
def store(server: Server, shared: tuple[Server, SharedClients]) -> Iterator[S3Store]:
    with shared[1].taken():
        opened = S3Store(S3Connection("the-id", "the-secret", "db", "bkt", server.url, read_timeout=10))
    yield opened
    opened.close()


def read(store: S3Store, offset: int = 0, *, key: str = "db.d/x") -> None:
    assert store.get_range(key, offset, 4, if_match="e") == DATA[offset : offset + 4]


def test_one_signature_serves_all_ranges_of_an_object(store: S3Store, server: Server) -> None:
    for offset in (0, 8, 16, 24):
        read(store, offset)
    read(store, key="db.d/y")
    assert [headers["range"] for headers in server.asked[:4]] == [f"bytes={n}-{n + 3}" for n in (0, 8, 16, 24)]
    assert {headers["if-match"] for headers in server.asked} == {'"e"'}
    own, first, second, third, other = server.signatures
    # The first request is botocore's own.
    assert "if-match;range" in own
    assert first == second == third
    assert "range" not in first
    assert "SignedHeaders=" in first
    assert other not in (own, first)


def test_a_signature_is_used_for_a_minute(store: S3Store, server: Server) -> None:
    now = 1000.0
    store._ranges._clock = lambda: now
    for passed in (0, 0, 59, 2, 1):
        now += passed
        read(store)
    _, first, second, third, fourth = (headers["amz-sdk-invocation-id"] for headers in server.asked)
    assert first == second != third == fourth


def test_other_credentials_make_another_signature(store: S3Store, server: Server) -> None:
    for number in range(3):
        store._sender._credentials = Credentials("the-id", "the-secret", f"token {number}")
        read(store)
        read(store)
    numbers = [headers["amz-sdk-invocation-id"] for headers in server.asked]
    assert [a == b for a, b in itertools.pairwise(numbers)] == [False, False, True, False, True]


@pytest.mark.parametrize("status", [301, 307, 400, 401, 403])
def test_what_a_signature_may_be_the_cause_of_is_asked_for_again(
    store: S3Store, server: Server, status: int
) -> None:
    read(store)
    read(store)
    server.answers = [(status, "AccessDenied", {})]
    read(store, 8)
    assert "range" in server.signatures[-1]
    server.answers = [(403, "AccessDenied", {})] * 2
    with pytest.raises(RemoteAccessError, match="AccessDenied"):
        read(store)
    assert len(server.asked) == 6


def test_a_store_that_wants_all_headers_signed_is_asked_so(store: S3Store, server: Server) -> None:
    server.signs_range = True
    for offset in range(9):
        read(store, offset)
    signed = ["range" in signature for signature in server.signatures]
    assert signed == [True, False, True, False, True, False, True, True, True, True, True, True]


FAILURES: list[tuple[int, str, type[Error]]] = [
    (404, "NoSuchKey", ObjectMissingError),
    (404, "NoSuchBucket", RemoteAccessError),
    (412, "PreconditionFailed", PreconditionFailedError),
    (416, "InvalidRange", NotFoundInRangeError),
    (429, "SlowDown", TransientStoreError),
    (500, "InternalError", TransientStoreError),
    (503, "SlowDown", TransientStoreError),
]


@pytest.mark.parametrize(("status", "code", "kind"), FAILURES)
def test_a_failure_is_what_it_is_without_a_signature_at_hand(
    store: S3Store, server: Server, status: int, code: str, kind: type[Error]
) -> None:
    def failure() -> Error:
        server.answers = [(status, code, {"Retry-After": "7"})]
        with pytest.raises(kind) as caught:
            store.get_range("db.d/x", 0, 4)
        return caught.value

    botocores = failure()
    read(store)
    read(store)
    ours = failure()
    assert len(server.asked) == 4
    assert type(ours) is type(botocores)
    assert str(ours) == str(botocores)
    if isinstance(ours, TransientStoreError):
        assert ours.retry_after_seconds == 7
        assert not ours.may_have_applied


def test_no_signature_is_logged(store: S3Store, server: Server, caplog: pytest.LogCaptureFixture) -> None:
    read(store)
    read(store)
    with caplog.at_level(logging.DEBUG):
        read(store)
    signature = server.signatures[-1].rsplit("=", 1)[1]
    assert len(signature) == 64
    assert signature not in caplog.text
    assert "the-id" not in caplog.text


def test_no_more_signatures_are_kept_than_so_many(
    store: S3Store, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ranges, "_MOST_OBJECTS", 3)
    for number in range(6):
        read(store, key=f"db.d/{number}")
    assert list(store._ranges._signed) == ["db.d/3", "db.d/4", "db.d/5"]
    assert len(server.asked) == 6
