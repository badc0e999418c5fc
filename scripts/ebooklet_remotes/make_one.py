"""Makes one remote with ebooklet itself; runs in an environment that has that ebooklet and not this package.

    python make_one.py ENDPOINT BUCKET KEY LAYOUT FOLDER [COUNT SIZE]

LAYOUT is `one`, of 0.5.4, or `per_key` or `grouped`, of 0.11.1. Without COUNT and SIZE it makes the small remote
that the tests read: forty keys pushed twice, some of them changed or deleted in between. With them it makes
COUNT keys of SIZE pseudo-random bytes, whose text depends on the number alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import ebooklet
import s3func.s3
from large_values import FIRST_US, large_values

GROUP_BYTES = 1500
"""Of the small grouped remote, so that it has several groups."""


def main(endpoint: str, bucket: str, key: str, layout: str, folder: str, *amounts: str) -> None:
    """Makes the remote."""
    if layout == "one":
        # The lock of that time wants a store that tells the time in the names of versions; nobody else is here.
        s3func.s3.S3Lock.aquire = s3func.s3.S3Lock.release = lambda *_: True
    connection = ebooklet.S3Connection("test-key", "test-secret-key", key, bucket, endpoint_url=endpoint)
    options: dict[str, Any] = {"value_serializer": "bytes" if amounts else "orjson"}
    if layout != "one":
        options["group_bytes"] = None if layout == "per_key" else GROUP_BYTES
    if amounts and layout == "grouped":
        del options["group_bytes"]
    path = Path(folder) / f"{layout}.blt"
    if amounts:
        _push(connection, path, options, dict(large_values(*map(int, amounts))))
    else:
        _push(connection, path, options, first())
        # 0.5.4 can't open a file that it has pushed.
        path = path if layout != "one" else path.with_name("second.blt")
        changes = second()
        if layout == "one":
            # Nor does it get a deletion through to the remote.
            changes = {key: change for key, change in changes.items() if change is not None}
        _push(connection, path, options, changes)


def _push(
    connection: Any, path: Path, options: dict[str, Any], changes: dict[str, tuple[int, Any] | None]
) -> None:
    opener = ebooklet.open_ebooklet if hasattr(ebooklet, "open_ebooklet") else ebooklet.open
    with opener(connection, path, "c", **options) as database:
        for key, change in changes.items():
            if change is None:
                del database[key]
            else:
                database.set(key, change[1], change[0])
        database.set_metadata({"owner": "hydrology", "n": 1}, FIRST_US + 100)
        pushed = database.changes().push()
        assert pushed, pushed


def first() -> dict[str, tuple[int, Any] | None]:
    """Returns what the first push of the small remote sets."""
    values = {f"k{number:02}": {"n": number, "name": "ключ" * number} for number in range(36)}
    values |= {"a/b": [1, None, 2.5], "ключ": "", "p%41 q?z=1#f": 0, "none": None}
    return {key: (FIRST_US + number, value) for number, (key, value) in enumerate(values.items())}


def second() -> dict[str, tuple[int, Any] | None]:
    """Returns what the second push changes."""
    return {
        "k03": (FIRST_US + 1003, "changed"),
        "k20": (FIRST_US + 1020, ["longer"] * 30),
        "new": (FIRST_US + 1004, True),
        "k05": None,
        "k06": None,
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
