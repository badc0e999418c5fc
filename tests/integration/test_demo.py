"""The demonstration runs as it is documented, on a folder and on S3, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import functools
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.cli import commands as cli
from ebooklet_tx.cli import demo, demo_input
from tests import command_line
from tests.processes import workers
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID
from tests.writer_processes import push_and_die

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

FILES = 120


def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    return command_line.run("demo", *arguments, **environment)


SOURCES = functools.cache(demo_input.read_sources)


@pytest.fixture(autouse=True)
def _library_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "read_sources", SOURCES)


@pytest.fixture
def forked_child(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child that kills itself is forked from a process that has the package loaded."""

    def run_child(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[bytes]:
        _, _, module, place, path, kill = command
        assert module == demo.__name__
        output = tmp_path_factory.mktemp("child") / "output"
        with workers() as start:
            child = start(push_and_die, place, path, kill, options["env"], output)
            code = child.wait_until_gone()
        return subprocess.CompletedProcess(command, code, output.read_bytes(), b"")

    monkeypatch.setattr(demo, "subprocess", SimpleNamespace(run=run_child, DEVNULL=subprocess.DEVNULL))


@pytest.mark.parametrize("kill", demo.KILL_POINTS)
def test_on_a_folder_every_value_is_equal_after_the_kill(kill: str, tmp_path: Path) -> None:
    child = run("--folder", tmp_path, "--files", FILES, "--kill", kill, "--json")
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    report = json.loads(child.stdout)
    assert report["sound"] is True
    assert report["values"] + report["skipped"] == FILES
    assert report["equal"] == report["values"]
    assert report["changed"] == demo_input.CHANGED_COUNT
    assert report["commit_was_applied"] == (kill == "after-root")
    assert report["resumed_packs"] == (1 if kill == "before-root" else 0)
    recovery = next(step for step in report["steps"] if step["name"] == "recover")
    assert recovery["requests"] > 0
    assert recovery["bytes_up"] < report["changed_bytes"]
    assert list(tmp_path.iterdir()) == []


def test_the_account_ends_with_how_many_are_equal(tmp_path: Path) -> None:
    child = command_line.run_process("demo", "--folder", tmp_path, "--files", FILES)
    assert child.returncode == cli.DONE
    lines = child.stdout.splitlines()
    assert lines[-1].startswith("every value equal: ")
    steps = {line[:28].strip() for line in lines if line[-4:-2].endswith(".")}
    assert {"push them", "push them, killed by SIGKILL", "recover", "second copy, all compared"} <= steps


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        (lambda db: db.update({next(iter(db)): "altered"}), "NOT every value equal"),
        (lambda db: db.update({"one too many.py": "text"}), "does NOT have the keys"),
    ],
)
@pytest.mark.usefixtures("forked_child")
def test_a_second_copy_that_differs_makes_it_fail(
    tamper: Callable[[ebooklet_tx.Database], None],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    recover = demo.recover

    def recover_and_tamper(path: Path, connection: Any, **options: Any) -> ebooklet_tx.RecoverReport:
        report = recover(path, connection, **options)
        with ebooklet_tx.open(connection, path.with_name("tampering.blt"), "w") as db:
            tamper(db)
            db.changes().push()
        return report

    monkeypatch.setattr(demo, "recover", recover_and_tamper)
    assert cli.main(["demo", "--folder", str(tmp_path), "--files", str(FILES)]) == cli.FAILED
    assert said in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_child_that_is_not_killed_makes_it_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo.sys, "executable", shutil.which("false"))
    assert cli.main(["demo", "--folder", str(tmp_path), "--files", str(FILES)]) == cli.FAILED
    assert "the child that was to be killed ended with 1" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("forked_child")
def test_what_is_kept_can_be_opened(tmp_path: Path) -> None:
    child = run("--folder", tmp_path, "--files", FILES, "--keep", "--json")
    assert child.returncode == cli.DONE
    (place,) = tmp_path.iterdir()
    remote = json.loads(child.stdout)["remote"]
    with ebooklet_tx.open(remote, place / "third.blt", "r") as copy:
        assert len(copy) == json.loads(child.stdout)["values"]
        text = copy[next(key for key in copy if len(copy[key]) > demo_input.PACKED_VALUE_BYTES)]
    assert "\n" in text


def test_it_reads_the_library_evenly_and_skips_what_is_no_text() -> None:
    texts, skipped = demo_input.read_sources()
    assert len(texts) > 500
    assert skipped < 20
    assert "json/decoder.py" in texts
    assert not any("site-packages" in key for key in texts)
    few, _ = demo_input.read_sources(10)
    assert len(few) <= 10
    assert few.keys() <= texts.keys()
    assert all(texts[key] == text for key, text in few.items())


# -- S3 ----------------------------------------------------------------------------------------


@pytest.fixture
def client(ministack_endpoint: str) -> Iterator[S3Client]:
    made = boto3.client(
        "s3",
        endpoint_url=ministack_endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    with contextlib.closing(made):
        yield made


@pytest.fixture
def credentials() -> dict[str, str]:
    return {
        "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
        "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
        "AWS_DEFAULT_REGION": "us-east-1",
    }


def keys(client: S3Client, bucket: str) -> set[str]:
    return {entry["Key"] for entry in client.list_objects_v2(Bucket=bucket).get("Contents", ())}


@pytest.mark.parametrize("kill", demo.KILL_POINTS)
@pytest.mark.usefixtures("forked_child")
def test_on_s3_it_removes_exactly_its_own_objects(
    kill: str, client: S3Client, ministack_endpoint: str, credentials: dict[str, str]
) -> None:
    bucket = f"demo-{kill}"
    client.create_bucket(Bucket=bucket)
    neighbours = {"mydemo2", "mydemo.d2/x", "mydemo.lock2", "mydemo2.d/pack/1", "other"}
    for key in neighbours:
        client.put_object(Bucket=bucket, Key=key, Body=b"theirs")
    arguments = ["--endpoint-url", ministack_endpoint, "--bucket", bucket, "--key", "mydemo", "--files", FILES]
    child = run(*arguments, "--kill", kill, **credentials)
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    assert child.stdout.splitlines()[-1].startswith("every value equal: ")
    assert keys(client, bucket) == neighbours


def test_on_s3_it_leaves_a_database_alone_that_is_there(
    client: S3Client, ministack_endpoint: str, credentials: dict[str, str]
) -> None:
    client.create_bucket(Bucket="demo-taken")
    client.put_object(Bucket="demo-taken", Key="mydemo", Body=b"theirs")
    arguments = ["--endpoint-url", ministack_endpoint, "--bucket", "demo-taken", "--key", "mydemo"]
    child = run(*arguments, "--files", FILES, **credentials)
    assert child.returncode == cli.FAILED
    assert "give another key" in child.stderr
    assert keys(client, "demo-taken") == {"mydemo"}


@pytest.mark.usefixtures("forked_child")
def test_on_s3_a_bucket_is_made_only_when_asked_for(
    client: S3Client, ministack_endpoint: str, credentials: dict[str, str]
) -> None:
    arguments = ["--endpoint-url", ministack_endpoint, "--bucket", "demo-made", "--files", FILES]
    refused = run(*arguments, **credentials)
    assert refused.returncode == cli.FAILED
    assert "no such bucket" in refused.stderr
    assert run(*arguments, "--create-bucket", **credentials).returncode == cli.DONE
    assert keys(client, "demo-made") == set()
    assert run(*arguments, "--create-bucket", **credentials).returncode == cli.DONE
