"""Looking into a database and changing it from a shell: clone, ls, get, put, rm."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx import testing
from ebooklet_tx.cli import shared as cli
from ebooklet_tx.cli.terminal import escaped
from tests.command_line import complaint, data, run


def url(folder: Path) -> str:
    return f"file://{folder}/remote/db"


def make(folder: Path, values: dict[str, Any], serializer: Any = "orjson", name: str = "a.blt") -> Path:
    """A database that was pushed."""
    path = folder / name
    with ebooklet_tx.open(url(folder), path, "c", value_serializer=serializer, lock=None) as db:
        db.update(values)
        db.changes().push()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return make(tmp_path, {"ashburton": {"lat": -43.9}, "rakaia": {"lat": -43.7}, "river/selwyn": [1, None]})


def test_a_value_of_another_encoding_is_no_damage(tmp_path: Path) -> None:
    path = make(tmp_path, {"a": 1})
    with ebooklet_tx.open(url(tmp_path), path, "w", lock=None) as db:
        db.set("b", b"\xff{", None, False)
    refused = run("get", path, "b")
    assert refused.returncode == cli.FAILED
    assert "is intact" in complaint(refused)
    assert "--raw shows its bytes" in complaint(refused)


# -- clone -------------------------------------------------------------------------------------


def test_a_clone_remembers_its_remote_and_fetches_on_demand(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.blt"
    cloned = run("clone", url(tmp_path), copy)
    assert (cloned.returncode, cloned.stdout, cloned.stderr) == (
        cli.DONE,
        f"{copy} is a copy of commit 1: 3 keys\n",
        "",
    )
    assert data(run("status", copy, "--json"))["remote"] == url(tmp_path)
    assert run("get", copy, "rakaia").stdout == '{"lat": -43.7}\n'
    states = {row["key"]: row["state"] for row in data(run("ls", copy, "-l", "--json"))}
    assert states == {"ashburton": "remote", "rakaia": "here", "river/selwyn": "remote"}


def test_a_loaded_clone_needs_no_remote(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.blt"
    assert data(run("clone", url(tmp_path), copy, "--load", "--json")) == {
        "failures": {},
        "file": str(copy),
        "keys": 3,
        "seq": 1,
    }
    (tmp_path / "remote").rename(tmp_path / "gone")
    assert run("get", copy, "ashburton", "--offline").stdout == '{"lat": -43.9}\n'
    assert run("ls", copy, "--offline").stdout.splitlines() == ["ashburton", "rakaia", "river/selwyn"]


def test_a_clone_is_named_for_its_remote_and_replaces_nothing(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("clone", url(tmp_path)).stdout == "db.blt is a copy of commit 1: 3 keys\n"
    again = run("clone", url(tmp_path))
    assert again.returncode == cli.FAILED
    assert "is there already" in complaint(again)
    missing = run("clone", f"{url(tmp_path)}-none", "none.blt")
    assert missing.returncode == cli.FAILED
    assert "there is no database" in complaint(missing)
    assert not Path("none.blt").exists()


# -- ls ----------------------------------------------------------------------------------------


def test_ls_prints_bare_keys(path: Path) -> None:
    assert run("ls", path).stdout == "ashburton\nrakaia\nriver/selwyn\n"
    assert run("ls", path, "r").stdout == "rakaia\nriver/selwyn\n"
    assert run("ls", path, "zzz").stdout == ""
    assert run("ls", path, "-0").stdout == "ashburton\0rakaia\0river/selwyn\0"
    assert data(run("ls", path, "zzz", "--json")) == []
    assert data(run("ls", path, "river/", "--json")) == [{"key": "river/selwyn"}]


def test_ls_with_facts(path: Path) -> None:
    run("put", path, "rakaia", given=b"17")
    lines = run("ls", path, "-l").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["13", "2", "8"]
    assert [line.split()[-2:] for line in lines] == [
        ["here", "ashburton"],
        ["pending", "rakaia"],
        ["here", "river/selwyn"],
    ]


def test_ls_reads_no_more_of_the_index_than_it_shows(tmp_path: Path) -> None:
    make(tmp_path, {f"key{number:06}": number for number in range(8_000)})
    copy = tmp_path / "copy.blt"
    with ebooklet_tx.open(url(tmp_path), copy) as db:
        assert db["key000001"] == 1
    with testing.wrapped_stores(testing.CountingStore) as counted:
        assert run("ls", copy, "key00100").stdout.count("\n") == 10
    assert sum(store.bytes_down for store in counted) < 60_000


def test_odd_keys_on_a_terminal_and_in_a_pipe(tmp_path: Path) -> None:
    odd = "a\x1b[2J\u202e\nb"
    path = make(tmp_path, {odd: 1, "back\\slash": 2})
    assert run("ls", path).stdout == f"{odd}\nback\\slash\n"
    assert run("ls", path, terminal=True).stdout == "a\\x1b[2J\\u202e\\nb\nback\\slash\n"
    assert run("ls", path, "-l", terminal=True).stdout.splitlines()[0].endswith("  a\\x1b[2J\\u202e\\nb")
    refused = run("get", path, f"{odd}!", terminal=True)
    assert "\x1b" not in refused.stderr
    assert "\u202e" not in refused.stderr


def test_what_is_escaped() -> None:
    assert escaped("plain é 水 \\") == "plain é 水 \\"
    assert escaped("\\\x07'\"") == "\\\\\\x07'\""
    assert escaped("a\tb\nc\x9b", "\t\n") == "a\tb\nc\\x9b"


def test_a_reader_that_has_seen_enough(tmp_path: Path) -> None:
    path = make(tmp_path, {f"key{number:06}": number for number in range(8_000)})
    command = [sys.executable, "-m", "ebooklet_tx", "ls", str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        assert child.stdout.readline() == "key000000\n"
        child.stdout.close()
        assert child.stderr.read() == ""


# -- get and put -------------------------------------------------------------------------------

FORMS = {
    None: (b"\x00\xff", b"new\n"),
    "bytes": (b"\x00\xff", b"new"),
    "str": ("é\n", b"text without an end"),
    "zstd": (b"bytes", b"more bytes"),
    "json": ({"a": [1, None, "é"]}, b'{"b": NaN}'),
    "orjson": ({"a": [1, None, "é"]}, b'["x"]'),
    "orjson_zstd": ([True], b"2.5"),
    "uint2": (65_535, b"7"),
    "int8": (-1, b"-7"),
}


@pytest.mark.parametrize("serializer", FORMS)
def test_what_get_prints_put_takes(tmp_path: Path, serializer: str | None) -> None:
    if serializer is not None and "zstd" in serializer:
        pytest.importorskip("zstandard")
    value, text = FORMS[serializer]
    path = make(tmp_path, {"k": value}, serializer)
    printed = run("get", path, "k").stdout.encode(errors="surrogateescape")
    if serializer in (None, "bytes", "zstd"):
        assert printed == value
    assert run("put", path, "copy", given=printed).returncode == cli.DONE
    assert run("put", path, "new", given=text).returncode == cli.DONE
    raw = run("get", path, "k", "--raw").stdout.encode(errors="surrogateescape")
    assert run("put", path, "raw", "--raw", given=raw).returncode == cli.DONE
    with ebooklet_tx.open(url(tmp_path), path, offline=True) as db:
        assert db["copy"] == db["raw"] == value
        assert db["new"] is not None
    shown = run("get", path, "new").stdout.encode(errors="surrogateescape")
    assert shown.rstrip(b"\n") == text.rstrip(b"\n")


def test_a_value_from_a_file_and_what_is_said(path: Path, tmp_path: Path) -> None:
    source = tmp_path / "value.json"
    source.write_text('{"lat": 1}\n')
    done = run("put", path, "new", source)
    assert (done.returncode, done.stdout, done.stderr) == (cli.DONE, "set new (9 bytes), to be pushed\n", "")
    assert data(run("put", path, "newer", "-", "--json", given=b"5")) == {"bytes": 1, "key": "newer"}
    assert run("put", path, "ashburton", given=b"1").returncode == cli.DONE
    status = data(run("status", path, "--json"))
    assert (status["pending_sets"], status["base_seq"], status["keys"]) == (3, 1, 5)
    told = data(run("get", path, "new", "--json"))
    assert (told["value"], told["form"], told["serializer"], told["bytes"]) == ({"lat": 1}, "json", "orjson", 9)
    assert run("push", path).stdout == "pushed commit 2: 3 sets, 0 deletes\n"


def test_put_sends_nothing(path: Path, tmp_path: Path) -> None:
    (tmp_path / "remote").rename(tmp_path / "gone")
    assert run("put", path, "new", given=b"1").returncode == cli.DONE
    assert run("rm", path, "ashburton").returncode == cli.DONE
    assert run("get", path, "new", "--offline").stdout == "1\n"


def test_put_on_a_terminal_says_how_it_ends(path: Path) -> None:
    typed = run("put", path, "new", given=b"1", terminal=True)
    assert "Ctrl-D" in typed.stderr


@pytest.mark.parametrize(
    ("serializer", "value", "arguments", "given", "said"),
    [
        ("orjson", 1, [], b"no json", "is no JSON"),
        ("orjson", 1, [], b"\xff", "no UTF-8 text"),
        ("orjson", 1, ["--raw"], b"no json", "no bytes that the serializer"),
        ("uint1", 1, [], b"300", "can't be encoded"),
        ("pickle", 1, [], b"1", "--allow-pickle"),
        ("wkb", None, [], b"1", "has no text form"),
    ],
)
def test_what_put_refuses(
    tmp_path: Path, serializer: str, value: Any, arguments: list[str], given: bytes, said: str
) -> None:
    path = make(tmp_path, {} if value is None else {"k": value}, serializer)
    refused = run("put", path, "new", *arguments, given=given)
    assert refused.returncode == cli.FAILED
    assert said in complaint(refused)
    assert data(run("status", path, "--json"))["pending_sets"] == 0


def test_wrong_keys_are_refused(path: Path) -> None:
    missing = run("get", path, "nothing")
    assert missing.returncode == cli.FAILED
    assert f"there is no key 'nothing' in {path}" in complaint(missing)
    assert run("put", path, "", given=b"1").returncode == cli.FAILED
    assert run("put", path, "k", path.parent / "no such file").returncode == cli.FAILED


def test_bytes_for_a_terminal(tmp_path: Path) -> None:
    path = make(tmp_path, {"b": b"\xff\x00", "t": b"line\n\x1b[1m"}, None)
    refused = run("get", path, "b", terminal=True)
    assert refused.returncode == cli.FAILED
    assert "> FILE" in complaint(refused)
    assert run("get", path, "t", terminal=True).stdout == "line\n\\x1b[1m\n"
    assert run("get", path, "t").stdout == "line\n\x1b[1m"
    told = data(run("get", path, "b", "--json"))
    assert (told["form"], base64.b64decode(told["value"])) == ("bytes", b"\xff\x00")


def test_json_for_a_terminal(tmp_path: Path) -> None:
    path = make(tmp_path, {"k": "é\u202e\x9b"})
    assert run("get", path, "k").stdout == '"é\u202e\x9b"\n'
    assert run("get", path, "k", terminal=True).stdout == '"é\\u202e\\u009b"\n'


class Marked:
    """A pickle of it writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


