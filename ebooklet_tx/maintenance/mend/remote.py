"""Mending a remote: what a verification finds lost or damaged is written anew from this machine.

The invariant: objects keep their names, and nothing that is sound is written. So no commit is made but that of a
damaged root, and another writer's commit is never written over. Killed anywhere, it leaves each object as it
was, or mended.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from ebooklet_tx.errors import (
    Error,
    ObjectMissingError,
    OfflineError,
    RemoteIntegrityError,
    UnsupportedFormatError,
)
from ebooklet_tx.formats.root import Root
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.check_reports import Damage, Mended, VerifyReport
from ebooklet_tx.maintenance.inventory import list_snapshots
from ebooklet_tx.maintenance.mend.index_objects import mend_index
from ebooklet_tx.maintenance.mend.objects import Attempt
from ebooklet_tx.maintenance.mend.packs import NeededPack, mend_pack, value_here
from ebooklet_tx.maintenance.merged_root import MergedRoot
from ebooklet_tx.maintenance.root_repair import repair_root_from
from ebooklet_tx.maintenance.verify import ROOT_KIND, SHOWN_KEYS, WAYS_OUT, verify
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import fetch_root

_UNNAMED = Attempt(False, "nothing names it any more")
INDEX_KINDS = ("index", "history")
MAX_ROUNDS = 3
"""A list of a run hides its index objects, and these hide packs: each is found when the one before is mended."""


def mend_remote(local: LocalStore, remote: Remote, *, read_values: bool) -> VerifyReport:
    """Verifies a remote, writes what this machine can of what is lost or damaged, and verifies again.

    Args:
        local: This machine's half of the database, open for writing.
        remote: The remote; how commits are made there is known.
        read_values: As in `verify`; without it a pack is damaged only if it is missing or has another size.

    Returns:
        What is still damaged, and what was written anew.

    Raises:
        RemoteMissingError: There is no root, not even a damaged one.
        UnsupportedFormatError: Something else lies in its place, or a newer version wrote it.
        OfflineError: The remote can't be reached; what was mended until then stays so.
    """

    def look(*, values: bool) -> VerifyReport:
        return verify(remote, read_values=values, find_copy=find_copy)

    def find_copy(key: str, digest: bytes) -> str | None:
        return None if value_here(local, key, digest) is None else str(local.path)

    found: dict[str, Damage] = {}
    attempts: dict[str, Attempt] = {}
    report = look(values=read_values)
    for _ in range(MAX_ROUNDS):
        new = [damage for damage in report.damage if damage.object not in attempts]
        tried = _mend_root(local, remote, new) | _mend_index(local, remote, new)
        if not tried:
            break
        _note(found, new)
        attempts |= tried
        report = look(values=False)
    if attempts and read_values:
        report = look(values=True)
    lost = [damage for damage in report.damage if damage.kind == "pack"]
    if lost:
        _note(found, lost)
        tried = _mend_packs(local, remote, {damage.object for damage in lost})
        attempts |= tried
        if any(attempt.written or attempt == _UNNAMED for attempt in tried.values()):
            report = look(values=read_values)
    return _told(report, found, attempts)


def _note(found: dict[str, Damage], damages: list[Damage]) -> None:
    """Notes what was wrong with each object; values that were damaged in one pack come together."""
    for damage in damages:
        known = found.get(damage.object)
        if known is None:
            found[damage.object] = damage
        elif not set(damage.keys) <= set(known.keys):
            keys = tuple(dict.fromkeys([*known.keys, *damage.keys]))[:SHOWN_KEYS]
            found[damage.object] = replace(known, keys=keys, key_count=known.key_count + damage.key_count)


def _told(report: VerifyReport, found: dict[str, Damage], attempts: dict[str, Attempt]) -> VerifyReport:
    """Returns a report of what is left, with what was mended and why the rest was not."""
    mended = []
    for key, attempt in sorted(attempts.items()):
        was = found[key]
        if attempt.written:
            keys = tuple(one for one in was.keys if one not in attempt.lost_keys)
            count = max(0, was.key_count - len(attempt.lost_keys))
            mended.append(Mended(key, was.kind, was.problem, keys, count, attempt.lacks))
    damage = tuple(_explained(each, attempts.get(each.object)) for each in report.damage)
    return replace(report, mended=tuple(mended), damage=damage)


def _explained(damage: Damage, attempt: Attempt | None) -> Damage:
    if attempt is None or not attempt.lacks:
        return damage
    way_out = f"Not mended from here: {attempt.lacks}. {WAYS_OUT.get(damage.kind, damage.sound_copy)}"
    if not attempt.lost_keys:
        return replace(damage, sound_copy=way_out)
    lost = attempt.lost_keys
    if set(damage.keys) <= set(lost) and damage.key_count <= len(lost):
        return replace(damage, sound_copy=way_out)
    return replace(damage, keys=lost[:SHOWN_KEYS], key_count=len(lost), sound_copy=way_out)


# -- root, index, packs ------------------------------------------------------------------------


def _mend_root(local: LocalStore, remote: Remote, damages: list[Damage]) -> dict[str, Attempt]:
    if not any(damage.kind == ROOT_KIND for damage in damages):
        return {}
    try:
        repair = repair_root_from(local, remote)
    except OfflineError:
        raise
    except Error as error:
        return {remote.names.root: Attempt(False, str(error))}
    if not repair:
        return {remote.names.root: Attempt(False, "it can be decoded, so that it is left as it is")}
    return {remote.names.root: Attempt(True, repair.words())}


def _mend_index(local: LocalStore, remote: Remote, damages: list[Damage]) -> dict[str, Attempt]:
    wanted = {_relative(remote, damage.object) for damage in damages if damage.kind in INDEX_KINDS}
    if not wanted:
        return {}
    attempts = mend_index(remote, local.pieces, _roots(remote), wanted)
    gone = dict.fromkeys(wanted - attempts.keys(), Attempt(False, "what names it can't be read"))
    return {remote.names.object(name): attempt for name, attempt in (attempts | gone).items()}


def _mend_packs(local: LocalStore, remote: Remote, keys: set[str]) -> dict[str, Attempt]:
    needed = _needed(remote, {_relative(remote, key) for key in keys})
    attempts = {remote.names.object(pack.ref.name): mend_pack(remote, local, pack) for pack in needed.values()}
    return dict.fromkeys(keys - attempts.keys(), _UNNAMED) | attempts


def _needed(remote: Remote, names: set[str]) -> dict[str, NeededPack]:
    """Returns what root and snapshots have in some packs."""
    needed: dict[str, NeededPack] = {}
    whole = True
    for root in _roots(remote):
        with MergedRoot() as index:
            index.add_root(remote, root)
            whole = whole and index.complete
            refs = [pack.ref for pack in index.packs() if pack.ref.name in names]
            for ref in refs:
                needed.setdefault(ref.name, NeededPack(ref)).add(index.values_in(ref))
    for found in needed.values():
        found.whole = whole
    return needed


def _roots(remote: Remote) -> Iterator[Root]:
    """Yields the root and the snapshots, as far as they can be read."""
    for key in [remote.names.root, *map(remote.names.object, list_snapshots(remote))]:
        try:
            yield fetch_root(remote.store, key, name=key).root
        except (ObjectMissingError, RemoteIntegrityError, UnsupportedFormatError):
            # It is among what was found damaged, or gone since.
            continue


def _relative(remote: Remote, key: str) -> str:
    return key.removeprefix(remote.names.prefix)


__all__ = ["mend_remote"]
