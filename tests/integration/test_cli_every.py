"""What holds for each command of the command line, whichever there are: help, JSON, and one line when it fails.

The commands are those that the parser has, so that a new one can't be forgotten: until it has a call in `CALLS`
its tests fail.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx
from ebooklet_tx.cli import commands as cli
from ebooklet_tx.cli.help import SUBJECTS
from tests.command_line import complaint, data, run

CALLS: dict[str, list[str]] = {
    "clone": ["URL", "NEW"],
    "collect": ["PATH"],
    "compact": ["PATH"],
    "completion": ["bash"],
    "discard": ["PATH", "--all"],
    "diff": ["PATH"],
    "get": ["PATH", "k"],
    "log": ["PATH"],
    "ls": ["PATH", "-l"],
    "prune": ["PATH"],
    "pull": ["PATH"],
    "push": ["PATH"],
    "put": ["PATH", "new"],
    "recover": ["PATH"],
    "resolve": ["PATH"],
    "rm": ["PATH", "k"],
    "snapshot create": ["PATH", "tuesday"],
    "snapshot delete": ["PATH", "monday"],
    "snapshot list": ["PATH"],
    "snapshot restore": ["PATH", "monday"],
    "stats": ["PATH"],
    "status": ["PATH"],
    "unlock": ["PATH"],
    "verify": ["PATH"],
}
"""A call of each command that is done; PATH, NEW and URL stand for a database, a path where nothing is, and its
remote."""

ELSEWHERE = {
    "demo": "tests/integration/test_demo.py",
    "import-ebooklet": "tests/importing/test_command.py",
}
"""Commands whose calls take long, and where their JSON is tested."""


def commands(parser: argparse.ArgumentParser, before: str = "") -> Iterator[tuple[str, argparse.ArgumentParser]]:
    """Yields each command that does something, by the words that call it."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield before.strip(), parser
    for group in groups:
        for name, command in group.choices.items():
            yield from commands(command, f"{before}{name} ")


PARSERS = dict(commands(cli._parser()))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a database is that was pushed and has a snapshot."""
    with ebooklet_tx.open(f"file://{tmp_path}/remote/db", tmp_path / "db.blt", "c", "orjson", lock=None) as db:
        db["k"] = 1
        db.changes().push()
        db.snapshot("monday")
    return tmp_path


def arguments(name: str, folder: Path, path: str = "db.blt") -> list[str]:
    places = {
        "PATH": str(folder / path),
        "NEW": str(folder / "new.blt"),
        "URL": f"file://{folder}/remote/{'db' if path == 'db.blt' else 'none'}",
    }
    return [*name.split(), *(places.get(word, word) for word in CALLS[name])]


def test_each_command_is_called() -> None:
    assert {*CALLS, *ELSEWHERE} == set(PARSERS)


def test_help_lists_each_command_under_a_subject() -> None:
    assert {name.split()[0] for name in PARSERS} == {name for names in SUBJECTS.values() for name in names}
    listed = run("--help").stdout
    for subject, names in SUBJECTS.items():
        assert f"\n  {subject}:\n    {names[0]}" in listed


@pytest.mark.parametrize("name", PARSERS)
class TestEachCommand:
    def test_help(self, name: str) -> None:
        asked = run(*name.split(), "--help", COLUMNS="80")
        assert (asked.returncode, asked.stderr) == (cli.DONE, "")
        assert asked.stdout.startswith(f"usage: ebooklet-tx {name} ")
        assert f"\nexample:\n  ebooklet-tx {name} " in asked.stdout
        assert "exit codes:" in asked.stdout
        described = asked.stdout.partition("\n\n")[2].partition("\n\n")[0]
        assert described.startswith(described[0].upper())
        assert max(map(len, asked.stdout.splitlines())) <= 80
        for action in PARSERS[name]._actions:
            assert action.help, f"{action.dest} says nothing"

    def test_the_example_is_one_that_the_parser_takes(self, name: str) -> None:
        text = run(*name.split(), "--help").stdout
        lines = text.partition("\nexample:\n")[2].partition("\n\n")[0].splitlines()
        for line in lines:
            words = shlex.split(line.strip().rpartition(" | ")[2].partition(" > ")[0])
            assert words[0] == "ebooklet-tx"
            assert cli._parser().parse_args(words[1:]).command

    def test_json(self, name: str, folder: Path) -> None:
        if name in ELSEWHERE:
            assert "--json" in Path(ELSEWHERE[name]).read_text()
            return
        if name == "completion":
            pytest.importorskip("shtab")
        done = run(*arguments(name, folder), "--json", given=b"1")
        assert done.returncode == cli.DONE, done.stderr
        assert isinstance(data(done), dict | list)

    def test_what_is_not_there_is_told_in_one_line(self, name: str, folder: Path) -> None:
        if name in ELSEWHERE or name == "completion":
            return
        failed = run(*arguments(name, folder, "none.blt"), given=b"1")
        assert failed.returncode == cli.FAILED
        assert "none" in complaint(failed)
        assert not (folder / "none.blt").exists()
        assert not (folder / "new.blt").exists()

    def test_whatever_goes_wrong_is_told_in_one_line(
        self, name: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def failing(options: argparse.Namespace) -> int:
            raise ArithmeticError("out of\nnumbers")

        parser = cli._parser()
        dict(commands(parser))[name].set_defaults(command=failing)
        monkeypatch.setattr(cli, "_parser", lambda: parser)
        call = arguments(name, folder) if name in CALLS else [name, *["x"] * (2 if "import" in name else 0)]
        failed = run(*call)
        assert failed.returncode == cli.FAILED
        assert complaint(failed) == "ebooklet_tx: ArithmeticError: out of numbers\n"
        traced: Any = run(*call, "--debug")
        assert traced.stderr.startswith("Traceback")
