"""The house keeps its limits: sizes, where SQL stands, who takes a session, and words.

Each limit is a ratchet. `TODAY` and the like hold what is there now, and a change may lower it alone; `TARGET`
says where it ends. A number that has fallen is lowered here in the same change.
"""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.documents.page_blocks import REPOSITORY

PACKAGE = REPOSITORY / "ebooklet_tx"

MODULES_IN_A_FOLDER_TARGET = 18
MODULES_IN_A_FOLDER_TODAY: dict[str, int] = {}
"""Folders that still hold more modules than the target, and how many."""

FILE_LINES_TARGET = 400
WHY_SO_LONG = re.compile(r"\bone file\b", re.IGNORECASE)
"""What the docstring of a longer module has: "One file although long, because ..."."""
LONG_FILES_TODAY: frozenset[str] = frozenset({})

SESSION_FUNCTIONS_TARGET = 30
SESSION_FUNCTIONS_TODAY = 30

MUTEX_BLOCKS_TARGET = 25
MUTEX_BLOCKS_TODAY = 25

SQL_TODAY: dict[str, int] = {}
"""Modules outside the rooms of SQL that still hold statements, and how many; none is the target."""

WORDS_TODAY: dict[str, int] = {
    "anybody": 1,
    "gone on with": 1,
    "somebody": 4,
    "take_in": 3,
    "they say": 1,
    "whoever": 8,
}
WORDS_GONE = ("crowded", "find_out", "him", "his", "stand_firm", "to be stood on", "wait_a_little", "what lacks")

_STATEMENT = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|PRAGMA|ATTACH|DETACH|REPLACE|DROP|ALTER)\b")


@cache
def modules() -> dict[str, ast.Module]:
    """Returns the syntax tree of each module of the package by its path below it."""
    return {
        path.relative_to(PACKAGE).as_posix(): ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }


def session_functions(module: ast.AST) -> int:
    """Returns how many functions take a whole session, under whatever name."""
    return sum(
        any(
            argument.annotation is not None
            and re.search(r"(?<![\w.])Session\b", ast.unparse(argument.annotation))
            for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
        )
        for node in ast.walk(module)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )


def mutex_blocks(module: ast.AST) -> int:
    """Returns how many `with` statements take the mutex of a session's journal, or the one of its pushes."""
    return sum(
        any(ast.unparse(item.context_expr).endswith((".mutex", "push_mutex")) for item in node.items)
        for node in ast.walk(module)
        if isinstance(node, ast.With)
    )


def statements(module: ast.AST) -> int:
    """Returns how many texts begin as a statement of SQL does; docstrings aside, in capitals they have none."""
    return sum(1 for _ in _sql(module))


def _sql(module: ast.AST) -> Iterator[str]:
    pieces = {id(piece) for node in ast.walk(module) if isinstance(node, ast.JoinedStr) for piece in node.values}
    for node in ast.walk(module):
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(piece.value) for piece in node.values if isinstance(piece, ast.Constant))
            if node.values and not isinstance(node.values[0], ast.Constant):
                continue
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in pieces:
            text = node.value
        else:
            continue
        if _STATEMENT.match(text):
            yield text


def is_room_of_sql(name: str) -> bool:
    """Tells whether SQL may stand in a module: the local room and the codec of the first format."""
    return name.startswith("local/") or re.fullmatch(r"formats/segment\w*\.py", name) is not None


def test_no_folder_is_crammed() -> None:
    found = Counter(
        Path(name).parent.as_posix()
        for name in modules()
        if Path(name).name not in ("__init__.py", "__main__.py")
    )
    over = {folder: count for folder, count in found.items() if count > MODULES_IN_A_FOLDER_TARGET}
    assert_no_more(over, MODULES_IN_A_FOLDER_TODAY)


def test_long_files_say_why() -> None:
    over = set()
    for name, module in modules().items():
        lines = len((PACKAGE / name).read_text(encoding="utf-8").splitlines())
        if lines > FILE_LINES_TARGET and not WHY_SO_LONG.search(ast.get_docstring(module) or ""):
            over.add(name)
    assert over <= LONG_FILES_TODAY


def test_few_functions_take_a_session() -> None:
    found = {name: session_functions(module) for name, module in modules().items()}
    assert SESSION_FUNCTIONS_TODAY >= SESSION_FUNCTIONS_TARGET
    assert sum(found.values()) <= SESSION_FUNCTIONS_TODAY, {name: count for name, count in found.items() if count}


def test_few_blocks_outside_the_local_room_take_a_mutex() -> None:
    found = {name: mutex_blocks(module) for name, module in modules().items() if not name.startswith("local/")}
    assert MUTEX_BLOCKS_TODAY >= MUTEX_BLOCKS_TARGET
    assert sum(found.values()) <= MUTEX_BLOCKS_TODAY, {name: count for name, count in found.items() if count}


def test_sql_stands_in_its_rooms() -> None:
    found = {name: statements(module) for name, module in modules().items() if not is_room_of_sql(name)}
    assert_no_more({name: count for name, count in found.items() if count}, SQL_TODAY)


def test_no_placeholder_has_a_number() -> None:
    # sqlite3 of Python 3.12 takes one for a name, and warns where it gets a sequence.
    numbered = re.compile(r"\?[0-9]")
    found = {name for name, module in modules().items() if any(map(numbered.search, _sql(module)))}
    assert found == set()


def test_words_that_readers_stumble_over_become_fewer() -> None:
    found: Counter[str] = Counter()
    for name in modules():
        text = " ".join((PACKAGE / name).read_text(encoding="utf-8").split())
        for word in (*WORDS_TODAY, *WORDS_GONE):
            # A name may have a word as a part, between underscores.
            found[word] += len(re.findall(rf"(?<![A-Za-z]){word}(?![A-Za-z])", text, re.IGNORECASE))
    assert_no_more({word: count for word, count in found.items() if count}, WORDS_TODAY)


def assert_no_more(found: dict[str, int], today: dict[str, int]) -> None:
    """Names what is new or has grown."""
    assert {name: count for name, count in found.items() if count > today.get(name, 0)} == {}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(session: Session): ...", 1),
        ("def f(*, a: 'Session | None', b: Session): ...", 1),
        ("def f(session: SessionClosedError): ...", 0),
        ("class A:\n    def f(self, x: Session): ...\n    def g(self): ...", 1),
    ],
)
def test_functions_are_counted(source: str, expected: int) -> None:
    assert session_functions(ast.parse(source)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("with session.mutex: pass", 1),
        ("with self._push_mutex, journal.transaction() as c: pass", 1),
        ("with journal.transaction() as c: pass", 0),
    ],
)
def test_blocks_are_counted(source: str, expected: int) -> None:
    assert mutex_blocks(ast.parse(source)) == expected


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("run('SELECT 1')", 1),
        ("run(f'DELETE FROM {table} WHERE a = {b}')", 1),
        ("run('''\n  WITH a AS (SELECT 1) SELECT * FROM a''')", 1),
        ("'Selects what is there.'", 0),
        ("f'{a} SELECT'", 0),
    ],
)
def test_statements_are_counted(source: str, expected: int) -> None:
    assert statements(ast.parse(source)) == expected


def test_examples_stand_in_a_section_that_the_reference_shows_as_code() -> None:
    """A section `Example:` is none of Google's style: its prompts would be shown as quotations."""
    found = [name for name in modules() if re.search(r"^ +Example:$", (PACKAGE / name).read_text(), re.MULTILINE)]
    assert found == []
