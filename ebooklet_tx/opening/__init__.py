"""Opening a database: from an address and a flag to a session."""

from ebooklet_tx.opening.opening import open

__all__ = ["open"]
