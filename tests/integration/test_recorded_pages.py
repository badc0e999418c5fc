"""The recorded pages of the documents show what a terminal shows."""

from __future__ import annotations

import difflib
import os
import shutil
from pathlib import Path

import pytest

from tests.documents.page_blocks import REPOSITORY
from tests.recorded_pages import PAGES, recorded
from tests.terminal import Screen, Tmux


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_a_page_is_what_a_terminal_shows(page: Path, tmp_path: Path) -> None:
    expected = page.read_text(encoding="utf-8")
    found = recorded(expected, Path(os.path.realpath(tmp_path)))
    changes = difflib.unified_diff(expected.splitlines(), found.splitlines(), "page", "terminal", lineterm="")
    assert found == expected, "\n".join(["python -m tests.recorded_pages records it anew:", *changes])


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("tmux") is None, reason="this system has no tmux")
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_tmux_shows_the_same(page: Path, tmp_path: Path) -> None:
    expected = page.read_text(encoding="utf-8")
    folder = Path(os.path.realpath(tmp_path))
    tmux = Tmux(folder)
    try:
        found = recorded(expected, folder, tmux.shown)
    finally:
        tmux.end()
    assert without_bars(found) == without_bars(expected)


def without_bars(page: str) -> list[str]:
    """Leaves bars out: a terminal shows none of what is done at once."""
    return [line for line in page.splitlines() if "%|" not in line]


def test_the_session_shows_what_it_is_meant_to() -> None:
    text = (REPOSITORY / "docs" / "session.md").read_text(encoding="utf-8")
    for command in (
        "clone",
        "ls",
        "get",
        "put",
        "status",
        "push",
        "log",
        "snapshot",
        "diff",
        "resolve",
        "recover",
    ):
        assert f"ebooklet-tx {command} " in text
    assert "send: 100%|████" in text


def test_a_screen_shows_what_was_drawn_last() -> None:
    screen = Screen()
    screen.feed("one\r\nbar:  10%\rbar: 100%\x1b[K\r\n")
    screen.feed("long line\rlong\x1b[K\r\nlast\x1b[A\x1b[A\rbar: done")
    assert screen.text() == "one\nbar: done\nlong\nlast"
