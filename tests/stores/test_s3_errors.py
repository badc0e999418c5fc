"""What the S3 store makes of each answer, and of none; on a stub server of loopback."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import (
    ConditionUnsupportedError,
    Error,
    InvalidArgumentError,
    NotFoundInRangeError,
    ObjectMissingError,
    PreconditionFailedError,
    RemoteAccessError,
    RemoteIntegrityError,
    TransientStoreError,
)
from ebooklet_tx.stores.http_errors import retry_after_seconds
from ebooklet_tx.stores.s3 import S3Store
from tests.quick_clients import SharedClients
from tests.servers import http_server

KEY_ID = "AKIA-KEY-ID-4711"
SECRET = "the-secret-4711"


@dataclass
class Stub:
    """What the stub server answers, and what it was asked.

    Attributes:
        status: The answer's status.
        body: Its body.
        headers: Further headers.
        announced: A Content-Length other than the body's.
        cut: Whether the connection is reset instead of an answer.
        then: The stub to answer with from the second request on.
        asked: Method and headers of the requests.
    """

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    announced: int | None = None
    cut: bool = False
    then: Stub | None = None
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)


def xml_error(code: str, message: str = "the store's own words") -> bytes:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message></Error>".encode()


@pytest.fixture
def stub() -> Stub:
    return Stub()


def _handler(current: Callable[[], Stub]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            stub = current()
            given = stub.then if stub.asked and stub.then is not None else stub
            stub.asked.append((self.command, {name.lower(): value for name, value in self.headers.items()}))
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            if given.cut:
                # Lingering for no time makes the close a reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.close_connection = True
                self.connection.close()
                return
            self.send_response(given.status)
            for name, value in given.headers.items():
                self.send_header(name, value)
            length = len(given.body) if given.announced is None else given.announced
            if given.status != 304:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(given.body)
            self.close_connection = given.announced is not None

        def do_GET(self) -> None:
            self._answer()

        def do_PUT(self) -> None:
            self._answer()

        def do_HEAD(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    return Handler


@dataclass
class Place:
    """The server of all tests, and the client of all their stores.

    Attributes:
        url: The server's.
        stub: What it answers at present.
        clients: The one client.
    """

    url: str
    stub: Stub
    clients: SharedClients


@pytest.fixture(scope="module")
def place() -> Iterator[Place]:
    clients = SharedClients()
    with http_server(_handler(lambda: found.stub)) as url:
        found = Place(url, Stub(), clients)
        yield found
        clients.close()


@pytest.fixture
def store(place: Place, stub: Stub) -> Iterator[S3Store]:
    place.stub = stub
    with place.clients.taken():
        opened = S3Store(S3Connection(KEY_ID, SECRET, "db", "bkt", place.url, read_timeout=10))
    yield opened
    opened.close()


def operations(store: S3Store) -> dict[str, Callable[[], object]]:
    return {
        "get": lambda: store.get("db"),
        "get_range": lambda: store.get_range("db", 0, 4),
        "head": lambda: store.head("db"),
        "put": lambda: store.put("db", b"x"),
        "if_match": lambda: store.put("db", b"x", if_match="etag"),
        "if_absent": lambda: store.put("db", b"x", if_absent=True),
        "list": lambda: list(store.list("db")),
        "delete": lambda: store.delete("db"),
        "copy": lambda: store.copy("db", "db.d/x"),
    }


READS = ("get", "get_range", "head", "list")
WRITES = ("put", "if_match", "if_absent", "delete", "copy")
CONDITIONAL = ("if_match", "if_absent")


def error_of(store: S3Store, operation: str) -> Error:
    with pytest.raises(Error) as caught:
        operations(store)[operation]()
    assert "ID-4711" not in str(caught.value)
    assert SECRET not in str(caught.value)
    assert "'db'" in str(caught.value)
    assert "s3://bkt" in str(caught.value)
    return caught.value


@pytest.mark.parametrize("operation", READS + WRITES)
@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "RequestTimeout"),
        (408, "Whatever"),
        (409, "ConditionalRequestConflict"),
        (409, "OperationAborted"),
        (429, "TooManyRequests"),
        (429, ""),
        (500, "InternalError"),
        (502, ""),
        (503, "SlowDown"),
        (504, ""),
        (599, ""),
    ],
)
def test_what_may_pass_is_transient(store: S3Store, stub: Stub, operation: str, status: int, code: str) -> None:
    stub.status, stub.body = status, xml_error(code) if code else b"<html>bad gateway</html>"
    error = error_of(store, operation)
    assert type(error) is TransientStoreError
    assert error.may_have_applied == (operation in WRITES and status != 429)
    assert error.retry_after_seconds is None
    # After a HEAD without a code in it botocore asks for the bucket's region.
    assert len(stub.asked) == 1 or (operation == "head" and status == 400)


@pytest.mark.parametrize("operation", ["get", "if_match"])
def test_retry_after_is_told(store: S3Store, stub: Stub, operation: str) -> None:
    stub.status, stub.body, stub.headers = 503, xml_error("SlowDown"), {"Retry-After": "17"}
    error = error_of(store, operation)
    assert isinstance(error, TransientStoreError)
    assert error.retry_after_seconds == 17.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("inf", None),
        ("-5", 0.0),
        ("2.5", 2.5),
        ("Thu, 01 Jan 1970 00:01:40 GMT", 60.0),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after_forms(text: str | None, seconds: float | None) -> None:
    assert retry_after_seconds(text, now=40.0) == seconds


@pytest.mark.parametrize("operation", READS + WRITES)
@pytest.mark.parametrize(
    ("status", "code", "says"),
    [
        (404, "NoSuchBucket", "no such bucket"),
        (403, "AccessDenied", "permission"),
        (401, "Unauthorized", "credentials"),
        (403, "InvalidAccessKeyId", "access_key_id"),
        (403, "SignatureDoesNotMatch", "access_key"),
        (403, "RequestTimeTooSkewed", "clock"),
        (400, "ExpiredToken", "expired"),
        (400, "RequestExpired", "expired"),
        (400, "InvalidToken", "new credentials"),
        (400, "AccessControlListNotSupported", "leave acl out"),
        (400, "InvalidStorageClass", "storage_class"),
        (403, "InvalidObjectState", "archived"),
        (400, "AuthorizationHeaderMalformed", "region"),
        (400, "InvalidRequest", "endpoint_url"),
        (405, "MethodNotAllowed", "endpoint_url"),
        (411, "MissingContentLength", "endpoint_url"),
    ],
)
def test_what_is_refused_names_the_way_out(
    store: S3Store, stub: Stub, operation: str, status: int, code: str, says: str
) -> None:
    stub.status, stub.body = status, xml_error(code, f"User {KEY_ID} with {SECRET} may not")
    error = error_of(store, operation)
    assert type(error) is RemoteAccessError
    assert isinstance(error, PermissionError)
    if operation == "head" and status == 400:
        return
    assert says in str(error)


def test_a_missing_object(store: S3Store, stub: Stub) -> None:
    stub.status, stub.body = 404, xml_error("NoSuchKey")
    for operation in ("get", "get_range", "head", "put", "copy", "list"):
        assert type(error_of(store, operation)) is ObjectMissingError
    assert type(error_of(store, "if_match")) is PreconditionFailedError
    store.delete("db")


@pytest.mark.parametrize("operation", CONDITIONAL)
def test_a_condition_that_does_not_hold(store: S3Store, stub: Stub, operation: str) -> None:
    stub.status, stub.body = 412, xml_error("PreconditionFailed")
    assert type(error_of(store, operation)) is PreconditionFailedError
    # Whether the refusal is about the ETag's quotes is asked by a HEAD, as long as no write has shown it.
    assert [method for method, _ in stub.asked if method != "HEAD"] == ["PUT"]


def test_a_store_without_conditions(store: S3Store, stub: Stub) -> None:
    for status in (501, 400):
        stub.status, stub.body = status, xml_error("NotImplemented")
        for operation in CONDITIONAL:
            assert type(error_of(store, operation)) is ConditionUnsupportedError
        for operation in ("get", "put", "list", "copy"):
            assert type(error_of(store, operation)) is RemoteAccessError


def test_a_success_that_is_none(store: S3Store, stub: Stub) -> None:
    stub.body = xml_error("InternalError")
    error = error_of(store, "copy")
    assert isinstance(error, TransientStoreError)
    assert error.may_have_applied


def test_not_modified_is_none(store: S3Store, stub: Stub) -> None:
    stub.status = 304
    assert store.get("db", if_none_match="etag") is None


@pytest.mark.parametrize("quoted", [True, False])
def test_etags_are_sent_as_the_store_wants_them(store: S3Store, stub: Stub, quoted: bool) -> None:
    stub.headers = {"ETag": '"new"'}
    store.quote_etags = quoted
    assert store.put("db", b"x", if_match="old") == "new"
    store.get("db", if_none_match="old")
    shown = '"old"' if quoted else "old"
    assert stub.asked[0][1]["if-match"] == shown
    assert stub.asked[1][1]["if-none-match"] == shown
    assert store.put("db", b"x", if_absent=True) == "new"
    assert stub.asked[2][1]["if-none-match"] == "*"


def test_no_checksum_is_sent_to_other_stores(store: S3Store, stub: Stub) -> None:
    stub.headers = {"ETag": '"new"'}
    store.put("db", b"x")
    names = stub.asked[0][1].keys()
    assert not [name for name in names if "checksum" in name or name in ("x-amz-trailer", "transfer-encoding")]


@pytest.mark.parametrize("operation", READS + WRITES)
def test_a_cut_connection_is_transient_and_sent_once(store: S3Store, stub: Stub, operation: str) -> None:
    stub.cut = True
    error = error_of(store, operation)
    assert type(error) is TransientStoreError
    assert error.may_have_applied == (operation in WRITES)
    assert len(stub.asked) == 1


@pytest.mark.parametrize("operation", ["get", "get_range"])
@pytest.mark.parametrize("body", [b"", b"ab"])
def test_a_body_that_is_cut_short_is_transient(store: S3Store, stub: Stub, operation: str, body: bytes) -> None:
    stub.body, stub.announced, stub.headers = body, 4, {"ETag": '"e"'}
    error = error_of(store, operation)
    assert type(error) is TransientStoreError
    assert not error.may_have_applied


@pytest.mark.parametrize("status", [404, 500])
def test_an_error_that_is_cut_short_is_transient(store: S3Store, stub: Stub, status: int) -> None:
    stub.status, stub.body, stub.announced = status, b"<Er", 1000
    assert type(error_of(store, "get")) is TransientStoreError
    assert type(error_of(store, "put")) is TransientStoreError


def test_a_whole_answer_is_cut_to_the_range(store: S3Store, stub: Stub) -> None:
    stub.body, stub.headers = b"hello world", {"ETag": '"e"'}
    assert store.get_range("db", 6, 5) == b"world"
    assert store.get_range("db", 0, 5) == b"hello"
    with pytest.raises(NotFoundInRangeError, match="of 11"):
        store.get_range("db", 6, 6)


def test_a_range_told_only_by_its_header(store: S3Store, stub: Stub) -> None:
    stub.body, stub.headers = b"world", {"Content-Range": "bytes 6-10/11"}
    assert store.get_range("db", 6, 5) == b"world"


def test_a_range_past_the_end(store: S3Store, stub: Stub) -> None:
    stub.status, stub.body = 416, xml_error("InvalidRange")
    assert type(error_of(store, "get_range")) is NotFoundInRangeError


@pytest.mark.parametrize("header", ["bytes 0-4/11", "bytes */11", "lines 6-10/11", None])
def test_another_range_than_asked_for_is_no_answer(store: S3Store, stub: Stub, header: str | None) -> None:
    stub.status, stub.body = 206, b"world"
    stub.headers = {"Content-Range": header} if header else {}
    with pytest.raises(RemoteIntegrityError, match="another range"):
        store.get_range("db", 6, 5)


def test_if_match_is_checked_even_where_it_is_ignored(store: S3Store, stub: Stub) -> None:
    stub.status, stub.body = 206, b"world"
    stub.headers = {"Content-Range": "bytes 6-10/11", "ETag": '"new"'}
    assert store.get_range("db", 6, 5, if_match="new") == b"world"
    with pytest.raises(PreconditionFailedError):
        store.get_range("db", 6, 5, if_match="old")


def test_names_that_s3_can_not_have(store: S3Store, stub: Stub) -> None:
    stub.status, stub.body = 400, xml_error("KeyTooLongError")
    assert type(error_of(store, "put")) is InvalidArgumentError
    with pytest.raises(InvalidArgumentError):
        store.put("db", b"x", metadata={"name": "not ASCII: ü"})
    with pytest.raises(InvalidArgumentError):
        store.get("")


def test_a_server_that_does_not_answer_is_transient() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = S3Store(S3Connection(KEY_ID, SECRET, "db", "bkt", url, read_timeout=0.2))
        for operation in ("get", "if_match"):
            error = error_of(store, operation)
            assert type(error) is TransientStoreError
            assert error.may_have_applied == (operation == "if_match")
        store.close()


@pytest.fixture
def no_credentials(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path / "credentials"


def test_no_credentials_anywhere(no_credentials: Path) -> None:
    assert not no_credentials.exists()
    store = S3Store(S3Connection(db_key="db", bucket="bkt", endpoint_url="http://127.0.0.1:1"))
    with pytest.raises(RemoteAccessError, match="profile"):
        store.get("db")
    store.close()
    with pytest.raises(RemoteAccessError, match="profile"):
        S3Store(S3Connection(db_key="db", bucket="bkt", profile="no-such-profile"))


def _write_profile(path: Path, key_id: str) -> None:
    path.write_text(f"[work]\naws_access_key_id = {key_id}\naws_secret_access_key = {SECRET}\n")


def test_expired_credentials_of_a_profile_are_read_again_once(no_credentials: Path, stub: Stub) -> None:
    _write_profile(no_credentials, "OLD")
    stub.status, stub.body = 400, xml_error("ExpiredToken")
    stub.then = Stub(headers={"ETag": '"new"'})
    with http_server(_handler(lambda: stub)) as url:
        store = S3Store(S3Connection(db_key="db", bucket="bkt", endpoint_url=url, profile="work"))
        _write_profile(no_credentials, "NEW")
        assert store.put("db", b"x", if_match="old") == "new"
        assert ["OLD/" in headers["authorization"] for _, headers in stub.asked] == [True, False]
        assert "NEW/" in stub.asked[1][1]["authorization"]
        stub.then = None
        with pytest.raises(RemoteAccessError, match="expired"):
            store.get("db")
        assert len(stub.asked) == 4
        store.close()


def test_no_credential_of_a_profile_shows_in_the_words_of_a_store(no_credentials: Path, stub: Stub) -> None:
    _write_profile(no_credentials, KEY_ID)
    stub.status, stub.body = 403, xml_error("AccessDenied", f"{KEY_ID} with {SECRET} may not")
    with http_server(_handler(lambda: stub)) as url:
        store = S3Store(S3Connection(db_key="db", bucket="bkt", endpoint_url=url, profile="work"))
        assert "*** with *** may not" in str(error_of(store, "put"))
        store.close()


def test_which_store_is_aws_itself(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    assert not store.is_aws
    for name in ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    aws = S3Store(S3Connection(KEY_ID, SECRET, "db", "bkt", region="eu-west-1"))
    assert aws.is_aws
    aws.close()
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    other = S3Store(S3Connection(KEY_ID, SECRET, "db", "bkt"))
    assert not other.is_aws
    other.close()
