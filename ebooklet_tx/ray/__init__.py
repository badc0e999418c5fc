"""Writing to a database from Ray. Needs the extra `ray`."""

from ebooklet_tx.ray.datasink import Datasink

__all__ = ["Datasink"]
