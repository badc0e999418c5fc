"""What lies at the far end: stores, their locks, and the formats of what is kept there.

Owns no state. `S3Connection` is named here as well, because programs written for ebooklet import it from here.
"""

from ebooklet_tx.connection import S3Connection

__all__ = ["S3Connection"]
