"""Where the command line finds remotes, what it says where one is not there, and in which words."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.cli import sessions
from ebooklet_tx.cli import shared as cli
from ebooklet_tx.cli.wording import WORDS, in_shell_words
from tests.command_line import complaint, data, run
from tests.documents.page_blocks import REPOSITORY
from tests.integration.test_cli import CREDENTIALS
from tests.integration.test_cli_values import make, url
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, free_port


def test_a_remote_that_has_vanished_is_made_again_by_force(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    run("put", path, "b", given=b"2")
    shutil.rmtree(tmp_path / "remote")
    refused = run("push", path)
    assert refused.returncode == cli.FAILED
    assert "`ebooklet-tx push --force` writes it anew" in complaint(refused)
    assert run("push", path, "--force").returncode == cli.DONE
    copy = tmp_path / "copy.blt"
    run("clone", url(tmp_path), copy)
    assert run("ls", copy).stdout == "a\nb\n"


def test_a_session_leaves_the_place_that_is_remembered(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    mirror = f"{url(tmp_path)}-mirror"
    with ebooklet_tx.open(url(tmp_path), path) as db:
        db.copy_remote(mirror)
    with ebooklet_tx.open(mirror, path, "w", remember_remote=False) as db:
        assert db["a"] == 1
    ebooklet_tx.recover(path, mirror, remember_remote=False)
    assert ebooklet_tx.status(path).remote == url(tmp_path)
    with ebooklet_tx.open(mirror, path, "w"):
        assert ebooklet_tx.status(path).remote == mirror


def test_where_a_clone_goes(tmp_path: Path) -> None:
    make(tmp_path, {"a": 1})
    (tmp_path / "folder").mkdir()
    assert data(run("clone", url(tmp_path), tmp_path / "folder", "--json"))["file"] == f"{tmp_path}/folder/db.blt"
    refused = run("clone", "shared/stations.blt", tmp_path / "x.blt")
    assert refused.returncode == cli.FAILED
    assert "is no URL; give s3://bucket/key" in complaint(refused)
    assert "the URL can't be used" in complaint(run("clone", "nothing://x/y", tmp_path / "x.blt"))


def test_out_of_reach_what_is_here_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, {"a": 1})
    run("put", path, "b", given=b"2")
    monkeypatch.setattr(sessions, "UNREACHABLE_SECONDS", 0.1)
    away = ["--remote", "s3://bucket/key", "--endpoint-url", f"http://127.0.0.1:{free_port()}", "--region", "x"]
    for arguments, shown in ((["ls", path], "a\nb\n"), (["get", path, "a"], "1\n"), (["diff", path], "+ b\n")):
        seen = run(*arguments, *away, **CREDENTIALS)
        assert (seen.returncode, seen.stdout) == (cli.DONE, shown)
        assert seen.stderr.startswith("ebooklet_tx: note: this is what was pulled last")
        assert run(*arguments, "--offline").stdout == shown
    assert data(run("status", path, "--json"))["remote"] == url(tmp_path)


def test_a_bucket_and_its_public_address(ministack_endpoint: str, tmp_path: Path) -> None:
    client = boto3.client(
        "s3",
        endpoint_url=ministack_endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    with contextlib.closing(client):
        client.create_bucket(Bucket="cli-places")
    remote = ebooklet_tx.S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "places/db", "cli-places", ministack_endpoint)
    with ebooklet_tx.open(remote, tmp_path / "made.blt", "c", "orjson") as db:
        db["a"] = 1
        db.changes().push()
    path = tmp_path / "db.blt"
    cloned = run("clone", "s3://cli-places/places/db", path, "--endpoint-url", ministack_endpoint, **CREDENTIALS)
    assert cloned.returncode == cli.DONE, cloned.stderr
    run("put", path, "b", given=b"2")
    assert run("push", path, **CREDENTIALS).stdout == "pushed commit 2: 1 set, 0 deletes\n"
    public = tmp_path / "public.blt"
    assert run("clone", f"{ministack_endpoint}/cli-places/places/db", public).returncode == cli.DONE
    assert run("ls", public).stdout == "a\nb\n"
    assert run("pull", public, "--load").returncode == cli.DONE
    assert "can only be read" in complaint(run("put", public, "c", given=b"3"))
    assert "can't be listed" in complaint(run("stats", public))
    for file in tmp_path.iterdir():
        assert ACCESS_KEY.encode() not in file.read_bytes()


def test_messages_name_commands_in_place_of_python_calls() -> None:
    source = "".join(
        path.read_text(encoding="utf-8")
        for path in (REPOSITORY / "ebooklet_tx").rglob("*.py")
        if path.parent.name != "cli"
    )
    # Some stand on two lines of the source.
    joined = "".join(source.replace('"\n', "\n").split("\n"))
    joined = " ".join(joined.replace('"', " ").replace(" f ", " ").split())
    for phrase in set(WORDS) - {"remote_conn can't be used"}:
        assert phrase in source or phrase in joined, f"no message says {phrase!r} any more"
    assert in_shell_words("call load_items() again") == "call `ebooklet-tx pull --load` again"
