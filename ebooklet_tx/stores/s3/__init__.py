"""Objects in an S3 bucket; boto3 is known to the modules of this folder alone."""

from ebooklet_tx.stores.s3.store import S3Store

__all__ = ["S3Store"]
