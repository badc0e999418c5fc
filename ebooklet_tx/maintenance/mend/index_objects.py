"""Objects of the index and the history, put together again from pieces that this machine keeps.

The invariant: what is written is the very object that the root names, byte for byte: each piece was held to the
digest that its parent carries, whether it comes from this machine or from what is left of the object.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ebooklet_tx.errors import ObjectMissingError, RemoteIntegrityError
from ebooklet_tx.formats.block import decode_block
from ebooklet_tx.formats.index_object import IndexObjectBuilder, decode_directory
from ebooklet_tx.formats.index_records import Directory, IndexEntry, RunList
from ebooklet_tx.formats.root import Root
from ebooklet_tx.index.pieces import PieceCache, PieceReader
from ebooklet_tx.index.reader import IndexReader
from ebooklet_tx.limits import MAX_OBJECT_BYTES
from ebooklet_tx.maintenance.mend.objects import Attempt, NewBytes, replace_object
from ebooklet_tx.records import digest_of
from ebooklet_tx.sync.remote import Remote

Part = tuple[int, int, bytes]
"""A piece of an object: where it begins, its length, and its digest."""

_NOT_HERE = "this machine keeps no copy of it: it has neither written nor read that part"


def mend_index(
    remote: Remote, cache: PieceCache, roots: Iterable[Root], damaged: Iterable[str]
) -> dict[str, Attempt]:
    """Writes damaged objects of index and history anew, as far as their pieces can be had.

    Args:
        remote: The remote.
        cache: The pieces that this machine keeps.
        roots: The roots that name the objects.
        damaged: The objects' relative names.

    Returns:
        What came of each; one that no root names is not among them.
    """
    wanted = set(damaged)
    attempts: dict[str, Attempt] = {}
    for root in roots:
        for name, make in _makers(remote, cache, root, wanted - attempts.keys()):
            attempts[name] = replace_object(remote, name, make, most_bytes=MAX_OBJECT_BYTES)
    return attempts


def _makers(
    remote: Remote, cache: PieceCache, root: Root, wanted: set[str]
) -> Iterator[tuple[str, Callable[[bytes | None], NewBytes]]]:
    """Yields the wanted objects that a root names, each with what makes it anew."""
    for ref in root.manifest.histories:
        if ref.name in wanted:
            yield ref.name, _maker_of_parts(cache, [(0, ref.size_bytes, ref.digest)])
    # With the cache first: a list that is lost at the remote may be here.
    reader = IndexReader(PieceReader(remote.store, remote.names, cache, threads=remote.threads))
    for run in root.manifest.runs:
        entries: Iterable[IndexEntry]
        if isinstance(run, RunList):
            if run.ref.name in wanted:
                parts = [(page.offset_bytes, page.length_bytes, page.digest) for page in run.pages]
                yield run.ref.name, _maker_of_parts(cache, parts)
            try:
                entries = reader.all_entries(run)
            except (ObjectMissingError, RemoteIntegrityError):
                continue
        else:
            entries = run
        for entry in entries:
            if entry.name in wanted:
                yield entry.name, _maker_of_object(cache, entry)


def _maker_of_parts(cache: PieceCache, parts: list[Part]) -> Callable[[bytes | None], NewBytes]:
    """Returns what makes an object anew that consists of pieces."""

    def make(there: bytes | None) -> NewBytes:
        found = _pieces(cache, there, parts)
        if len(found) < len({digest for _, _, digest in parts}):
            return NewBytes(None, _NOT_HERE if not found else f"{_NOT_HERE}, but for {len(found)} pieces")
        return NewBytes(b"".join(found[digest] for _, _, digest in parts))

    return make


def _maker_of_object(cache: PieceCache, entry: IndexEntry) -> Callable[[bytes | None], NewBytes]:
    """Returns what makes an index object anew."""
    place = entry.directory_offset_bytes, entry.directory_length_bytes, entry.directory_digest

    def make(there: bytes | None) -> NewBytes:
        directory_bytes = _pieces(cache, there, [place]).get(entry.directory_digest)
        if directory_bytes is None:
            return NewBytes(None, _NOT_HERE)
        directory = decode_directory(directory_bytes, entry=entry, name=f"the directory of {entry.name}")
        parts = [(ref.offset_bytes, ref.length_bytes, ref.digest) for ref in directory.blocks]
        blocks = _pieces(cache, there, parts)
        missing = sum(ref.digest not in blocks for ref in directory.blocks)
        if missing:
            return NewBytes(None, f"this machine keeps all but {missing} of its {len(parts)} blocks")
        whole = b"".join(blocks[ref.digest] for ref in directory.blocks)
        return NewBytes(whole + _pack_list(entry, directory, blocks) + directory_bytes)

    return make


def _pack_list(entry: IndexEntry, directory: Directory, blocks: dict[bytes, bytes]) -> bytes:
    """Returns the list of the packs that an object's rows name, made from its blocks."""
    builder = IndexObjectBuilder(entry.name, "")
    for ref in directory.blocks:
        block = decode_block(blocks[ref.digest], expect=ref, name=f"a block of {entry.name}")
        builder.add(block.encoded_as(blocks[ref.digest]))
    start = directory.packs_offset_bytes
    made = builder.finish(None)[0][start : start + directory.packs_length_bytes]
    if digest_of(made) != directory.packs_digest:
        raise RemoteIntegrityError(f"{entry.name}: its list of packs can't be made from its blocks")
    return made


def _pieces(cache: PieceCache, there: bytes | None, parts: Iterable[Part]) -> dict[bytes, bytes]:
    """Returns pieces by digest: from what is there of the object, or kept here."""
    found: dict[bytes, bytes] = {}
    absent: list[bytes] = []
    for offset, length, digest in parts:
        part = b"" if there is None else there[offset : offset + length]
        if digest_of(part) == digest:
            found[digest] = part
        else:
            absent.append(digest)
    return found | dict(cache.get(absent))


__all__ = ["mend_index"]
