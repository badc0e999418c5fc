"""`S3Connection` under the name by which programs written for ebooklet import it.

Owns no state. `S3Connection` is named here as well, because programs written for ebooklet import it from here.
"""

from ebooklet_tx.connection import S3Connection

__all__ = ["S3Connection"]
