"""Importing: from a remote that ebooklet wrote to one of this package."""

from __future__ import annotations

from ebooklet_tx.importing.importing import import_ebooklet
from ebooklet_tx.importing.report import ImportReport

__all__ = ["ImportReport", "import_ebooklet"]
