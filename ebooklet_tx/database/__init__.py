"""An open database: what is read, what is written, and how a session ends."""

from ebooklet_tx.database.database import Database

__all__ = ["Database"]
