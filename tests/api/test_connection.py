"""Where a remote is: what is accepted, what is refused, and what never shows."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from ebooklet_tx.connection import (
    DirectoryConnection,
    HTTPConnection,
    S3Connection,
    connect,
    parse_connection,
)
from ebooklet_tx.errors import InvalidArgumentError
from ebooklet_tx.formats.object_names import ObjectNames
from ebooklet_tx.stores.directory import DirectoryStore
from ebooklet_tx.stores.factory import open_store
from ebooklet_tx.stores.http import HTTPStore
from ebooklet_tx.stores.retry import RetryPolicy
from ebooklet_tx.stores.s3 import S3Store

SECRETS = {
    "access_key_id": "AKIA-SECRET-1",
    "access_key": "SECRET-2",
    "session_token": "SECRET-3",
    "profile": "SECRET-4",
}
ENDPOINT = "http://127.0.0.1:1"
PUT_ARGUMENTS = {
    "sse": "aws:kms",
    "sse_kms_key_id": "arn:aws:kms:r1:1:key/a b&c",
    "storage_class": "STANDARD_IA",
    "acl": "public-read",
}


def test_the_positional_order_is_the_old_one() -> None:
    connection = S3Connection("id", "key", "db", "bkt", ENDPOINT, "https://h/db", 5, 7, 2)
    assert (connection.access_key_id, connection.access_key) == ("id", "key")
    assert (connection.db_key, connection.bucket, connection.endpoint_url) == ("db", "bkt", ENDPOINT)
    assert (connection.db_url, connection.threads) == ("https://h/db", 5)
    assert (connection.read_timeout, connection.retries) == (7, 2)


def test_no_secret_shows() -> None:
    connection = S3Connection(db_key="db", bucket="bkt", region="r1", **SECRETS)  # type: ignore[arg-type]
    shown = [repr(connection), str(connection), f"{connection}", connection.url, repr(connection.to_dict())]
    for text in shown:
        assert "SECRET" not in text
        assert "bkt" in text
    assert repr(connection) == "S3Connection('s3://bkt/db?region=r1')"


def test_to_dict_makes_the_connection_again() -> None:
    connection = S3Connection("id", "key", "a/b", "bkt", ENDPOINT, "https://h/a/b", region="r1")
    assert connection.to_dict() == {
        "db_key": "a/b",
        "bucket": "bkt",
        "endpoint_url": ENDPOINT,
        "db_url": "https://h/a/b",
        "region": "r1",
    }
    assert "region" not in S3Connection(db_key="db", bucket="bkt").to_dict()
    assert S3Connection(**connection.to_dict()) == connection  # type: ignore[arg-type]
    assert parse_connection(connection.to_dict()) == connection


@pytest.mark.parametrize(
    "connection",
    [
        S3Connection(db_key="a b/ü?#+%41", bucket="bkt", endpoint_url=ENDPOINT, region="r1"),
        S3Connection(db_key="db", bucket="bkt"),
        S3Connection(db_key="db", bucket="bkt", **PUT_ARGUMENTS),  # type: ignore[arg-type]
        S3Connection(db_url="https://h/x/a%20b"),
        DirectoryConnection(Path("/data/a b?#%41"), "ü %2F.blt"),
        DirectoryConnection(Path("/"), "db"),
        HTTPConnection("https://h/x/db?v=1"),
    ],
)
def test_url_and_dict_lead_back_to_the_place(connection: Any) -> None:
    for again in (
        parse_connection(connection.url),
        parse_connection(connection.to_dict()),
        parse_connection({"url": connection.url}),
        parse_connection({"type": "x", "timestamp": 1, "remote_conn": connection.to_dict()}, trust_entries=True),
        parse_connection(connection),
        connect(connection.url),
        connect(connection.to_dict()),
        connect({"remote_conn": connection.to_dict(), "entry_version": 1, "user_meta": {}}, trust_entries=True),
        copy.deepcopy(connection),
        pickle.loads(pickle.dumps(connection)),
    ):
        assert again == connection
        assert hash(again) == hash(connection)
        assert again.key == connection.key


def test_equal_is_the_place_not_what_opens_it() -> None:
    place = S3Connection("id", "key", "db", "bkt", ENDPOINT + "/")
    assert place == S3Connection(db_key="db", bucket="bkt", endpoint_url=ENDPOINT, profile="p", threads=1)
    assert len({place, S3Connection("other", "one", "db", "bkt", ENDPOINT)}) == 1
    others: list[object] = [
        S3Connection(db_key="db2", bucket="bkt", endpoint_url=ENDPOINT),
        S3Connection(db_key="db", bucket="bk2", endpoint_url=ENDPOINT),
        S3Connection(db_key="db", bucket="bkt"),
        DirectoryConnection(Path("/bkt"), "db"),
        "s3://bkt/db",
    ]
    for other in others:
        assert place != other
    assert S3Connection(db_url="https://h/db") == HTTPConnection("https://h/db")


def test_s3_url() -> None:
    parsed = parse_connection(
        "s3://My.bkt/a%20b/c%3F?endpoint_url=http%3A%2F%2F127.0.0.1%3A1&region=r1&profile=p"
    )
    assert isinstance(parsed, S3Connection)
    assert (parsed.bucket, parsed.db_key) == ("My.bkt", "a b/c?")
    assert (parsed.endpoint_url, parsed.region, parsed.profile) == (ENDPOINT, "r1", "p")


def test_put_arguments_travel_but_do_not_make_another_place() -> None:
    connection = S3Connection(db_key="db", bucket="bkt", **PUT_ARGUMENTS)  # type: ignore[arg-type]
    for again in (connect(connection.url), connect(connection.to_dict())):
        assert isinstance(again, S3Connection)
        assert {name: getattr(again, name) for name in PUT_ARGUMENTS} == PUT_ARGUMENTS
    plain = S3Connection(db_key="db", bucket="bkt")
    assert connection == plain
    assert hash(connection) == hash(plain)
    assert not set(PUT_ARGUMENTS) & set(plain.to_dict())
    assert plain.url == "s3://bkt/db"


def test_what_old_groups_hold_opens() -> None:
    public = {"db_key": None, "bucket": None, "endpoint_url": None, "db_url": "https://h/db"}
    entry = {
        "entry_version": 1,
        "type": "EVariableLengthValue",
        "timestamp": "2026-01-31T12:00:00+00:00",
        "remote_meta": {},
        "user_meta": None,
        "remote_conn": public,
    }
    assert connect(entry) == connect(public) == HTTPConnection("https://h/db")
    in_a_bucket = {"db_key": "a/b", "bucket": "bkt", "endpoint_url": ENDPOINT, "db_url": None}
    assert connect({"remote_conn": in_a_bucket}, trust_entries=True) == S3Connection(
        None, None, "a/b", "bkt", ENDPOINT
    )


def test_connect_gives_back_what_is_a_connection_already() -> None:
    connection = HTTPConnection("https://h/db")
    assert connect(connection) is connection


@pytest.mark.parametrize(
    "source", ["", "just/a/path", "ftp://h/db", "s3://bkt", "https://h#x", "file:x", "http://["]
)
def test_what_is_wrong_with_a_str_names_the_argument(source: str) -> None:
    with pytest.raises(InvalidArgumentError, match=r"^source can't be used: "):
        connect(source)
    with pytest.raises(InvalidArgumentError, match=r"^remote_conn can't be used: "):
        parse_connection(source)


def test_dict_with_credentials() -> None:
    parsed = parse_connection({"db_key": "db", "bucket": "bkt", **SECRETS, "threads": 3})
    assert isinstance(parsed, S3Connection)
    assert (parsed.access_key, parsed.session_token, parsed.threads) == ("SECRET-2", "SECRET-3", 3)


def test_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert DirectoryConnection(Path("sub"), "db") == DirectoryConnection(tmp_path / "x" / ".." / "sub", "db")
    parsed = parse_connection(f"file://{tmp_path}/a%20b/my%25db")
    assert parsed == DirectoryConnection(tmp_path / "a b", "my%db")
    assert parsed == parse_connection({"folder": str(tmp_path / "a b"), "name": "my%db"})
    assert parse_connection(f"file://localhost{tmp_path}/db") == DirectoryConnection(tmp_path, "db")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (None, "NoneType"),
        (17, "accepted are"),
        (b"s3://bkt/db", "accepted are"),
        ("", "accepted are"),
        ("just/a/path", "accepted are"),
        ("ftp://h/db", "ftp"),
        ("http://[bad/db", "accepted are"),
        ("s3://bkt", "db_key"),
        ("s3://bkt/", "db_key"),
        ("s3:///db", "bucket"),
        ("s3://bkt//db", "db_key"),
        ("s3://bkt/db?endpoint=x", "endpoint_url"),
        ("s3://bkt/db?access_key=SECRET", "access_key"),
        ("s3://bkt/db?sse_kms_key_id=x", "needs sse"),
        ("s3://bkt/db#x", "%23"),
        ("s3://SECRET:SECRET@bkt/db", "credentials"),
        ("file://folder/db", "absolute"),
        ("file:folder/db", "absolute"),
        ("file:///folder/", "name"),
        ("file:///folder/..", "name"),
        ("file:///folder/a%2Fb", "single file name"),
        ("file:///folder/a?b", "%3F"),
        ("https://SECRET:SECRET@h/db", "credentials"),
        ("https://h", "path of db_url"),
        ("https://h/a/../db", "path of db_url"),
        ("https:///db", "host"),
        ("https://h:port/db", "host"),
        ({}, "accepted are"),
        ({"db_key": "db", "bucket": "bkt", "acces_key": "SECRET"}, "acces_key"),
        ({"remote_conn": "SECRET"}, "remote_conn"),
        ({"remote_conn": {"remote_conn": {}}}, "remote_conn"),
        ({"folder": "/x"}, "folder"),
        ({"folder": 5, "name": "x"}, "folder"),
        ({"db_url": 5}, "db_url"),
        ({"bucket": "bkt"}, "db_key is missing"),
        ({"db_key": "db"}, "bucket is missing"),
        ({"db_key": None, "bucket": None, "endpoint_url": None, "db_url": None}, "bucket is missing"),
    ],
)
def test_unusable_sources_are_refused(source: object, says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        parse_connection(source)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    "key", ["", "/db", "db/", "a//b", "a/../b", "..", ".", "a/./b", "a\0b", "\ud800", "x" * 901, 5, b"db"]
)
def test_unusable_keys_are_refused(key: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="db_key"):
        S3Connection(db_key=key, bucket="bkt")
    with pytest.raises(InvalidArgumentError, match="name"):
        DirectoryConnection(Path("/x"), key)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"bucket": ""}, "bucket"),
        ({"bucket": "a/b"}, "bucket"),
        ({"bucket": 5}, "bucket"),
        ({"access_key_id": "SECRET"}, "both or neither"),
        ({"access_key": "SECRET"}, "both or neither"),
        ({"session_token": "SECRET"}, "session_token"),
        ({"access_key_id": "", "access_key": "SECRET"}, "access_key_id"),
        ({"profile": 5}, "profile"),
        ({"region": ""}, "region"),
        ({"sse": ""}, "sse"),
        ({"sse": True}, "sse"),
        ({"sse": "aws:kms", "sse_kms_key_id": ""}, "sse_kms_key_id"),
        ({"sse_kms_key_id": "key"}, 'needs sse="aws:kms"'),
        ({"sse": "AES256", "sse_kms_key_id": "key"}, 'needs sse="aws:kms"'),
        ({"storage_class": 5}, "storage_class"),
        ({"acl": ""}, "acl"),
        ({"endpoint_url": "127.0.0.1:9000"}, "endpoint_url"),
        ({"endpoint_url": "http://u:SECRET@h"}, "endpoint_url"),
        ({"endpoint_url": "http://h?token=SECRET"}, "endpoint_url"),
        ({"endpoint_url": "ftp://h"}, "endpoint_url"),
        ({"db_url": "file:///x"}, "db_url"),
        ({"threads": 0}, "threads"),
        ({"threads": 2.5}, "threads"),
        ({"threads": True}, "threads"),
        ({"retries": -1}, "retries"),
        ({"read_timeout": 0}, "read_timeout"),
        ({"read_timeout": "60"}, "read_timeout"),
        ({"read_timeout": float("nan")}, "read_timeout"),
    ],
)
def test_unusable_arguments_are_refused(arguments: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        S3Connection(**{"db_key": "db", "bucket": "bkt", **arguments})
    assert "SECRET" not in str(caught.value)


def test_reserved_names_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="ebooklet_tx"):
        DirectoryConnection(Path("/x"), ".ebooklet_tx.lock")


def test_secrets_in_a_url_are_left_out() -> None:
    url = "https://h/db?v=1&X-Amz-Signature=SECRET&token=SECRET"
    for connection in (HTTPConnection(url), S3Connection(db_url=url)):
        assert connection.db_url == url
        for text in (repr(connection), connection.url, repr(connection.to_dict()), HTTPStore(url).location):
            assert "SECRET" not in text
            assert "v=1" in text


@pytest.mark.parametrize("for_writing", [False, True])
def test_which_store_a_connection_opens(tmp_path: Path, for_writing: bool) -> None:
    cases: list[tuple[Any, type]] = [
        (DirectoryConnection(tmp_path, "db"), DirectoryStore),
        (HTTPConnection("http://127.0.0.1:1/db"), HTTPStore),
        (S3Connection(db_url="http://127.0.0.1:1/db"), HTTPStore),
        (S3Connection(db_key="db", db_url="http://127.0.0.1:1/x"), HTTPStore),
        (S3Connection(db_key="db", bucket="bkt", endpoint_url=ENDPOINT), S3Store),
        (S3Connection("id", "key", "db", "bkt", ENDPOINT, "http://127.0.0.1:1/db"), S3Store),
        (
            S3Connection(None, None, "db", "bkt", ENDPOINT, "http://127.0.0.1:1/db"),
            S3Store if for_writing else HTTPStore,
        ),
    ]
    for connection, kind in cases:
        store = open_store(connection, for_writing=for_writing)
        assert type(store.inner) is kind
        assert store.writable == (kind is not HTTPStore)
        store.close()


def test_retries_of_the_connection_become_attempts() -> None:
    assert open_store(S3Connection("a", "b", "db", "bkt", ENDPOINT, retries=0)).policy.attempts == 1
    assert open_store(S3Connection("a", "b", "db", "bkt", ENDPOINT)).policy.attempts == RetryPolicy().attempts
    policy = RetryPolicy(attempts=9)
    assert open_store(HTTPConnection("http://127.0.0.1:1/db"), policy=policy).policy is policy


def test_object_names() -> None:
    names = ObjectNames("a/my db")
    assert (names.root, names.lock, names.prefix) == ("a/my db", "a/my db.lock", "a/my db.d/")
    assert names.object("pack/1") == "a/my db.d/pack/1"
    packs = {names.new_pack() for _ in range(50)} | {names.new_index_object() for _ in range(50)}
    assert len(packs) == 100
    assert all(len(name.partition("/")[2]) == 32 for name in packs)
    assert {name.partition("/")[0] for name in packs} == {"pack", "index"}
    for wrong in ("", "/x", "x/", "../x", "a/../../b"):
        with pytest.raises(InvalidArgumentError):
            names.object(wrong)
        with pytest.raises(InvalidArgumentError):
            ObjectNames(wrong)
