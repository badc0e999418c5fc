"""Errors: a code for each class, fields, pickling, and a page that agrees with the classes."""

from __future__ import annotations

import errno
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from urllib3.exceptions import HTTPError

import ebooklet_tx
from ebooklet_tx import errors, testing
from ebooklet_tx.sync.pull.conflicts import MISSING, Conflict, ConflictError, Version
from tests.modules import load_all
from tests.pairs import Bench

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "errors.md"


def _subclasses(kind: type[errors.Error]) -> list[type[errors.Error]]:
    found = [kind]
    for child in kind.__subclasses__():
        if child.__module__.startswith("ebooklet_tx"):
            found += _subclasses(child)
    return list(dict.fromkeys(found))


def _all_errors() -> list[type[errors.Error]]:
    load_all()
    return _subclasses(errors.Error)


def _public_errors() -> list[type[errors.Error]]:
    found = [value for name in ebooklet_tx.__all__ if isinstance(value := getattr(ebooklet_tx, name), type)]
    return [kind for kind in found if issubclass(kind, errors.Error)]


def test_each_class_has_a_code_of_its_own() -> None:
    named = [kind for kind in _all_errors() if not kind.__name__.startswith("_")]
    codes = {kind.__name__: kind.__dict__.get("kind") for kind in named}
    assert None not in codes.values(), codes
    assert len(set(codes.values())) == len(codes), codes
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", str(code)) for code in codes.values()), codes


