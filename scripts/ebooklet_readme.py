"""Performs what ebooklet documents, with `import ebooklet_tx as ebooklet`, and tells what holds.

    python scripts/ebooklet_readme.py [--verbose] [WORD ...]

Owns an S3 server on loopback and a folder, both gone at the end. The examples lie in `readme_examples/`; with
words, those are performed whose names have one of them. Every warning is an error, also one about a session
that was not closed. Prints how many examples there are, `ok` or `FAIL` for each, and ends with 1 if any
failed. Needs the test extra.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import boto3  # noqa: E402
from readme_examples.place import EXAMPLES, Example, Place  # noqa: E402

from tests.quick_clients import remember  # noqa: E402
from tests.servers import ACCESS_KEY, ACCESS_KEY_ID, free_port, ministack_server  # noqa: E402

BUCKET = "readme"
CHAPTERS = ("page", "connections", "mapping", "sharing")


def main() -> int:
    """Performs the examples and returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--verbose", action="store_true", help="show how long each took, and where it failed")
    parser.add_argument("words", nargs="*", metavar="WORD")
    arguments = parser.parse_args()
    remember()
    for chapter in CHAPTERS:
        importlib.import_module(f"readme_examples.{chapter}")
    chosen = [
        entry for entry in EXAMPLES if not arguments.words or any(word in entry[0] for word in arguments.words)
    ]
    if not chosen:
        parser.error(f"no example has any of {arguments.words} in its name")
    print(f"{len(chosen)} examples", flush=True)
    warnings.simplefilter("error")
    start = time.monotonic()
    failed = 0
    # Each example ends with a search for sessions that it left open: only among what is made from here on.
    gc.freeze()
    with ministack_server() as endpoint, tempfile.TemporaryDirectory(prefix="readme-") as folder:
        _make_bucket(endpoint)
        for what, function in chosen:
            with tempfile.TemporaryDirectory(dir=folder) as own:
                place = Place(endpoint, BUCKET, f"http://127.0.0.1:{free_port()}", Path(own))
                failed += not _perform(what, function, place, verbose=arguments.verbose)
    print(f"{len(chosen) - failed} of {len(chosen)} hold ({time.monotonic() - start:.0f} s)")
    return 1 if failed else 0


def _make_bucket(endpoint: str) -> None:
    with contextlib.closing(
        boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=ACCESS_KEY_ID,
            aws_secret_access_key=ACCESS_KEY,
            region_name="us-east-1",
        )
    ) as client:
        client.create_bucket(Bucket=BUCKET)


def _perform(what: str, function: Example, place: Place, *, verbose: bool) -> bool:
    """Performs one example and prints how it went."""
    unraisable: list[str] = []

    def note(report: Any) -> None:
        unraisable.append(f"{type(report.exc_value).__name__}: {report.exc_value}")

    start = time.monotonic()
    sys.unraisablehook = note
    error: Exception | None = None
    try:
        function(place)
    except Exception as caught:
        if verbose:
            traceback.print_exc()
        # Without its frames: they keep sessions alive that an example failed to close.
        error = caught.with_traceback(None)
    finally:
        gc.collect()
        sys.unraisablehook = sys.__unraisablehook__
    why = ([f"{type(error).__name__}: {error}"] if error is not None else []) + unraisable
    took = f" ({time.monotonic() - start:.1f} s)" if verbose else ""
    print(f"FAIL {what}: {'; '.join(why)}{took}" if why else f"ok {what}{took}", flush=True)
    return not why


if __name__ == "__main__":
    sys.exit(main())
