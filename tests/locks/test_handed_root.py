"""The root that one writer leaves for the next: whole and of the right remote, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from ebooklet_tx.locks import private_folder
from ebooklet_tx.locks.handed_root import FILE_NAME, SLOT_BYTES, SLOTS, HandedRoot

ONE, SAME_SLOT, OTHER = b"\x01" * 16, b"\x11" + b"\x01" * 15, b"\x02" * 16


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tmp_path.chmod(0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setattr(private_folder, "SHARED_MEMORY", tmp_path / "none")
    return tmp_path


def hand_over(remote: bytes, etag: str, root: bytes) -> None:
    place = HandedRoot(remote)
    place.hand_over(etag, root)
    place.close()


def handed(remote: bytes) -> tuple[str, bytes] | None:
    return HandedRoot(remote).handed()


def test_what_is_about_to_be_written_is_shown_once_and_not_handed() -> None:
    one, next_one = HandedRoot(ONE), HandedRoot(ONE)
    assert next_one.announced() is None
    one.announce(b"first")
    assert next_one.handed() is None
    assert HandedRoot(SAME_SLOT).announced() is None
    assert HandedRoot(ONE).announced() == b"first"
    one.announce(b"second")
    assert [next_one.announced() for _ in range(3)] == [b"second", None, None]
    one.hand_over("e", b"second")
    assert next_one.announced() is None
    assert next_one.handed() == ("e", b"second")
    one.announce(b"third")
    one.close()
    assert next_one.announced() == b"third"


def test_the_last_one_that_was_left_is_read(folder: Path) -> None:
    assert handed(ONE) is None
    hand_over(ONE, '"e1"', b"first, and longer")
    hand_over(OTHER, '"o"', b"other")
    hand_over(ONE, '"e2"', b"second")
    assert handed(ONE) == ('"e2"', b"second")
    assert handed(OTHER) == ('"o"', b"other")
    assert (folder / FILE_NAME).stat().st_mode & 0o777 == 0o600
    assert (folder / FILE_NAME).stat().st_size <= SLOTS * SLOT_BYTES


def test_of_two_remotes_in_one_slot_the_last_has_it() -> None:
    hand_over(ONE, "e", b"one")
    hand_over(SAME_SLOT, "e", b"same slot")
    assert handed(ONE) is None
    assert handed(SAME_SLOT) == ("e", b"same slot")


def test_a_root_that_does_not_fit_is_not_left() -> None:
    hand_over(ONE, "e", b"small")
    hand_over(ONE, "e2", b"x" * SLOT_BYTES)
    assert handed(ONE) == ("e", b"small")


def test_what_was_altered_or_cut_off_is_nothing(folder: Path) -> None:
    hand_over(ONE, "etag", b"the bytes of a root")
    path = folder / FILE_NAME
    whole = path.read_bytes()
    for at in range(SLOT_BYTES, len(whole), 3):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        assert handed(ONE) is None
        path.write_bytes(whole[:at])
        assert handed(ONE) is None
    path.write_bytes(whole + b"rest of a longer one")
    assert handed(ONE) == ("etag", b"the bytes of a root")


def test_without_a_folder_nothing_is_left_or_read(folder: Path) -> None:
    folder.chmod(0o777)
    hand_over(ONE, "e", b"root")
    assert handed(ONE) is None
    assert not list(folder.iterdir())


def test_a_planted_link_is_not_followed(folder: Path) -> None:
    (folder / "elsewhere").write_bytes(b"kept")
    (folder / FILE_NAME).symlink_to(folder / "elsewhere")
    hand_over(ONE, "e", b"root")
    assert handed(ONE) is None
    assert (folder / "elsewhere").read_bytes() == b"kept"
