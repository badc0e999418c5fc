"""Migrates the golden journal of revision 0001: `python -I migrate_golden.py FOLDER`, with an installed package.

FOLDER holds the golden files. It needs nothing but the package, so that it runs with a wheel or an sdist alone,
from anywhere; the end is 0 when every value and every pending operation came through, and was pushed.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import ebooklet_tx

NAME = "journal_0001.blt"
VALUES = {f"k{number:03}": b"value %d" % number for number in range(100)}
"""What the first commit wrote; the second changed some of it."""
CHANGED = {"k001": b"changed", "new": b"added"}
DELETED = "k002"
METADATA = {"made by": "revision 0001"}
EXPECTED = {key: value for key, value in {**VALUES, **CHANGED}.items() if key != DELETED}


def main(golden: Path) -> int:
    """Opens a copy of the golden pair for writing, which migrates it, and pushes what it holds."""
    with tempfile.TemporaryDirectory(prefix="migrate-golden-") as scratch:
        folder = Path(scratch)
        for name in (NAME, f"{NAME}.journal"):
            shutil.copyfile(golden / name, folder / name)
        remote = f"file://{folder / 'remote' / 'db'}"
        with ebooklet_tx.open(remote, folder / NAME, "w") as db:
            assert dict(db.items()) == EXPECTED
            assert db.get_metadata() == METADATA
            pending = {change["key"] for change in db.changes().iter_changes()}
            assert EXPECTED.keys() <= pending, EXPECTED.keys() - pending
            db.changes().push()
        assert (folder / f"{NAME}.journal.before-0001").is_file()
        with ebooklet_tx.open(remote, folder / "other.blt") as other:
            assert dict(other.items()) == EXPECTED
            assert other.get_metadata() == METADATA
    print(f"migrated {NAME}, and pushed its {len(EXPECTED)} values, with {ebooklet_tx.__file__}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