def test_no_pickle_is_loaded_unless_it_is_allowed(tmp_path: Path) -> None:
    trap = tmp_path / "trap"
    make(tmp_path, {"trap": Marked(trap), "plain": {"a": (1, 2)}, "odd": {1, 2}}, "pickle")
    path = tmp_path / "copy.blt"
    assert run("clone", url(tmp_path), path, "--load").returncode == cli.DONE
    for arguments in (["get", path, "trap"], ["get", path, "trap", "--json"]):
        refused = run(*arguments)
        assert refused.returncode == cli.FAILED
        assert "--allow-pickle" in complaint(refused)
    assert run("ls", path, "-l").stdout.count("\n") == 3
    assert run("get", path, "trap", "--raw").stdout.encode(errors="surrogateescape").startswith(b"\x80")
    assert not trap.exists()
    assert run("get", path, "plain", "--allow-pickle").stdout == '{"a": [1, 2]}\n'
    assert run("get", path, "odd", "--allow-pickle").stdout == "{1, 2}\n"
    assert run("put", path, "new", "--allow-pickle", given=b"[1]").returncode == cli.DONE
    assert run("get", path, "new", "--allow-pickle").stdout == "[1]\n"


class Upper:
    @staticmethod
    def dumps(value: str) -> bytes:
        return value.upper().encode()

    @staticmethod
    def loads(encoded: bytes) -> str:
        raise AssertionError(encoded)


