"""Every module of the package that can be loaded here."""

from __future__ import annotations

import contextlib
import importlib
import pkgutil

import ebooklet_tx
from ebooklet_tx.errors import MissingPackageError


def load_all() -> None:
    """Loads the package's modules, programs aside; passes over what needs a package that is not installed."""
    for found in pkgutil.walk_packages(ebooklet_tx.__path__, "ebooklet_tx."):
        if "migrations" in found.name or found.name.endswith("__main__"):
            continue
        with contextlib.suppress(MissingPackageError):
            importlib.import_module(found.name)
