"""A session that is dropped unclosed commits on this machine what was written, or says what is lost."""

from __future__ import annotations

import gc
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from tests.pairs import Bench, pending

PROGRAM = """
import os, runpy, sys
from tests.modules import load_all
# Once for all of them.
load_all()
for folder in sys.argv[1:]:
    if os.fork() == 0:
        os.dup2(os.open(f"{folder}/stderr", os.O_WRONLY | os.O_CREAT), 2)
        runpy.run_path(f"{folder}/program.py", run_name="__main__")
        sys.exit()
for folder in sys.argv[1:]:
    os.wait()
"""
BEGINNING = """
import sys
import ebooklet_tx
folder = __file__.rpartition("/")[0]
once = ebooklet_tx.RetryPolicy(attempts=1)
db = sys.db = ebooklet_tx.open(f"file://{folder}/remote/db", f"{folder}/a.blt", "c", n_buckets=17, retry=once)
db["first"] = b"1"
db["second"] = b"2"
"""
SEVERAL = """
sys.others = [
    ebooklet_tx.open(f"file://{folder}/remote/db", f"{folder}/{name}", "c", n_buckets=17, retry=once, lock=None)
    for name in ("b.blt", "c.blt")
]
for other in sys.others:
    other["first"] = b"1"
"""
ENDS_OF_SEVERAL = ("interrupted", "warnings")
ENDS = {
    "end": "",
    "exception": "raise RuntimeError('not handled')",
    "exit": "sys.exit(3)",
    "interrupt": "raise KeyboardInterrupt",
    "transaction": """
# The module's names go before the program ends, and a block that is let go is rolled back.
sys.block = db.transaction()
sys.block.__enter__()
db["third"] = b"3"
""",
    "thread": """
import threading
inside = threading.Event()
def work():
    with db.transaction():
        db["third"] = b"3"
        inside.set()
        threading.Event().wait()
import ebooklet_tx.database.life
ebooklet_tx.database.life.DROPPED_WAIT_SECONDS = 0.1
threading.Thread(target=work, daemon=True).start()
inside.wait()
""",
    "child": """
import os, warnings
# Of the thread that the session has.
warnings.simplefilter("ignore", DeprecationWarning)
child = os.fork()
if child:
    os.waitpid(child, 0)
    os._exit(0)
""",
    "warnings": """
import warnings
warnings.simplefilter("error")
""",
    "interrupted": """
def interrupt(calls=[]):
    calls.append(1)
    if len(calls) == 1:
        raise KeyboardInterrupt
db._ending.add(interrupt)
for other in sys.others:
    other._ending.add(interrupt)
""",
    "failing": """
import os
def refuse(*_, **__):
    raise OSError(28, "No space left on device")
os.pwrite = os.fsync = refuse
import ebooklet_tx.local.local_store
ebooklet_tx.local.local_store.stage = refuse
""",
}


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Bench, str]]:
    """Programs that end without closing, each with its database and what it wrote to stderr."""
    benches = {name: Bench(tmp_path_factory.mktemp(name)) for name in ENDS}
    for name, bench in benches.items():
        (bench.folder / "program.py").write_text(BEGINNING + SEVERAL * (name in ENDS_OF_SEVERAL) + ENDS[name])
    folders = [bench.folder for bench in benches.values()]
    root = Path(__file__).resolve().parents[2]
    subprocess.run([sys.executable, "-c", PROGRAM, *folders], check=True, timeout=60, cwd=root)
    return {name: (bench, (bench.folder / "stderr").read_text()) for name, bench in benches.items()}


@pytest.mark.parametrize("name", ["end", "exception", "exit", "interrupt"])
def test_what_was_written_is_there_and_not_pushed(ended: dict[str, tuple[Bench, str]], name: str) -> None:
    bench, errors = ended[name]
    assert ("Traceback" in errors) is (name in ("exception", "interrupt"))
    assert "lost" not in errors
    assert not bench.root.exists()
    with bench.open(flag="c", lock="exclusive", lock_timeout=0.0) as db:
        assert dict(db) == {"first": b"1", "second": b"2"}
        assert pending(db) == {"first": "set", "second": "set"}


@pytest.mark.parametrize("name", ENDS_OF_SEVERAL)
def test_each_of_several_is_ended_whatever_comes_of_the_end_of_one(
    ended: dict[str, tuple[Bench, str]], name: str
) -> None:
    bench, errors = ended[name]
    assert "Traceback" in errors
    assert "lost" not in errors
    for each in "abc":
        with bench.open(each, "c", lock_timeout=0.0) as db:
            assert db["first"] == b"1"


@pytest.mark.parametrize(
    ("name", "words"), [("transaction", "inside a transaction"), ("thread", "another thread")]
)
def test_an_open_transaction_is_dropped_as_a_whole_and_counted(
    ended: dict[str, tuple[Bench, str]], name: str, words: str
) -> None:
    bench, errors = ended[name]
    assert words in errors
    assert "1 write that was not committed is lost" in errors
    with bench.open(flag="c") as db:
        assert dict(db) == {"first": b"1", "second": b"2"}


def test_a_child_commits_nothing_of_its_parent(ended: dict[str, tuple[Bench, str]]) -> None:
    bench, errors = ended["child"]
    assert errors == ""
    with bench.open(flag="c") as db:
        assert dict(db) == {}


def test_writes_that_cannot_be_committed_are_counted(ended: dict[str, tuple[Bench, str]]) -> None:
    _, errors = ended["failing"]
    assert "2 writes that were not committed are lost" in errors
    assert "No space left" in errors
    assert "Traceback" not in errors


def test_a_session_that_is_garbage_keeps_what_was_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    db = bench.open(lock="exclusive")
    db["k"] = b"v"
    held = [db]
    del db
    with pytest.warns(ResourceWarning, match="was not closed"):
        held.clear()
    with bench.open(flag="c", lock="exclusive", lock_timeout=0.0) as again:
        assert again["k"] == b"v"
        assert pending(again) == {"k": "set"}


def test_a_session_that_was_closed_is_dropped_in_silence(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    db = Bench(tmp_path).open()
    db.close()
    with caplog.at_level(logging.WARNING, "ebooklet_tx"):
        del db
        gc.collect()
    assert caplog.records == []
