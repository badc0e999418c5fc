"""The command line as a user runs it: exit codes, and what it prints; one process of each kind of ending."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

import ebooklet_tx
from ebooklet_tx.cli import commands as cli
from ebooklet_tx.stores import factory as open_store
from ebooklet_tx.stores.retry import RetryPolicy
from tests.command_line import complaint, data, kill_push, run, run_process
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, free_port

BIG = "x" * 50_000
"""Too long to ride in the index: a push of it sends a pack."""

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
    "AWS_SECRET_ACCESS_KEY": ACCESS_KEY,
    "AWS_DEFAULT_REGION": "us-east-1",
}


@pytest.fixture
def remote(tmp_path: Path) -> ebooklet_tx.DirectoryConnection:
    return ebooklet_tx.DirectoryConnection(tmp_path / "remote", "db")


@pytest.fixture
def path(tmp_path: Path, remote: ebooklet_tx.DirectoryConnection) -> Path:
    """A database that was pushed."""
    path = tmp_path / "a.blt"
    push(remote, path, {"k1": "one", "k2": "two"})
    return path


@contextlib.contextmanager
def opened(remote: Any, path: Path) -> Iterator[ebooklet_tx.Database]:
    with ebooklet_tx.open(remote, path, "c", value_serializer="str", lock_timeout=5.0) as db:
        yield db


def push(remote: Any, path: Path, values: dict[str, str]) -> None:
    with opened(remote, path) as db:
        db.update(values)
        db.changes().push()


def change(remote: Any, path: Path, values: dict[str, str]) -> None:
    with opened(remote, path) as db:
        db.update(values)


# -- recover: 0, 1, 2 --------------------------------------------------------------------------


def test_recover_with_nothing_to_do_is_done(path: Path) -> None:
    child = run_process("recover", path)
    assert (child.returncode, child.stderr) == (cli.DONE, "")
    assert "the local pair is sound" in child.stdout
    assert "no push was interrupted" in child.stdout
    first, second = run("recover", path, "--json"), run("recover", path, "--json")
    assert first.stdout == second.stdout
    assert data(first)["file"] == str(path)


def test_recover_resumes_a_killed_push(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    change(remote, path, {"big": BIG})
    kill_push(remote, path)
    assert run("status", path).returncode == cli.DONE
    child = run("recover", path, "--json")
    assert child.returncode == cli.DONE
    report = data(child)
    assert (report["pushed"]["resumed_packs"], report["pushed"]["set_count"]) == (1, 1)
    assert report["failure"] is None
    with ebooklet_tx.open(remote, path.with_name("b.blt"), "r") as copy:
        assert copy["big"] == BIG


def test_recover_rolls_a_killed_push_back_when_told_to(
    path: Path, remote: ebooklet_tx.DirectoryConnection
) -> None:
    change(remote, path, {"big": BIG})
    kill_push(remote, path)
    child = run("recover", path, "--no-resume")
    assert child.returncode == cli.DONE
    assert "rolled back" in child.stdout
    assert "1 set, 0 deletes" in child.stdout
    assert data(run("status", path, "--json"))["pending_sets"] == 1


def test_recover_with_a_conflict_needs_a_decision(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    change(remote, path, {"k1": "ours"})
    kill_push(remote, path)
    push(remote, path.with_name("b.blt"), {"k1": "theirs"})
    child = run("recover", path)
    assert (child.returncode, child.stderr) == (cli.NEEDS_DECISION, "")
    assert "CONFLICT: 1 key was changed here and by another writer: 'k1'" in child.stdout
    assert [sides["key"] for sides in data(run("recover", path, "--json"))["conflicts"]] == ["k1"]
    assert run("status", path).returncode == cli.NEEDS_DECISION
    pulled = run("pull", path)
    assert pulled.returncode == cli.NEEDS_DECISION
    assert "CONFLICT: 'k1'" in pulled.stdout
    pushed = run("push", path)
    assert pushed.returncode == cli.NEEDS_DECISION
    assert "'k1'" in complaint(pushed)
    assert run("push", path, "--force").returncode == cli.DONE
    assert run("status", path).returncode == cli.DONE


def test_recover_with_a_lost_value_needs_a_decision(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    value = b"a value that was never pushed"
    change(remote, path, {"k3": value.decode()})
    raw = path.read_bytes()
    assert raw.count(value) == 1
    path.write_bytes(raw.replace(value, value[::-1]))
    child = run("recover", path)
    assert (child.returncode, child.stderr) == (cli.NEEDS_DECISION, "")
    assert "LOST: 1 value " in child.stdout
    assert data(run("recover", path, "--json"))["lost_keys"] == ["k3"]
    told = run("recover", path, "--dry-run")
    assert told.returncode == cli.NEEDS_DECISION
    assert "nothing was changed" in told.stdout


@pytest.mark.parametrize("command", ["recover", "status", "push", "pull", "log"])
def test_a_missing_file_and_one_that_is_no_booklet_fail_in_one_line(command: str, tmp_path: Path) -> None:
    missing = run(command, tmp_path / "nothing.blt")
    assert missing.returncode == cli.FAILED
    assert "nothing.blt" in complaint(missing)
    text = tmp_path / "text.blt"
    text.write_text("no booklet " * 100)
    refused = run(command, text)
    assert refused.returncode == cli.FAILED
    assert "text.blt" in complaint(refused)
    assert text.read_text() == "no booklet " * 100


def test_recover_out_of_reach_repairs_the_local_pair_and_fails(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with path.open("r+b") as file:
        file.write(b"ebtxflux" + b"\1" * 8)
    url = f"s3://bucket/db?endpoint_url=http://127.0.0.1:{free_port()}"
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    # In this process, so that nobody waits two minutes for a store that is not there.
    monkeypatch.setattr(open_store, "_policy_for", lambda _: RetryPolicy.without_backoff(2))
    assert cli.main(["recover", str(path), "--remote", url, "--json"]) == cli.FAILED
    said = capsys.readouterr().out
    assert logging.getLogger("ebooklet_tx").level == logging.NOTSET
    report = json.loads(said)
    assert any("interrupted append was taken back" in action for action in report["actions"])
    assert "127.0.0.1" in report["failure"]
    assert ACCESS_KEY not in said
    assert run("recover", path).returncode == cli.DONE


def test_a_file_that_is_in_use_fails(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    with opened(remote, path):
        child = run_process("recover", path, "--lock-timeout", 0)
        assert child.returncode == cli.FAILED
        assert "another session" in complaint(child)
        assert data(run_process("status", path, "--json"))["in_use"] is True


def test_wrong_arguments_fail_with_the_usage() -> None:
    for arguments in ([], ["frobnicate"], ["recover"], ["log", "x", "--limit", "0"], ["demo", "--key", "k"]):
        child = (run if arguments else run_process)(*arguments)
        assert child.returncode == cli.FAILED
        assert "Traceback" not in child.stderr
        assert child.stderr


def test_help_documents_the_exit_codes() -> None:
    for arguments in (["--help"], ["recover", "--help"]):
        text = run(*arguments).stdout
        for code in ("0    done", "1    something needs a decision", "2    failed", "130  interrupted"):
            assert code in text


def test_ctrl_c_says_so_and_ends_with_130(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(ebooklet_tx, "recover", interrupted)
    assert cli.main(["recover", str(path)]) == 130
    assert capsys.readouterr() == ("", "ebooklet_tx: interrupted\n")


@pytest.mark.usefixtures("heard_sigint")
@pytest.mark.parametrize(
    ("number", "code", "word"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_a_command_in_good_order(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: signal.Signals,
    code: int,
    word: str,
) -> None:
    def signalled(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), number)
        except KeyboardInterrupt as error:
            error.add_note("4 of 5 packs arrived; push again goes on")
            raise

    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(ebooklet_tx, "recover", signalled)
    assert cli.main(["recover", str(path)]) == code
    assert capsys.readouterr() == ("", f"ebooklet_tx: {word}: 4 of 5 packs arrived; push again goes on\n")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_command_shows_bars_on_a_terminal_alone(
    path: Path, remote: ebooklet_tx.DirectoryConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ebooklet_tx.progress.bars.UNSEEN_SECONDS", 0.0)
    change(remote, path, {"k1": BIG})
    assert run("push", path).stderr == ""
    change(remote, path, {"k1": BIG + BIG})
    shown = run("push", path, terminal=True)
    assert "send: 100%" in shown.stderr
    assert "send" not in shown.stdout


@pytest.mark.usefixtures("heard_sigint")
def test_a_second_signal_ends_a_command_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def exit_at_once(code: int) -> None:
        raise SystemExit(code)

    def signalled(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            pytest.fail("the clean-up went on")

    monkeypatch.setattr(os, "_exit", exit_at_once)
    monkeypatch.setattr(ebooklet_tx, "recover", signalled)
    with pytest.raises(SystemExit) as ended:
        cli.main(["recover", str(path)])
    assert ended.value.code == 143


def test_a_signal_that_is_ignored_stays_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a command that a shell runs in the background, or under nohup."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        monkeypatch.setattr(ebooklet_tx, "recover", lambda *_, **__: os.kill(os.getpid(), signal.SIGINT))
        assert cli.main(["recover", str(path)]) == 2, "a recovery that reports nothing"
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_reader_that_goes_away_is_no_traceback(path: Path) -> None:
    source, sink = os.pipe()
    os.close(source)
    with os.fdopen(sink, "w") as gone:
        child = subprocess.run(
            [sys.executable, "-m", "ebooklet_tx", "status", str(path)],
            stdout=gone,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
    assert (child.returncode, child.stderr) == (cli.FAILED, "")


# -- looking -----------------------------------------------------------------------------------


def test_a_dry_run_leaves_every_byte(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    change(remote, path, {"big": BIG})
    kill_push(remote, path)
    folder = path.parent
    before = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}
    child = run("recover", path, "--dry-run", "--json")
    assert child.returncode == cli.DONE
    assert run("status", path).returncode == cli.DONE
    assert run("log", path).returncode == cli.DONE
    after = {file: (file.read_bytes(), file.stat().st_mtime_ns) for file in folder.rglob("*") if file.is_file()}
    assert after == before
    report = data(child)
    assert report["dry_run"] is True
    assert (len(report["dropped"]), report["pushed"]) == (1, None)
    assert any("would be resumed" in action for action in report["actions"])


def test_json_is_stable(path: Path) -> None:
    first, second = run("status", path, "--json"), run("status", path, "--json")
    assert first.stdout == second.stdout
    assert list(data(first)) == sorted(data(first))
    assert set(data(first)) == {
        "base_commit_id",
        "base_seq",
        "conflicts",
        "connection",
        "dead_bytes",
        "file",
        "file_bytes",
        "in_use",
        "journal",
        "journal_bytes",
        "keys",
        "packs_arrived",
        "packs_unfinished",
        "pending_bytes",
        "pending_deletes",
        "pending_sets",
        "remote",
        "repairs",
        "replaces_remote",
        "staged_bytes",
        "unresolved",
        "uuid",
    }
    assert (
        set(data(run("recover", path, "--dry-run", "--json")))
        == set(data(run("recover", path, "--json")))
        == {
            "actions",
            "adopted_keys",
            "applied",
            "base_commit_id",
            "base_seq",
            "conflicts",
            "damaged_keys",
            "deleted_keys",
            "dropped",
            "dry_run",
            "edited_keys",
            "failure",
            "file",
            "lost_keys",
            "missing_keys",
            "missing_objects",
            "outdated_keys",
            "partial_keys",
            "pending_bytes",
            "pending_deletes",
            "pending_known",
            "pending_sets",
            "pushed",
            "refetched_keys",
            "remote",
            "remote_damage",
            "repaired_seq",
            "unresolved",
        }
    )


def test_push_pull_and_log_use_the_remembered_remote(path: Path, remote: ebooklet_tx.DirectoryConnection) -> None:
    other = path.with_name("b.blt")
    push(remote, other, {"theirs": "new"})
    pulled = run("pull", path)
    assert (pulled.returncode, pulled.stdout) == (cli.DONE, "this machine stands at commit 2\n")
    change(remote, path, {"ours": "new"})
    pushed = run("push", path, "--json", "--message", "gauge 7\nrecalibrated")
    assert pushed.returncode == cli.DONE
    assert (data(pushed)["seq"], data(pushed)["set_count"]) == (3, 1)
    nothing = run("push", path)
    assert (nothing.returncode, nothing.stdout) == (cli.DONE, "nothing to push; the remote stands at commit 3\n")
    told = [(record["seq"], record["message"]) for record in data(run("log", path, "--json"))]
    assert told == [(3, "gauge 7\nrecalibrated"), (2, ""), (1, "")]
    lines = run("log", path, "--limit", 1).stdout.splitlines()
    assert len(lines) == 1
    assert "+1 -0" in lines[0]
    assert lines[0].endswith('  "gauge 7 recalibrated"')


def test_without_a_remembered_remote_recover_is_local_and_push_fails(
    tmp_path: Path, path: Path, remote: ebooklet_tx.DirectoryConnection
) -> None:
    alone = tmp_path / "alone.blt"
    alone.write_bytes(path.read_bytes())
    told = run("recover", alone)
    assert told.returncode == cli.DONE
    assert "only the local pair was looked after" in told.stdout
    refused = run("push", alone)
    assert refused.returncode == cli.FAILED
    assert "--remote" in complaint(refused)
    joined = run("recover", alone, "--remote", remote.url)
    assert joined.returncode == cli.DONE
    assert data(run("status", alone, "--json"))["remote"] == remote.url


# -- S3 ----------------------------------------------------------------------------------------


@pytest.fixture
def bucket(ministack_endpoint: str) -> str:
    client = boto3.client(
        "s3",
        endpoint_url=ministack_endpoint,
        aws_access_key_id=ACCESS_KEY_ID,
        aws_secret_access_key=ACCESS_KEY,
        region_name="us-east-1",
    )
    with contextlib.closing(client):
        client.create_bucket(Bucket="cli-tests")
    return "cli-tests"


def test_on_s3_the_place_is_remembered_and_credentials_come_from_outside(
    ministack_endpoint: str, bucket: str, tmp_path: Path
) -> None:
    path = tmp_path / "a.blt"
    remote = ebooklet_tx.S3Connection(ACCESS_KEY_ID, ACCESS_KEY, "cli/db", bucket, ministack_endpoint)
    push(remote, path, {"k1": "one"})
    change(remote, path, {"big": BIG})
    kill_push(remote, path, **CREDENTIALS)
    for file in tmp_path.iterdir():
        assert ACCESS_KEY.encode() not in file.read_bytes()
    without = run("recover", path, "--dry-run")
    assert without.returncode == cli.FAILED
    assert "credentials" in without.stdout
    config = tmp_path / "credentials"
    config.write_text(
        f"[someone]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {ACCESS_KEY}\n"
        "region = us-east-1\n"
    )
    profile = run("recover", path, "--profile", "someone", "--json", AWS_SHARED_CREDENTIALS_FILE=str(config))
    assert profile.returncode == cli.DONE
    assert data(profile)["pushed"]["resumed_packs"] == 1
    environment = run("recover", path, "--json", **CREDENTIALS)
    assert environment.returncode == cli.DONE
    assert data(environment)["pushed"] is None
    assert ACCESS_KEY not in profile.stdout + environment.stdout
    assert data(run("status", path, "--json"))["connection"] == remote.to_dict()


def test_unlock_takes_the_lock_away_and_tells_whose_it_was(
    path: Path, remote: ebooklet_tx.DirectoryConnection
) -> None:
    with opened(remote, path) as db:
        db["k"] = "v"
        db.changes().push()
        refused = run_process("unlock", path)
        assert refused.returncode == cli.NEEDS_DECISION
        assert f"process {os.getpid()}" in refused.stderr
        assert "--force" in refused.stderr
        done = run_process("unlock", path, "--force", "--json")
        assert done.returncode == 0, done.stderr
        assert str(os.getpid()) in json.loads(done.stdout)["held_by"]
    again = run("unlock", path)
    assert again.stdout == "nobody held the lock\n"