def test_the_page_lists_each_public_class_with_its_code_and_builtins() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)` \| (.*?) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    said = {name: (code, tuple(re.findall(r"`(\w+)`", builtins))) for code, name, builtins in rows}
    assert len(said) == len(rows)
    assert said == {kind.__name__: (kind.kind, _builtins_of(kind)) for kind in _public_errors()}


def _builtins_of(kind: type[errors.Error]) -> tuple[str, ...]:
    """Names what a caller may catch instead: the most special classes that are not ours."""
    foreign = [
        base
        for base in kind.__mro__
        if not base.__module__.startswith("ebooklet_tx") and base not in (Exception, BaseException, object)
    ]
    special = [base for base in foreign if not any(base in other.__mro__[1:] for other in foreign)]
    return tuple(sorted(base.__name__ for base in special))


@pytest.mark.parametrize("kind", [kind for kind in _public_errors() if not issubclass(kind, ConflictError)])
def test_fields_survive_pickle(kind: type[errors.Error]) -> None:
    error = kind("it failed", object_name="pack/1", operation="push")
    copied = pickle.loads(pickle.dumps(error))
    assert type(copied) is kind
    assert str(copied) == "it failed"
    assert (copied.kind, copied.object_name, copied.operation) == (kind.kind, "pack/1", "push")
    assert (copied.key, copied.path) == (None, None)


def test_an_error_of_the_system_keeps_its_number_beside_its_fields() -> None:
    error = errors.LocalMissingError(errno.ENOENT, "no such file", path=Path("/data/a.blt"))
    for found in (error, pickle.loads(pickle.dumps(error))):
        assert found.errno == errno.ENOENT
        assert found.path == "/data/a.blt"
        assert isinstance(found, FileNotFoundError)


def test_an_import_error_has_its_own_path() -> None:
    error = errors.MissingPackageError("install zstandard", path="/data/a.blt")
    assert isinstance(error, ImportError)
    assert (error.path, pickle.loads(pickle.dumps(error)).path) == ("/data/a.blt", "/data/a.blt")
    assert errors.MissingPackageError("install zstandard").path is None


def test_a_remote_error_is_urllib3s() -> None:
    assert isinstance(errors.OfflineError("gone", operation="pull"), HTTPError)


def test_a_transient_error_keeps_what_it_knows() -> None:
    error = errors.TransientStoreError("503", may_have_applied=False, retry_after_seconds=2.0, object_name="root")
    copied = pickle.loads(pickle.dumps(error))
    assert (copied.may_have_applied, copied.retry_after_seconds, copied.object_name) == (False, 2.0, "root")


def test_a_conflict_travels_with_its_keys_and_versions() -> None:
    version = Version(b"d" * 16, 1)
    conflict = Conflict("a", version, version, version, lambda key, side: MISSING)
    copied = pickle.loads(pickle.dumps(ConflictError([conflict], "the remote", complete=False)))
    assert copied.kind == "conflict"
    assert (copied.key, copied.complete, copied.conflicts[0].ours_version) == ("a", False, version)
    with pytest.raises(errors.LocalIntegrityError):
        _ = copied.conflicts[0].ours


def test_the_fields_of_errors_that_users_meet(tmp_path: Path) -> None:
    remote, file = f"file://{tmp_path}/remote/a", tmp_path / "a.blt"
    with pytest.raises(errors.LocalMissingError) as missing:
        ebooklet_tx.status(file)
    assert missing.value.path == str(file)
    with ebooklet_tx.open(remote, file, "c") as db:
        with pytest.raises(errors.InvalidKeyError) as bad_key:
            db["k" * 70_000] = b""
        assert bad_key.value.key == "k" * 70_000
        with pytest.raises(errors.InvalidValueError) as bad_value:
            db["a"] = object()
        assert bad_value.value.key == "a"
        with pytest.raises(errors.InvalidArgumentError) as inside, db.transaction():
            db.sync()
        assert inside.value.operation == "sync"
    with pytest.raises(errors.SessionClosedError) as closed:
        db.get("a")
    assert closed.value.path == str(file)


READS: dict[str, Callable[[Any], object]] = {
    "one": lambda db: db["large"],
    "several": lambda db: list(db.get_items(["large"])),
    "all": lambda db: list(db.items()),
}


@pytest.mark.parametrize("read", READS)
@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("fault", ["unreachable", "damaged", "gone"])
def test_an_error_of_a_value_names_its_key(tmp_path: Path, fault: str, local: bool, read: str) -> None:
    bench = Bench(tmp_path)
    with bench.open("a", "c") as db:
        db["large"] = b"x" * 100_000
        db.changes().push()
    (pack,) = bench.objects("pack")
    with (
        testing.without_backoff(2),
        testing.wrapped_stores(testing.FaultyStore) as stores,
        ebooklet_tx.open(bench.url, bench.path("b") if local else None) as db,
    ):
        assert "large" in db
        if fault == "damaged":
            pack.write_bytes(bytes(pack.stat().st_size))
        elif fault == "gone":
            pack.unlink()
        else:
            stores[0].error = errors.TransientStoreError("503 Slow Down")  # type: ignore[attr-defined]
        with pytest.raises(
            errors.OfflineError if fault == "unreachable" else errors.RemoteIntegrityError
        ) as caught:
            READS[read](db)
    assert caught.value.key == "large"
    assert "'large'" in str(caught.value)
    if fault == "unreachable":
        assert isinstance(caught.value.__cause__, errors.TransientStoreError)
    assert caught.value.object_name


def test_a_local_file_in_a_missing_folder_needs_the_folder_alone(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "a.blt"
    for flag in ("c", "n"):
        with pytest.raises(ebooklet_tx.LocalStorageError, match=r"its folder does not exist: make the folder$"):
            ebooklet_tx.open(f"file://{tmp_path}/remote/db", path, flag)
    assert not path.parent.exists()


def test_a_foreign_object_in_the_remotes_place_has_the_code_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "remote").mkdir()
    (tmp_path / "remote" / "db").write_bytes(b"something else")
    with pytest.raises(ebooklet_tx.UnsupportedFormatError, match="a foreign object lies") as caught:
        ebooklet_tx.open(f"file://{tmp_path}/remote/db", tmp_path / "a.blt")
    assert caught.value.kind == "unsupported_format"
