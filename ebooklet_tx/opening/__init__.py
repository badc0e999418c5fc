"""Opening a database: from a place and a flag to a session."""

from ebooklet_tx.opening.opening import open

__all__ = ["open"]