def test_a_serializer_of_the_users_own(tmp_path: Path) -> None:
    path = make(tmp_path, {"k": "v"}, Upper)
    copy = tmp_path / "copy.blt"
    assert run("clone", url(tmp_path), copy).returncode == cli.DONE
    assert run("ls", copy).stdout == "k\n"
    assert run("get", copy, "k", "--raw").stdout == "V"
    refused = run("get", copy, "k")
    assert "--raw shows the encoded bytes" in complaint(refused)
    assert run("put", path, "new", "--raw", given=b"N").returncode == cli.DONE
    assert run("push", path).returncode == cli.DONE


# -- rm ----------------------------------------------------------------------------------------


def test_rm_deletes_all_or_none(path: Path) -> None:
    refused = run("rm", path, "ashburton", "nothing")
    assert refused.returncode == cli.FAILED
    assert "there is no key 'nothing'" in complaint(refused)
    assert data(run("status", path, "--json"))["pending_deletes"] == 0
    done = run("rm", path, "ashburton", "rakaia", "rakaia")
    assert done.stdout == "deleted ashburton, to be pushed\ndeleted rakaia, to be pushed\n"
    assert data(run("rm", path, "river/selwyn", "--json")) == {"deleted": ["river/selwyn"]}
    assert run("ls", path).stdout == ""
    assert run("push", path).stdout == "pushed commit 2: 0 sets, 3 deletes\n"


