"""Objects in a folder: a local one, or one on a shared drive."""

from ebooklet_tx.stores.directory.store import TEMPORARY_MAX_AGE_SECONDS, DirectoryStore

__all__ = ["TEMPORARY_MAX_AGE_SECONDS", "DirectoryStore"]
