"""Writing a damaged root anew, from the bytes of the base root that a journal keeps.

The invariant: only a root that is damaged is written over, and only as it was seen, by the way in
which the database's commits are made; a sound one, a newer format or another program's object is left alone. What
the kept root does not know, the commits that came after it, is said to be missing, not guessed.
"""

from __future__ import annotations

from dataclasses import dataclass

from ebooklet_tx.errors import OfflineError, RemoteIntegrityError, RemoteMissingError
from ebooklet_tx.formats.root import Root, decode_root
from ebooklet_tx.html_tables import counted
from ebooklet_tx.local.journal.facts import known_type
from ebooklet_tx.local.local_store import LocalStore
from ebooklet_tx.maintenance.inventory import list_objects
from ebooklet_tx.maintenance.merged_root import MergedRoot
from ebooklet_tx.records import CommitRecord
from ebooklet_tx.sync.commit.builder import Commit
from ebooklet_tx.sync.commit.commit_mode import CommitMode
from ebooklet_tx.sync.commit.publish import swap_in
from ebooklet_tx.sync.commit.writer_locks import WriterLocks
from ebooklet_tx.sync.remote import Remote
from ebooklet_tx.sync.root_object import DamagedRoot, FetchedRoot, inspect_root
from ebooklet_tx.sync.session import Session
from ebooklet_tx.values.serializers import stored_name

MAX_TRIES = 5


@dataclass(frozen=True, slots=True)
class RootRepair:
    """What the repair of a root did; true when the root was written.

    Attributes:
        written: Whether the root was damaged, and is written anew.
        seq: The commit that it says.
        commit_id: That commit's id.
        missing_objects: Keys of objects that it names and that are not there, or can't be read.
    """

    written: bool
    seq: int = 0
    commit_id: str = ""
    missing_objects: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return self.written

    def words(self) -> str:
        """Returns the same for people."""
        if not self.written:
            return "the remote's root is not damaged, and was left alone"
        said = (
            f"the remote's damaged root was written anew as this machine knew it, at commit {self.seq} "
            f"({self.commit_id}); commits that others made after that are missing: a machine that has heard of "
            "them can't push them by itself, verify --values tells whether all values are there"
        )
        if self.missing_objects:
            shown = ", ".join(self.missing_objects[:5])
            count = len(self.missing_objects)
            which = counted(count, "object that it names is", "objects that it names are")
            said += f"; {which} missing or damaged: {shown}"
        return said


def kept_root(local: LocalStore, root_place: str) -> tuple[bytes, Root]:
    """Returns the base root that the journal keeps: its bytes, decoded too.

    Args:
        local: This machine's half of the database.
        root_place: Where the remote's root belongs, for messages.

    Raises:
        RemoteMissingError: The journal keeps none.
        RemoteIntegrityError: What it keeps is not the root of its base.
    """
    facts = local.journal.all_meta()
    uuid = local.file.header.uuid.hex()
    data = facts.get("base_root")
    if data is None:
        raise RemoteMissingError(
            f"{local.journal.path} keeps no root of {root_place}: run this on a machine that "
            "has pulled or pushed it, restore the root from the bucket's versions, or replace it by a push with "
            "flag 'n' from a machine that has all values"
        )
    root = decode_root(data, name=f"the root that {local.journal.path} keeps")
    if (root.manifest.commit_id, root.manifest.uuid) != (facts.get("base_commit_id"), uuid):
        raise RemoteIntegrityError(
            f"the root that {local.journal.path} keeps is not that of its base; run this on another machine"
        )
    return data, root


def repair_session(local: LocalStore, remote: Remote) -> Session:
    """Returns a session that repairs: on files that are open, at a remote of which the mode is known."""
    code = local.file.header.value_serializer_code
    kind = known_type(local.journal) or "booklet"
    name = stored_name(code, str(local.path))
    return Session(local, remote, WriterLocks(remote), type=kind, serializer_name=name)


def repair_root_from(local: LocalStore, remote: Remote) -> RootRepair:
    """Likewise `repair_root`, with the files and the remote that a session would have."""
    return repair_root(repair_session(local, remote))


def repair_root(session: Session) -> RootRepair:
    """Writes the remote's root anew if it is damaged; nothing is done about one that is sound.

    Args:
        session: A session that writes; what it has pending stays so.

    Raises:
        RemoteMissingError: The journal keeps no root; or there is none at the remote, not even a damaged one.
        RemoteIntegrityError: The root that the journal keeps is damaged, or is of another database than the one
            whose objects lie there.
        UnsupportedFormatError: Something else lies in the root's place; it was left alone.
        OfflineError: The store keeps failing, or others replace the root all the time.
    """
    remote = session.remote
    with session.push_mutex:
        session.locks.check()
        for _ in range(MAX_TRIES):
            seen = inspect_root(remote)
            if seen is None:
                raise RemoteMissingError(
                    f"the database {remote.root_place} is gone, not damaged; push(force_push=True) writes it anew"
                )
            if not isinstance(seen, DamagedRoot):
                return RootRepair(written=False)
            data, root = kept_root(session.local, remote.root_place)
            missing = _missing_objects(remote, root)
            remote.mode.follow(root.manifest.commits)
            outcome = swap_in(session, _as_it_was(remote.mode, data, root), seen.etag)
            if outcome.applied and (outcome.etag is not None or _is_there(remote, root)):
                return RootRepair(True, root.manifest.seq, root.manifest.commit_id, missing)
    raise OfflineError(f"the root {remote.root_place} was replaced by other writers all the time; try again")


def _is_there(remote: Remote, root: Root) -> bool:
    """True when the root's commit is the newest; false when another writer has put a root on top of it."""
    seen = inspect_root(remote)
    return isinstance(seen, FetchedRoot) and seen.manifest.commit_id == root.manifest.commit_id


def _as_it_was(mode: CommitMode, data: bytes, root: Root) -> Commit:
    """Returns the kept root as a commit that can be swapped in: its very bytes, where its way still holds."""
    manifest = root.manifest
    changes_mode = mode.must_change(manifest.commits, exists=mode.advertised(manifest.commits) is not None)
    record = CommitRecord(manifest.seq, manifest.commit_id, manifest.committed_at_us, manifest.writer, 0, 0, 0)
    return Commit(manifest, data, root.tail, record, changes_mode, mode.swaps)


def _missing_objects(remote: Remote, root: Root) -> tuple[str, ...]:
    """Returns the keys of the objects that a root names and that are not there, or can't be read.

    Raises:
        RemoteIntegrityError: None of them is there, and others are: the root does not belong there.
    """
    with MergedRoot() as index:
        index.add_root(remote, root)
        index.check_history(remote, root)
        damaged = {problem.name for problem in index.problems if problem.name}
        packs = [pack.ref.name for pack in index.packs()]
        named = {*index.objects, *packs}
    there = list_objects(remote).own
    others = [name for name in there if name.startswith(("pack/", "index/"))]
    if named and others and named.isdisjoint(there):
        raise RemoteIntegrityError(
            f"none of the objects that the root names which this machine keeps lie at {remote.root_place}, and "
            f"{len(others)} others do: the local file holds another database, or a commit that is long gone; "
            "nothing was written. Check file and address, and run this where the newest commit was last pulled"
        )
    return tuple(sorted(remote.names.object(name) for name in {*damaged, *packs} - there.keys() | damaged))


__all__ = ["RootRepair", "kept_root", "repair_root", "repair_root_from", "repair_session"]
