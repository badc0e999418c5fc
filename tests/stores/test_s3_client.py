"""Making a client quickly: what is read of botocore's descriptions is what botocore reads itself."""

from __future__ import annotations

import gc
import io
import json
from pathlib import Path
from typing import Any

import botocore.session
import pytest
from botocore.awsrequest import AWSResponse
from botocore.loaders import Loader

from ebooklet_tx.connection import S3Connection
from ebooklet_tx.errors import RemoteAccessError
from ebooklet_tx.stores.s3 import S3Store
from ebooklet_tx.stores.s3.descriptions import DescriptionFiles, DescriptionLoader


@pytest.fixture(autouse=True)
def own_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test reads anew, and leaves nothing of what it read to others."""
    monkeypatch.setattr(DescriptionLoader, "_shared", None)


def store() -> S3Store:
    return S3Store(S3Connection("id", "secret", "key", "bucket", "http://127.0.0.1:9"))


def test_descriptions_are_those_that_botocore_reads() -> None:
    ours, theirs = DescriptionLoader.shared(botocore.session.Session()), Loader()
    # Those of S3, and of what a profile may take its credentials from.
    for service in ("s3", "sts", "sso", "sso-oidc"):
        for kind in ("service-2", "endpoint-rule-set-1", "paginators-1"):
            assert ours.load_service_model(service, kind) == theirs.load_service_model(service, kind)
    for name in ("endpoints", "partitions", "sdk-default-configuration", "_retry"):
        assert ours.load_data(name) == theirs.load_data(name)


def test_clients_share_what_was_read_and_leave_it_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    load = DescriptionFiles.load_file
    monkeypatch.setattr(
        DescriptionFiles, "load_file", lambda self, path: (read.append(path), load(self, path))[1]
    )
    store().close()
    assert any(path.endswith("service-2") for path in read)
    loader = DescriptionLoader._shared
    assert loader is not None
    folders = loader.search_paths
    read.clear()
    store().close()
    assert read == []
    assert DescriptionLoader._shared is loader
    assert loader.search_paths == folders


@pytest.mark.parametrize("enabled", [True, False])
def test_the_search_for_garbage_is_left_as_it_was(enabled: bool) -> None:
    (gc.enable if enabled else gc.disable)()
    try:
        store().close()
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_a_folder_of_the_users_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = Path(Loader().BUILTIN_DATA_PATH) / "s3"
    (version,) = [folder.name for folder in found.iterdir()]
    model = Loader().load_service_model("s3", "service-2")
    other = tmp_path / "s3" / version
    other.mkdir(parents=True)
    text = json.dumps({**model, "metadata": {**model["metadata"], "serviceFullName": "Of the user"}})
    (other / "service-2.json").write_text(text)
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    made = store()
    assert made._sender.client.meta.service_model.metadata["serviceFullName"] == "Of the user"
    made.close()


def test_a_damaged_description_is_an_error_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "endpoints.json").write_text("{")
    monkeypatch.setenv("AWS_DATA_PATH", str(tmp_path))
    with pytest.raises(RemoteAccessError, match="no client"):
        store()
    assert gc.isenabled()


def sessions_made(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    made: list[object] = []
    begin = botocore.session.Session.__init__

    def init(self: botocore.session.Session, *given: Any, **options: Any) -> None:
        made.append(self)
        begin(self, *given, **options)

    monkeypatch.setattr(botocore.session.Session, "__init__", init)
    return made


def test_connections_with_keys_share_a_session_while_nothing_around_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    store().close()
    made = sessions_made(monkeypatch)
    first, second = store(), S3Store(S3Connection("other", "keys", "key", "bucket", "http://127.0.0.1:9"))
    assert made == []
    keys = [each._sender._credentials.get_frozen_credentials().access_key for each in (first, second)]
    signed = [each._sender.client._request_signer._credentials.access_key for each in (first, second)]
    assert keys == signed == ["id", "other"]
    assert first._sender.client.meta.events is not second._sender.client.meta.events
    config.write_text("[default]\nregion = eu-north-1\n")
    third = store()
    assert len(made) == 1
    assert third._sender.client.meta.region_name == "eu-north-1"
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-3")
    fourth = store()
    assert len(made) == 2
    assert fourth._sender.client.meta.region_name == "eu-west-3"
    for each in (first, second, third, fourth):
        each.close()


def test_what_finds_credentials_is_not_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sessions_made(monkeypatch)
    for number in range(2):
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", f"id {number}")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        opened = S3Store(S3Connection(db_key="key", bucket="bucket", endpoint_url="http://127.0.0.1:9"))
        assert opened._sender._credentials.get_frozen_credentials().access_key == f"id {number}"
        opened.close()
    assert len(made) == 2


@pytest.mark.parametrize(("size", "asks"), [(0, False), (100, False), (2**18, False), (2**18 + 1, True)])
def test_a_small_body_is_sent_without_a_question(size: int, asks: bool) -> None:
    opened = store()
    asked: list[bool] = []

    def instead(request: Any, **_: Any) -> AWSResponse:
        asked.append("Expect" in request.headers)
        assert request.headers["User-Agent"].startswith(b"ebooklet_tx Botocore/")
        answer = AWSResponse(request.url, 200, {"ETag": '"e"'}, io.BytesIO())
        answer._content = b""
        return answer

    opened._sender.client.meta.events.register_last("before-send.s3.PutObject", instead)
    opened.put("db", bytes(size))
    assert asked == [asks]
    opened.close()


@pytest.mark.parametrize(
    ("endpoint_url", "asks"),
    [
        ("https://t3.storage.dev", True),
        ("https://fly.storage.tigris.dev", True),
        ("https://s3.example.org/storage.tigris.dev", False),
    ],
)
def test_tigris_is_asked_for_what_was_written_last(endpoint_url: str, asks: bool) -> None:
    opened = S3Store(S3Connection("id", "secret", "db", "bucket", endpoint_url))
    asked: list[bool] = []

    def instead(request: Any, **_: Any) -> AWSResponse:
        asked.append("X-Tigris-Consistent" in request.headers)
        answer = AWSResponse(request.url, 200, {"ETag": '"e"', "Content-Length": "0"}, io.BytesIO())
        answer._content = b""
        return answer

    for operation in ("PutObject", "HeadObject"):
        opened._sender.client.meta.events.register_last(f"before-send.s3.{operation}", instead)
    opened.put("db", b"x", if_match="e")
    opened.head("db")
    assert asked == [asks, asks]
    opened.close()
