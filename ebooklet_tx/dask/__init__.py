"""Writing to a database from Dask. Needs the extra `dask`."""

from ebooklet_tx.dask.bags import store

__all__ = ["store"]
