"""The input of the demonstration: the source of Python's own standard library, path -> text.

Changes nothing: the files are only read.
"""

from __future__ import annotations

import sysconfig
import tokenize
from collections.abc import Mapping
from pathlib import Path

from ebooklet_tx.errors import InvalidArgumentError

CHANGED_COUNT = 50
PACKED_VALUE_BYTES = 4 * 1024
"""A value longer than this never rides in the index, so its push has a pack to resume."""


def read_sources(limit: int | None = None) -> tuple[dict[str, str], int]:
    """Reads the standard library's source files.

    Args:
        limit: How many to take at most, spread evenly; None for all.

    Returns:
        Texts by path below the library's folder, and how many files are no text.
    """
    library = Path(sysconfig.get_path("stdlib"))
    installed = {"site-packages", "dist-packages", "__pycache__"}
    paths = sorted(path for path in library.rglob("*.py") if installed.isdisjoint(path.parts))
    if limit is not None and limit < len(paths):
        paths = [paths[number * len(paths) // limit] for number in range(limit)]
    texts: dict[str, str] = {}
    skipped = 0
    for path in paths:
        try:
            with path.open("rb") as source:
                encoding, _ = tokenize.detect_encoding(source.readline)
            texts[path.relative_to(library).as_posix()] = path.read_bytes().decode(encoding)
        except (SyntaxError, UnicodeDecodeError):
            # The library's tests hold files that are wrong on purpose.
            skipped += 1
    if not texts:
        raise InvalidArgumentError(f"there are no source files in {library}; this Python comes without them")
    return texts, skipped


def changed_texts(texts: Mapping[str, str]) -> dict[str, str]:
    """Returns new versions of up to 50 texts, spread evenly over those that are long enough for a pack."""
    keys = sorted(key for key, text in texts.items() if len(text) > PACKED_VALUE_BYTES) or sorted(texts)
    count = min(CHANGED_COUNT, len(keys))
    chosen = [keys[number * len(keys) // count] for number in range(count)]
    return {key: f"{texts[key]}\n# changed by the demo of ebooklet_tx\n" for key in chosen}
