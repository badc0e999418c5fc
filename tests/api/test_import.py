"""The import: cheap, complete, and plain where the system is not POSIX."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ebooklet_tx

CPU_SECONDS = 0.15


def run(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=False, text=True, timeout=120
    )


def test_it_loads_no_heavy_package_and_costs_little() -> None:
    done = run(
        "import time\n"
        "began = time.process_time()\n"
        "import ebooklet_tx\n"
        "seconds = time.process_time() - began\n"
        "import sys\n"
        "print(seconds, sorted({'alembic', 'boto3', 'botocore', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    seconds, loaded = done.stdout.split(maxsplit=1)
    assert loaded.strip() == "[]", done.stderr
    assert float(seconds) <= CPU_SECONDS


def test_opening_a_folder_loads_neither_boto3_nor_sqlalchemy_later() -> None:
    done = run(
        "import sys, ebooklet_tx\n"
        "[getattr(ebooklet_tx, name) for name in ebooklet_tx.__all__]\n"
        "print(sorted({'alembic', 'boto3', 'botocore', 'sqlalchemy'} & set(sys.modules)))\n"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_store_is_asked_before_what_is_seldom_needed_is_loaded() -> None:
    done = run(
        "import socket, sys, tempfile, ebooklet_tx\n"
        "class FoundError(BaseException): pass\n"
        "late = {'booklet', 'numpy', 'sqlalchemy'}\n"
        "late |= {f'ebooklet_tx.{name}' for name in ('changes', 'sync.commit.push', 'sync.commit.builder',\n"
        "    'sync.forks.merge', 'sync.forks.work', 'index.merging', 'stores.directory', 'stores.http',\n"
        "    'maintenance', 'database.parallel')}\n"
        "def connect(*_): raise FoundError(sorted(late & set(sys.modules)))\n"
        "socket.socket.connect = connect\n"
        "place = ebooklet_tx.S3Connection('id', 'secret', 'db', 'bucket', 'http://127.0.0.1:9')\n"
        "try:\n"
        "    ebooklet_tx.open(place, tempfile.mkdtemp() + '/a.blt', value_serializer='orjson')\n"
        "except FoundError as error:\n"
        "    print(error)\n"
    )
    assert done.stdout.strip() == "[]", done.stderr


def test_a_new_copy_is_opened_read_and_looked_into_without_booklet(tmp_path: Path) -> None:
    """Booklet imports numpy and pandas where they are."""
    values: dict[Any, Any] = {
        None: b"1",
        "bytes": b"1",
        "str": "1",
        "json": [1],
        "orjson": [1],
        "pickle": {1},
        "int4": 1,
    }
    for name, value in values.items():
        with ebooklet_tx.open(f"file://{tmp_path}/{name}", tmp_path / f"{name}.blt", "n", name) as db:
            db["k"] = value
            db.changes().push()
    done = run(
        "import pickle, sys, ebooklet_tx\n"
        "from ebooklet_tx.__main__ import main\n"
        f"folder, values = {str(tmp_path)!r}, {values!r}\n"
        "for name, value in values.items():\n"
        "    remote, path = f'file://{folder}/{name}', f'{folder}/{name}-copy'\n"
        "    for copy in (path, None):\n"
        "        with ebooklet_tx.open(remote, copy, allow_pickle=True) as db:\n"
        "            assert db['k'] == value\n"
        "    main(['get', path, 'k', '--allow-pickle'])\n"
        "with ebooklet_tx.open(f'file://{folder}/own', f'{folder}/own.blt', 'n', pickle) as db:\n"
        "    db['k'] = 1\n"
        "print(sorted({'booklet', 'numpy', 'pandas', 'uuid6'} & set(sys.modules)))\n"
    )
    assert done.stdout.splitlines()[-1:] == ["[]"], done.stderr


def test_each_public_name_is_there_and_is_listed() -> None:
    assert set(ebooklet_tx.__all__) <= set(dir(ebooklet_tx))
    assert len(set(ebooklet_tx.__all__)) == len(ebooklet_tx.__all__)
    assert all(getattr(ebooklet_tx, name) is not None for name in ebooklet_tx.__all__)
    assert ebooklet_tx.EVariableLengthValue is ebooklet_tx.Database
    assert ebooklet_tx.remote.S3Connection is ebooklet_tx.S3Connection
    with pytest.raises(AttributeError, match="has no attribute 'opne'"):
        ebooklet_tx.opne  # noqa: B018


def test_all_names_can_be_imported_at_once() -> None:
    done = run("from ebooklet_tx import *\nprint(open.__module__, S3Connection.__name__)\n")
    assert done.stdout.split() == ["ebooklet_tx.opening.opening", "S3Connection"], done.stderr


def test_a_system_without_posix_locks_is_told_plainly() -> None:
    done = run(
        # What Python itself has only on such a system is loaded before.
        "import shutil, sys\n"
        "sys.platform = 'win32'\n"
        "sys.modules['fcntl'] = None\n"
        "try:\n"
        "    import ebooklet_tx\n"
        "except ImportError as error:\n"
        "    print(type(error).__name__, error.kind, error)\n"
    )
    assert done.stdout.startswith("UnsupportedPlatformError unsupported_platform ebooklet_tx needs POSIX"), (
        done.stdout + done.stderr
    )
    assert "Windows Subsystem for Linux" in done.stdout
