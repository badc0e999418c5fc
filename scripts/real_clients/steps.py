"""What a client's program stands on: numbered machines, steps that are counted, and complaints that fail them.

Owns the counts and the hooks for warnings and for exceptions that nobody can catch. The invariant: a
program ends with 0 only if every step passed, nothing of ebooklet_tx complained, and the module that the
client knows as `ebooklet` was the shim over the installed ebooklet_tx all along.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ebooklet
import numpy as np

import ebooklet_tx


class Mismatch(Exception):
    """Something is not as the client's documentation says."""


class Program:
    """One client's program: where it works, and how its steps went."""

    def __init__(self) -> None:
        parser = argparse.ArgumentParser()
        parser.add_argument("--endpoint", required=True)
        parser.add_argument("--bucket", required=True)
        parser.add_argument("--folder", type=Path, required=True)
        parser.add_argument("--shim", type=Path, required=True)
        parser.add_argument("--unreachable", action="store_true")
        arguments = parser.parse_args()
        self.endpoint: str = arguments.endpoint
        self.bucket: str = arguments.bucket
        self.unreachable: bool = arguments.unreachable
        self._folder: Path = arguments.folder
        self._shim: Path = arguments.shim
        self._machines = 0
        self._failed = 0
        self._complaints: list[str] = []
        sys.unraisablehook = self._unraisable
        warnings.showwarning = self._warned
        warnings.simplefilter("always", ResourceWarning)

    def connection(self, key: str, **more: Any) -> ebooklet.S3Connection:
        """Returns a connection as a client's user makes it, with keys and without a public URL."""
        return ebooklet.S3Connection("client-key", "client-secret", key, self.bucket, self.endpoint, **more)

    def url(self, key: str) -> str:
        """Returns the public address of a database in the bucket."""
        return f"{self.endpoint}/{self.bucket}/{key}"

    def machine(self, name: str = "") -> Path:
        """Returns a folder of its own: a named one is the same every time, the others are empty."""
        self._machines += not name
        folder = self._folder / (name or f"machine-{self._machines}")
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Performs a step and prints how it went; the steps after a failed one are still tried."""
        start = time.monotonic()
        self._complaints.clear()
        why = ""
        try:
            yield
        except Exception as error:
            traceback.print_exc(limit=-5)
            why = f"{type(error).__name__}: {error}"
        gc.collect()
        why = "; ".join([why] * bool(why) + self._complaints)
        self._failed += bool(why)
        print(
            f"{'FAIL' if why else 'ok'} {what}{': ' + why if why else ''} ({time.monotonic() - start:.1f} s)",
            flush=True,
        )

    def check_modules(self) -> None:
        """Fails unless `ebooklet` is the shim, and ebooklet_tx the one that is installed here."""
        same(Path(ebooklet.__file__).parent, self._shim, "the folder of `ebooklet`")
        true(Path(ebooklet_tx.__file__).is_relative_to(sys.prefix), "ebooklet_tx is not the installed one")

    def end(self) -> None:
        """Leaves the process: 0 when every step passed."""
        sys.exit(1 if self._failed else 0)

    def _unraisable(self, report: Any) -> None:
        self._complaints.append(f"unraisable {type(report.exc_value).__name__}: {report.exc_value}")

    def _warned(
        self, message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any
    ) -> None:
        ours = (
            category.__module__.startswith("ebooklet_tx")
            or Path(ebooklet_tx.__file__).parent in Path(filename).parents
        )
        if ours or issubclass(category, ResourceWarning):
            self._complaints.append(f"{category.__name__}: {message}")
        else:
            print(f"    {category.__name__} of {Path(filename).name}:{lineno}: {message}", file=sys.stderr)


def same(found: Any, wanted: Any, what: str = "") -> None:
    """Demands equality."""
    if not found == wanted:
        raise Mismatch(f"{what + ': ' if what else ''}{found!r} is not {wanted!r}")


def same_array(found: Any, wanted: Any, what: str = "") -> None:
    """Demands the same shape, type and values, not-a-numbers included."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        raise Mismatch(f"{what}: {found.dtype}{found.shape} is not {wanted.dtype}{wanted.shape}")
    if not np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"):
        raise Mismatch(f"{what}: {np.count_nonzero(found != wanted)} of {wanted.size} values differ")


def true(condition: object, what: str) -> None:
    """Demands a truth."""
    if not condition:
        raise Mismatch(what)


def raises(
    kinds: type[BaseException] | tuple[type[BaseException], ...], act: Any, *arguments: Any, **named: Any
) -> Exception:
    """Demands an exception, and returns it."""
    try:
        result = act(*arguments, **named)
    except kinds as error:
        return error  # type: ignore[return-value]
    if hasattr(result, "close"):
        result.close()
    raise Mismatch(f"nothing was raised, but {result!r} came back")
