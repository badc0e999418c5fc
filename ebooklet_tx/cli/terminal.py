"""What a terminal is given: text without control characters, and no bytes that would garble it.

The invariant: what another writer chose (a key, a message, a value) can't move the cursor, hide text or turn its
direction on a terminal. A pipe or a file gets the same text as it is.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable, Iterator
from typing import Any, BinaryIO, TextIO

import ebooklet_tx


def escaped(text: str, kept: str = "") -> str:
    """Returns a text with what is not printable as Python writes it; then backslashes are doubled, too.

    Not printable are control characters, among them those that turn the direction of text, and unusual spaces.

    Args:
        text: The text.
        kept: Characters that stay although they are not printable.
    """
    if all(character.isprintable() or character in kept for character in text):
        return text
    return "".join(one if one in kept else _escape(one) for one in text)


def _escape(character: str) -> str:
    if character.isprintable():
        return character.replace("\\", "\\\\")
    return repr(character)[1:-1]


def on_terminal(text: str, stream: TextIO | None = None, *, kept: str = "") -> str:
    """Returns a text as a stream, stdout if none is given, is to get it: escaped where that is a terminal."""
    return escaped(text, kept) if is_terminal(stream) else text


def is_terminal(stream: TextIO | None = None) -> bool:
    """Whether a stream, stdout if none is given, is a terminal."""
    try:
        return (sys.stdout if stream is None else stream).isatty()
    except ValueError:
        return False


def print_bytes(data: bytes, what: str) -> None:
    """Prints bytes as they are, on a terminal escaped and with a line's end behind them.

    Args:
        data: The bytes.
        what: Their name in messages.

    Raises:
        Error: They are no text, and stdout is a terminal.
    """
    if is_terminal():
        try:
            text = data.decode()
        except UnicodeDecodeError:
            raise ebooklet_tx.Error(
                f"{what} is {len(data):,} bytes that are no text, which a terminal can't show; send them to a "
                "file (> FILE) or to a program (| PROGRAM)"
            ) from None
        print(escaped(text, "\n\t"), end="" if text.endswith("\n") else "\n")
        return
    sys.stdout.flush()
    with _binary(sys.stdout) as binary:
        binary.write(data)


@contextlib.contextmanager
def _binary(stream: TextIO) -> Iterator[BinaryIO]:
    binary = getattr(stream, "buffer", None)
    if binary is None:
        raise ebooklet_tx.Error("stdout takes text alone, so no value can be written to it")
    yield binary
    binary.flush()


def json_line(value: Any) -> str:
    """Returns a value as JSON in one line; on a terminal with what is not printable escaped as JSON does it."""
    text = json.dumps(value, ensure_ascii=False)
    if not is_terminal() or text.isprintable():
        return text
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in text)


def print_json_list(items: Iterable[Any]) -> None:
    """Prints a JSON list, an item a line, as the items come."""
    before = "[\n"
    for item in items:
        print(before + json.dumps(item, sort_keys=True), end="")
        before = ",\n"
    print("[]" if before == "[\n" else "\n]")


def read_bytes(name: str) -> bytes:
    """Returns what is in a file, or with `-` what stdin gives until its end.

    Raises:
        InvalidArgumentError: It can't be read.
    """
    if name == "-" and sys.stdin is None:
        raise ebooklet_tx.InvalidArgumentError("stdin is closed; give the FILE that holds the value")
    try:
        if name != "-":
            with open(name, "rb") as file:  # noqa: PTH123
                return file.read()
        if is_terminal(sys.stdin):
            print("type the value; Ctrl-D in an empty line ends it", file=sys.stderr)
        return sys.stdin.buffer.read()
    except (OSError, ValueError) as error:
        what = "stdin" if name == "-" else name
        why = getattr(error, "strerror", None) or error
        raise ebooklet_tx.InvalidArgumentError(
            f"{what} can't be read: {why}; nothing was set. Give the FILE that holds the value"
        ) from error


__all__ = ["escaped", "is_terminal", "json_line", "on_terminal", "print_bytes", "print_json_list", "read_bytes"]
