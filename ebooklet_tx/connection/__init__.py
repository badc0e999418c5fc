"""Where a database lies: in an S3 bucket, in a folder, or at a public http(s) address.

A connection names an address and opens nothing by itself. A connection that exists is usable: every argument
is checked when it is made.
"""

from ebooklet_tx.connection.checks import RESERVED_NAME_PREFIX, check_object_key
from ebooklet_tx.connection.directory import DirectoryConnection
from ebooklet_tx.connection.http import HTTPConnection
from ebooklet_tx.connection.parsing import Connection, RemoteConn, connect, parse_connection
from ebooklet_tx.connection.s3 import S3Connection
from ebooklet_tx.connection.urls import without_secrets

__all__ = [
    "RESERVED_NAME_PREFIX",
    "Connection",
    "DirectoryConnection",
    "HTTPConnection",
    "RemoteConn",
    "S3Connection",
    "check_object_key",
    "connect",
    "parse_connection",
    "without_secrets",
]
