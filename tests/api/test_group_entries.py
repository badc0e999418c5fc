"""How far an entry of a group is followed: whose word its place is, and what is sent there."""

from __future__ import annotations

import copy
import functools
import json
import pickle
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest

import ebooklet_tx
from ebooklet_tx.connection import DirectoryConnection, HTTPConnection, S3Connection, connect
from ebooklet_tx.errors import InvalidArgumentError, ReadOnlyError
from ebooklet_tx.group_entries import GroupEntry
from tests.pairs import Bench, make

SECRETS = {
    "AWS_ACCESS_KEY_ID": "ENVIRONMENT-ID",
    "AWS_SECRET_ACCESS_KEY": "environment-secret",
    "AWS_SESSION_TOKEN": "environment-token",
}


@dataclass
class Stranger:
    """A server of somebody else's, that notes every request with its headers."""

    url: str
    requests: list[tuple[str, str]] = field(default_factory=list)

    @property
    def credentials(self) -> list[str]:
        """The headers of requests in which any credential came."""
        words = ("authorization", "x-amz-security-token", "environment")
        return [head for _, head in self.requests if any(word in head.lower() for word in words)]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path)
    make(bench, {"k": b"v"})
    return bench


@pytest.fixture
def stranger(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stranger]:
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)

    class Noting(SimpleHTTPRequestHandler):
        def do_GET(self) -> None:
            found.requests.append((self.path, f"{self.path}\n{self.headers}"))
            super().do_GET()

        def do_PUT(self) -> None:
            found.requests.append((self.path, f"{self.path}\n{self.headers}"))
            self.send_error(403)

        do_HEAD = do_POST = do_DELETE = do_PUT  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            pass

    handler = functools.partial(Noting, directory=str(bench.folder / "remote"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        found = Stranger(f"http://127.0.0.1:{server.server_address[1]}")
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        server.shutdown()
        thread.join()


def bucket_of(stranger: Stranger, **more: Any) -> dict[str, Any]:
    return {"db_key": "db", "bucket": "bucket", "endpoint_url": stranger.url, "db_url": None} | more


def returned(bench: Bench, entry: dict[str, Any]) -> Any:
    """An entry as a group returns it, whatever lies in the group."""
    group = Bench(bench.folder, "group")
    with group.open("group", "c", remote_conn_group=True) as db:
        db._put({"entry": (orjson.dumps(entry), 1)})
        db.changes().push()
    with group.open("reading", "r") as db:
        return db["entry"]


@pytest.mark.parametrize("flag", ["r", "w", "c", "n"])
@pytest.mark.parametrize("shape", ["dict", "returned", "returned flat"])
def test_a_foreign_endpoint_gets_nothing(bench: Bench, stranger: Stranger, flag: str, shape: str) -> None:
    entry: Any = {"remote_conn": bucket_of(stranger)}
    if shape == "returned":
        entry = returned(bench, entry)
    elif shape == "returned flat":
        entry = returned(bench, bucket_of(stranger))
    with pytest.raises(InvalidArgumentError, match="trust_entries=True"):
        ebooklet_tx.open(entry, bench.path("b"), flag)
    for way in (connect, ebooklet_tx.verify, ebooklet_tx.fsck, lambda entry: ebooklet_tx.unlock(None, entry)):
        with pytest.raises(InvalidArgumentError, match="trust_entries=True"):
            way(entry)
    with bench.open("a", "w") as db, pytest.raises(InvalidArgumentError, match="trust_entries=True"):
        db.copy_remote(entry)
    assert stranger.requests == []
    assert not bench.path("b").exists()


def test_a_profile_in_an_entry_opens_nothing_either(bench: Bench, stranger: Stranger) -> None:
    for more in ({"profile": "default"}, {"access_key_id": "a", "access_key": "b"}):
        with pytest.raises(InvalidArgumentError, match="trust_entries=True"):
            ebooklet_tx.open({"remote_conn": bucket_of(stranger, **more)}, bench.path("b"))
    assert stranger.requests == []


@pytest.mark.parametrize("more", [{}, {"bucket": None, "endpoint_url": None, "db_key": None}])
def test_its_public_address_is_read_and_no_credential_comes_there(
    bench: Bench, stranger: Stranger, more: dict[str, Any]
) -> None:
    entry = returned(bench, {"remote_conn": bucket_of(stranger, db_url=f"{stranger.url}/db") | more})
    assert connect(entry) == HTTPConnection(f"{stranger.url}/db")
    with ebooklet_tx.open(entry, bench.path("b")) as db:
        assert dict(db) == {"k": b"v"}
    assert stranger.requests
    assert stranger.credentials == []
    seen = len(stranger.requests)
    with pytest.raises((InvalidArgumentError, ReadOnlyError)):
        ebooklet_tx.open(entry, bench.path("b"), "w")
    assert len(stranger.requests) == seen


def test_who_trusts_entries_sends_them(bench: Bench, stranger: Stranger) -> None:
    entry = returned(bench, {"remote_conn": bucket_of(stranger)})
    with pytest.raises(ebooklet_tx.Error):
        ebooklet_tx.open(entry, bench.path("b"), trust_entries=True)
    assert "ENVIRONMENT-ID" in stranger.credentials[0]
    assert connect(entry, trust_entries=True) == S3Connection(None, None, "db", "bucket", stranger.url)


@pytest.mark.parametrize("own", ["dict", "connection"])
def test_what_the_user_wrote_down_himself_is_followed(bench: Bench, stranger: Stranger, own: str) -> None:
    """A flat dict, or a connection made of it, is the user's own."""
    place: Any = returned(bench, {"remote_conn": bucket_of(stranger)})["remote_conn"]
    with pytest.raises(ebooklet_tx.Error):
        ebooklet_tx.open(place if own == "dict" else S3Connection(**place), bench.path("b"))
    assert stranger.credentials


def test_the_endpoint_at_which_the_user_opened_the_group_is_named_by_him(stranger: Stranger) -> None:
    group = S3Connection(None, None, "group", "bucket", stranger.url)
    entry = GroupEntry.at(group.endpoint(), {"remote_conn": bucket_of(stranger, bucket="another")})
    assert connect(entry) == S3Connection(None, None, "db", "another", stranger.url)
    for more in ({"endpoint_url": stranger.url + "/x"}, {"endpoint_url": None}, {"profile": "default"}):
        other = GroupEntry.at(group.endpoint(), {"remote_conn": bucket_of(stranger, **more)})
        with pytest.raises(InvalidArgumentError):
            connect(other)
    # A copy that is no group's any more is a dict that somebody wrote.
    with pytest.raises(InvalidArgumentError):
        connect(dict(entry))


@pytest.mark.parametrize("flag", ["r", "w"])
def test_a_folder_of_this_machine_is_opened_only_beside_the_group(bench: Bench, flag: str) -> None:
    beside = returned(bench, {"remote_conn": {"folder": str(bench.folder / "remote"), "name": "db"}})
    with ebooklet_tx.open(beside, bench.path("b"), flag) as db:
        assert dict(db) == {"k": b"v"}
    elsewhere = returned(bench, {"remote_conn": {"folder": str(bench.folder / "remote2"), "name": "db"}})
    for entry in (elsewhere, {"remote_conn": {"url": f"file://{bench.folder}/remote/db"}}):
        with pytest.raises(InvalidArgumentError, match="trust_entries=True"):
            ebooklet_tx.open(entry, bench.path("c"), flag)
    (bench.folder / "remote").rename(bench.folder / "remote2")
    with ebooklet_tx.open(elsewhere, bench.path("c"), flag, trust_entries=True) as db:
        assert dict(db) == {"k": b"v"}


def test_a_group_takes_no_entry_that_it_can_t_follow(bench: Bench, stranger: Stranger) -> None:
    """Nor does it write down half of one: an address where there was a bucket."""
    entry = {"remote_conn": bucket_of(stranger, db_url=f"{stranger.url}/db")}
    with Bench(bench.folder, "group").open("group", "c", remote_conn_group=True) as group:
        with pytest.raises(InvalidArgumentError, match="trust_entries=True"):
            group.add(entry)  # type: ignore[attr-defined]
        assert len(group) == 0
    assert stranger.requests == []


def test_every_way_of_reading_a_group_gives_entries(bench: Bench) -> None:
    place = DirectoryConnection(bench.folder / "remote", "db")
    with Bench(bench.folder, "group").open("group", "c", remote_conn_group=True) as group:
        group.add(place, key="k", user_meta={"a": 1})  # type: ignore[attr-defined]
        group.changes().push()
        found = [
            group["k"],
            group.get("k"),
            *group.values(),
            *(value for _, value in group.items()),
            *(value for _, value in group.get_items(["k"])),
            *(value for _, _, value in group.timestamps(include_value=True)),
            group.get_timestamp("k", include_value=True)[1],
            group.setdefault("k", None),
            copy.copy(group["k"]),
            pickle.loads(pickle.dumps(group["k"])),
            group.pop("k"),
        ]
    for entry in found:
        assert isinstance(entry, GroupEntry)
        assert connect(entry) == place
        assert entry["user_meta"] == {"a": 1}
        assert json.loads(json.dumps(entry)) == orjson.loads(orjson.dumps(entry)) == dict(entry)


def test_what_is_no_entry_and_no_flag_is_refused(bench: Bench) -> None:
    for nonsense in (
        {"remote_conn": None},
        {"remote_conn": {"remote_conn": {}}},
        {"remote_conn": {}},
        GroupEntry(),
    ):
        with pytest.raises(InvalidArgumentError):
            connect(nonsense)
    with pytest.raises(InvalidArgumentError, match="trust_entries"):
        connect({"remote_conn": {}}, trust_entries=1)  # type: ignore[arg-type]
