"""Where the command line finds remotes, what it says where one is not there, and in which words."""

from __future__ import annotations

import contextlib
import logging
import shutil
import subprocess
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
    assert "is no URL of a remote; give s3://bucket/key" in complaint(refused)
    assert "the URL can't be used" in complaint(run("clone", "file:///x?y", tmp_path / "x.blt"))
    assert "is no URL: Invalid IPv6 URL" in complaint(run("clone", "s3://[x/y"))


def test_options_go_with_an_s3_url_however_its_scheme_is_written() -> None:
    options = {"region": "x", "profile": None}
    assert cli.url_with("S3://bucket/key", options) == "S3://bucket/key?region=x"
    assert cli.url_with("file:///folder/key", options) == "file:///folder/key"


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
    for packs in ("[...]", "['pack/1a']"):
        said = in_shell_words(f"compact(packs={packs}) writes it anew on a machine that has the value, or")
        assert said.startswith("`ebooklet-tx verify --values --repair PATH` writes it anew on a machine")


@pytest.mark.parametrize(
    "key", [*WORDS, "lock_timeout_seconds", "two  spaces", "it's discard()", 'a "discard()" b']
)
def test_a_key_in_a_message_is_left_as_it_is(key: str) -> None:
    message = f"the writers' lock of key {key!r} can't be had; discard() the changes of {[key, key]}, or leave it"
    said = in_shell_words(message)
    assert said.count(repr(key)) == message.count(repr(key))
    assert "`ebooklet-tx discard` the changes" in said


def test_a_missing_key_is_named_as_it_was_typed(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    for key in ("lock_timeout", "two  spaces", "discard()", "line\nbreak"):
        assert f"there is no key {key!r} in" in complaint(run("get", path, key))


@pytest.mark.parametrize(
    "name", ["a b.blt", "-l.blt", "it's.blt", 'a"b.blt', "a\\b c.blt", "line\nbreak's.blt", "ü$x.blt"]
)
def test_a_command_in_a_message_can_be_typed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused = complaint(run("get", f"./{name}", "key"))
    command = refused.partition("`")[2].rpartition("`")[0].replace("ebooklet-tx clone URL", "printf %s")
    shown = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True).stdout
    assert Path(shown) == Path(name)
    assert shown[0] != "-"


def test_what_is_logged_is_told_in_the_words_of_the_command_line(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    shutil.rmtree(tmp_path / "remote")
    forced = run("push", path, "--force")
    assert forced.returncode == cli.DONE
    assert forced.stderr.startswith("ebooklet_tx: note: the database 'db' at ")
    assert "`ebooklet-tx push --force` writes it anew" in forced.stderr
    assert logging.getLogger("ebooklet_tx").propagate


def test_a_clone_over_what_is_there(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    text = tmp_path / "notes.txt"
    text.write_text("no booklet", encoding="utf-8")
    assert "pull" not in complaint(run("clone", url(tmp_path), text))
    assert "notes.txt is not a Booklet file; give another PATH" in complaint(run("clone", url(tmp_path), text))
    assert text.read_text(encoding="utf-8") == "no booklet"
    assert f"`ebooklet-tx pull {path}` brings it up to date" in complaint(run("clone", url(tmp_path), path))
    assert f"`ebooklet-tx pull {path} --load` brings" in complaint(run("clone", url(tmp_path), path, "--load"))


def test_a_value_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    for file in (tmp_path / "nothing.json", tmp_path):
        refused = run("put", path, "b", file)
        assert refused.returncode == cli.FAILED
        assert f"{file} can't be read" in complaint(refused)
        assert "nothing was set. Give the FILE" in complaint(refused)
    assert run("ls", path).stdout == "a\n"


@pytest.mark.parametrize("arguments", [["ls"], ["get", "a"], ["diff"]])
def test_a_journal_that_a_look_has_made_anew_remembers_the_remote(tmp_path: Path, arguments: list[str]) -> None:
    path = make(tmp_path, {"a": 1})
    (tmp_path / "a.blt.journal").unlink()
    command, *rest = arguments
    refused = complaint(run(command, path, *rest))
    assert f"name one with --remote, or for good by `ebooklet-tx recover {path} --remote URL`" in refused
    assert run(command, path, *rest, "--remote", url(tmp_path)).returncode == cli.DONE
    assert data(run("status", path, "--json"))["remote"] == url(tmp_path)
    assert run(command, path, *rest).returncode == cli.DONE


def test_a_look_leaves_another_remote_that_is_remembered(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    mirror = f"{url(tmp_path)}-mirror"
    with ebooklet_tx.open(url(tmp_path), path) as db:
        db.copy_remote(mirror)
    with path.open("r+b") as file:
        # Cut off, so that the look has to make the pair sound first.
        file.truncate(1000)
    assert run("ls", path, "--remote", mirror).stdout == "a\n"
    assert data(run("status", path, "--json"))["remote"] == url(tmp_path)


@pytest.mark.parametrize("address", ["stations.blt", "/folder/stations.blt", "file:x", "ftp://x/y", "s3:/x", ""])
def test_what_is_no_url_is_refused_by_every_option_that_takes_one(tmp_path: Path, address: str) -> None:
    path = make(tmp_path, {"a": 1})
    for arguments in (
        ["clone", address, tmp_path / "copy.blt"],
        ["ls", path, "--remote", address],
        ["import-ebooklet", address, url(tmp_path), "--path", tmp_path / "new.blt"],
        ["import-ebooklet", url(tmp_path), address, "--path", tmp_path / "new.blt"],
    ):
        refused = run(*arguments)
        assert refused.returncode == cli.FAILED
        assert "is no URL of a remote; give s3://bucket/key" in complaint(refused)


@pytest.mark.parametrize(
    "address", ["s3://bucket", "s3://bucket/", "s3:///key", "file:///folder/name/", "file:///"]
)
def test_a_url_that_names_no_database(tmp_path: Path, address: str) -> None:
    refused = run("clone", address, tmp_path / "copy.blt")
    assert refused.returncode == cli.FAILED
    kind = address.partition(":")[0]
    assert {"s3": "like s3://bucket/key", "file": "like file:///folder/name"}[kind] in complaint(refused)
    assert not list(tmp_path.iterdir())


def test_damage_needs_a_decision_by_every_command(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    root = tmp_path / "remote" / "db"
    root.write_bytes(root.read_bytes()[:-1])
    for arguments in (
        ["ls", path],
        ["get", path, "a"],
        ["push", path],
        ["pull", path],
        ["verify", path],
        ["compact", path],
        ["collect", path],
        ["recover", path],
        ["snapshot", "list", path],
    ):
        assert run(*arguments).returncode == cli.NEEDS_DECISION, arguments


def test_a_lost_pending_value_needs_a_decision_by_every_command(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    run("put", path, "b", given=b"2")
    with path.open("r+b") as file:
        file.truncate(1000)
    for arguments in (["recover", path], ["get", path, "b"], ["push", path]):
        assert run(*arguments).returncode == cli.NEEDS_DECISION, arguments
    assert "`ebooklet-tx discard` its change" in complaint(run("get", path, "b"))
    assert run("discard", path, "b").returncode == cli.DONE
    assert run("push", path).returncode == cli.DONE
