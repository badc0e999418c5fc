"""Objects at a public http(s) address, for reading."""

from ebooklet_tx.stores.http.store import HTTPStore

__all__ = ["HTTPStore"]
