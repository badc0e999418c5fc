"""Making a client quickly: what is read of botocore's descriptions is what botocore reads itself."""

from __future__ import annotations

import gc
import json
from pathlib import Path

import botocore.session
import pytest
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