def test_rm_asks_the_remote_for_keys_that_are_not_here(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.blt"
    run("clone", url(tmp_path), copy)
    assert run("rm", copy, "rakaia").returncode == cli.DONE
    assert run("diff", copy).stdout == "- rakaia\n"


# -- what is remembered ------------------------------------------------------------------------


def test_a_remote_is_named_for_one_command_alone(path: Path, tmp_path: Path) -> None:
    with ebooklet_tx.open(url(tmp_path), path, "w") as db:
        db.copy_remote(f"{url(tmp_path)}-mirror")
    run("put", path, "new", given=b"1")
    pushed = run("push", path, "--remote", f"{url(tmp_path)}-mirror")
    assert pushed.returncode == cli.DONE
    for arguments in (["recover", path], ["pull", path], ["ls", path], ["snapshot", "list", path]):
        assert run(*arguments, "--remote", f"{url(tmp_path)}-mirror").returncode == cli.DONE
    assert data(run("status", path, "--json"))["remote"] == url(tmp_path)


def test_what_is_said_of_an_s3_address(path: Path) -> None:
    refused = run("push", path, "--remote", "s3://bucket/key", "--endpoint-url", "no address")
    assert refused.returncode == cli.FAILED
    assert "endpoint" in complaint(refused)


@pytest.mark.parametrize("command", ["push", "pull", "ls", "rm", "put", "get", "diff"])
def test_no_command_makes_a_file_by_the_way(command: str, path: Path, tmp_path: Path) -> None:
    missing = tmp_path / "missing.blt"
    more = ["k"] if command in ("rm", "put", "get") else []
    failed = run(command, missing, *more, "--remote", url(tmp_path), given=b"1")
    assert failed.returncode == cli.FAILED
    assert "clone" in complaint(failed)
    assert not missing.exists()


def test_out_of_reach_what_is_here_is_shown(path: Path, tmp_path: Path) -> None:
    run("ls", path)
    (tmp_path / "remote").rename(tmp_path / "gone")
    assert run("get", path, "rakaia", "--offline").stdout == '{"lat": -43.7}\n'
