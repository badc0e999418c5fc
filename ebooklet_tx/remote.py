"""`S3Connection` under the name by which programs written for ebooklet import it.

Such programs write `from ebooklet import remote` and then `remote.S3Connection`.
"""

from ebooklet_tx.connection import S3Connection

__all__ = ["S3Connection"]
